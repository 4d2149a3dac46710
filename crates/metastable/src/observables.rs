//! The observables of one trajectory: the same columns for a simulation and for the layers of a checkpoint.

use metastable_dynamics::observe::{CloudShape, ClusterEvent, Clusters, Tracker, close_pairs, single_linkage};
use metastable_dynamics::{DynamicsError, TokensRef};
use serde::Serialize;

/// Columns over the saved times (or layers); `None` where an observable does not exist or overflows.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Series {
    /// The times (or layer numbers).
    pub t: Vec<f64>,
    /// Interaction energy E = (1/(2 beta n²)) Σ_ij e^{S_ij}, summed over heads.
    pub energy: Vec<Option<f64>>,
    /// ln E, which survives where E overflows.
    pub log_energy: Vec<Option<f64>>,
    /// Number of single-linkage clusters at the stated radius.
    pub n_clusters: Vec<Option<f64>>,
    /// Share of tokens in the largest cluster.
    pub max_mass: Vec<Option<f64>>,
    /// Mean cosine over pairs i ≠ j.
    pub mean_cosine: Vec<Option<f64>>,
    /// Smallest cosine over pairs i ≠ j.
    pub min_cosine: Vec<Option<f64>>,
    /// Largest cosine over pairs i ≠ j.
    pub max_cosine: Vec<Option<f64>>,
    /// Largest distance of two tokens.
    pub diameter: Vec<Option<f64>>,
    /// Mean norm of the tokens.
    pub radius_mean: Vec<Option<f64>>,
    /// Share of the leading direction in the uncentred second moment.
    pub anisotropy: Vec<Option<f64>>,
    /// exp of the entropy of the covariance spectrum.
    pub effective_rank: Vec<Option<f64>>,
    /// Vertices of the convex hull (d <= 3).
    pub hull_vertices: Vec<Option<f64>>,
    /// Numerical rank of the attention matrix of the first head (small n only).
    pub attention_rank: Vec<Option<f64>>,
    /// Share of the pairs i ≠ j whose cosine is above `observe.close_cosine`.
    pub close_pairs: Vec<Option<f64>>,
}

impl Series {
    /// The columns in order, by name; the first is `t`.
    pub fn columns(&self) -> Vec<(&'static str, Vec<Option<f64>>)> {
        let t = self.t.iter().map(|t| Some(*t)).collect();
        vec![
            ("t", t),
            ("energy", self.energy.clone()),
            ("log_energy", self.log_energy.clone()),
            ("n_clusters", self.n_clusters.clone()),
            ("max_mass", self.max_mass.clone()),
            ("mean_cosine", self.mean_cosine.clone()),
            ("min_cosine", self.min_cosine.clone()),
            ("max_cosine", self.max_cosine.clone()),
            ("diameter", self.diameter.clone()),
            ("radius_mean", self.radius_mean.clone()),
            ("anisotropy", self.anisotropy.clone()),
            ("effective_rank", self.effective_rank.clone()),
            ("hull_vertices", self.hull_vertices.clone()),
            ("attention_rank", self.attention_rank.clone()),
            ("close_pairs", self.close_pairs.clone()),
        ]
    }
}

/// What attention adds to the shape of a cloud at one time.
#[derive(Debug, Clone, Copy, Default)]
pub struct AttentionObservables {
    /// ln E.
    pub log_energy: Option<f64>,
    /// Numerical rank of the first head's weights.
    pub rank: Option<usize>,
}

/// Persistent cluster labels at every saved time, and what happened to clusters in between.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ClusterHistory {
    /// `[S][n]` persistent labels.
    pub labels: Vec<Vec<u64>>,
    /// Merges, splits and exchanges.
    pub events: Vec<ClusterEvent>,
}

/// The cosine above which pairs count as close, as in the published phase diagrams, unless a config says otherwise.
pub const CLOSE_COSINE: f64 = 0.999;

/// Collects the observables of one trajectory, time after time.
#[derive(Debug)]
pub struct Collector {
    radius: f64,
    close_cosine: f64,
    /// Whether clusters are those of the normalised tokens.
    on_directions: bool,
    tracker: Tracker,
    series: Series,
    labels: Vec<Vec<u64>>,
    last: Option<Clusters>,
}

impl Collector {
    /// Clusters are linked at `radius`.
    pub fn new(radius: f64) -> Self {
        let (tracker, series) = (Tracker::default(), Series::default());
        let (close_cosine, labels) = (CLOSE_COSINE, Vec::new());
        Self { radius, close_cosine, on_directions: false, tracker, series, labels, last: None }
    }

    /// Pairs count as close above this cosine.
    pub fn with_close_cosine(self, close_cosine: f64) -> Self {
        Self { close_cosine, ..self }
    }

    /// Clusters are linked at `radius` between tokens normalised to the unit sphere; all else is of the tokens.
    pub fn on_directions(radius: f64) -> Self {
        Self { on_directions: true, ..Self::new(radius) }
    }

    /// Observes a cloud at time t. O(n² d).
    ///
    /// # Errors
    /// [`DynamicsError::Decomposition`].
    pub fn observe(
        &mut self,
        t: f64,
        tokens: TokensRef<'_>,
        attention: AttentionObservables,
    ) -> Result<(), DynamicsError> {
        let shape = CloudShape::of(tokens)?;
        let clusters = match self.on_directions {
            true => single_linkage(TokensRef::new(tokens.dim(), &directions(tokens)), self.radius),
            false => single_linkage(tokens, self.radius),
        };
        self.tracker.observe(t, &clusters);
        self.labels.push(self.tracker.labels().to_vec());
        let finite = |value: f64| Some(value).filter(|v| v.is_finite());
        let s = &mut self.series;
        s.t.push(t);
        s.energy.push(attention.log_energy.map(f64::exp).and_then(finite));
        s.log_energy.push(attention.log_energy);
        s.n_clusters.push(Some(clusters.count() as f64));
        s.max_mass.push(Some(clusters.max_mass()));
        s.mean_cosine.push(shape.mean_cosine);
        s.min_cosine.push(shape.min_cosine);
        s.max_cosine.push(shape.max_cosine);
        s.diameter.push(finite(shape.diameter));
        s.radius_mean.push(finite(shape.mean_radius));
        s.anisotropy.push(shape.anisotropy);
        s.effective_rank.push(shape.effective_rank);
        s.hull_vertices.push(shape.hull_vertices.map(|v| v as f64));
        s.attention_rank.push(attention.rank.map(|r| r as f64));
        s.close_pairs.push(close_pairs(tokens, self.close_cosine));
        self.last = Some(clusters);
        Ok(())
    }

    /// The columns, the history, and the clusters at the last time (none if nothing was observed).
    pub fn finish(self) -> (Series, ClusterHistory, Option<Clusters>) {
        let history = ClusterHistory { labels: self.labels, events: self.tracker.events().to_vec() };
        (self.series, history, self.last)
    }
}

/// Every token divided by its norm; a zero token stays zero.
pub fn directions(tokens: TokensRef<'_>) -> Vec<f64> {
    let unit = |token: &[f64]| {
        let norm = metastable_dynamics::linalg::norm(token);
        let scale = if norm > 0.0 { norm.recip() } else { 0.0 };
        token.iter().map(|x| scale * x).collect::<Vec<f64>>()
    };
    tokens.iter().flat_map(unit).collect()
}
