//! The slow-time cascade: when a small symmetric change of V makes the clusters of V = c I leave and merge.
//!
//! Setting (\[derived\], exact in the limit eps -> 0; confirmed content of the paper \[text\]: tokens first follow the
//! original clusters, then leave for other ones). The rescaled flow z_i' = sum_j P_ij V_eps (z_j - z_i) with
//! V_eps = c I + eps M, M symmetric, and logits (e^{t V_eps} z_i)ᵀ G (e^{t V_eps} z_j), G = Qᵀ K = Aᵀ A. Since c I
//! commutes with M, the logits are e^{2 c t} z_iᵀ D_s z_j with the slow time s = eps t and D_s = e^{s M} G e^{s M}:
//! c only enters through the common factor e^{2 c t}, which turns the softmax into an arg-max, and through the rate
//! at which tokens approach their leader. The schedule in slow time depends on neither c nor eps.
//!
//! After the fast stage (t = O(1)) tokens sit at self-dominant points v, vᵀ D_0 v = max_w vᵀ D_0 w. Cluster v_i stays
//! while f_ij(s) = v_iᵀ D_s (v_j - v_i) < 0 for every other occupied v_j. When some f_ij becomes positive it goes to
//! v_j along a straight segment (v_j stays the arg-max on the way, because it is at both ends and the logits are linear
//! in z), which takes no slow time. The cascade ends when nobody leaves any more.

use super::clusters::Clusters;
use super::exponential_sum::ExponentialSum;
use crate::error::DynamicsError;
use crate::linalg::{Matrix, dot, squared_distance};
use serde::{Deserialize, Serialize};

/// What a cascade is computed from.
#[derive(Debug, Clone, Copy)]
pub struct CascadeSetting<'a> {
    /// The clusters of the base flow V = c I at its end, in rescaled coordinates.
    pub clusters: &'a Clusters,
    /// G = Qᵀ K, [d, d], symmetric positive semidefinite; a positive factor (beta) changes nothing.
    pub logits: &'a Matrix,
    /// c > 0.
    pub base_value: f64,
    /// M, [d, d], symmetric; the update is eps·M.
    pub direction: &'a Matrix,
    /// eps > 0, with c + eps·lambda_min(M) > 0, so that tokens still approach their leader.
    pub epsilon: f64,
}

/// One cluster leaves for another.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Release {
    /// s.
    pub slow_time: f64,
    /// t = s / eps, up to O(1) as eps -> 0.
    pub time: f64,
    /// The cluster that leaves.
    pub from: usize,
    /// The cluster it joins.
    pub into: usize,
    /// |v_from - v_into|.
    pub distance: f64,
}

/// The predicted schedule.
#[derive(Debug, Clone)]
pub struct Cascade {
    centers: Vec<Vec<f64>>,
    releases: Vec<Release>,
    base_value: f64,
    /// Eigenvalues of V_eps, and eigenvectors as rows.
    rates: Vec<f64>,
    modes: Matrix,
}

impl Cascade {
    /// Predicts all releases. O(k² (d³ + root searches)) for k clusters; there are at most k - 1 releases.
    ///
    /// A cluster that is not self-dominant at s = 0 is released at s = 0, to its arg-max. Releases at the same slow time
    /// are taken in the order of cluster numbers. A touch f_ij = 0 without change of sign releases nobody.
    /// Clusters that are no vertices (say the foot of the perpendicular from 0 on a face) are taken as they are, though
    /// their leaders are the vertices of the face.
    ///
    /// # Errors
    /// [`DynamicsError::Shape`] for matrices that do not fit the centres; [`DynamicsError::NotSymmetric`] for `logits`
    /// or `direction`; [`DynamicsError::Domain`] for logits with a negative eigenvalue (beyond -1e-12 of the largest),
    /// `base_value` or `epsilon` out of range; [`DynamicsError::NotFinite`] for centres; [`DynamicsError::Decomposition`].
    ///
    /// # Example
    /// ```
    /// use metastable_dynamics::{Matrix, Tokens, observe::{cascade::{Cascade, CascadeSetting}, clusters::single_linkage}};
    /// let tokens = Tokens::from_rows(&[[1.0, 3.0], [2.0, -1.0]]).unwrap();
    /// let setting = CascadeSetting {
    ///     clusters: &single_linkage(tokens.view(), 0.1),
    ///     logits: &Matrix::scaled_identity(2, 1.0),
    ///     base_value: 1.0,
    ///     direction: &Matrix::from_rows("M", &[[0.0, 0.0], [0.0, -1.0]]).unwrap(),
    ///     epsilon: 0.01,
    /// };
    /// let cascade = Cascade::predict(&setting).unwrap();
    /// // f(s) = 1·(2 - 1) + e^{-2s}·3·(-1 - 3) vanishes at s = ln(12)/2.
    /// assert!((cascade.releases()[0].slow_time - 12.0_f64.ln() / 2.0).abs() < 1e-14);
    /// assert_eq!(cascade.survivors(), [1]);
    /// ```
    ///
    /// # References
    /// H. Koubbi, M. Boussard and L. Hernandez, arXiv 2402.15415v1, Theorem 1 [statement unseen; this is our
    /// replacement, \[derived\]].
    pub fn predict(setting: &CascadeSetting<'_>) -> Result<Self, DynamicsError> {
        let (eigenvalues, modes) = validate(setting)?;
        let centers = setting.clusters.centers.clone();
        let releases = schedule(setting, &eigenvalues, &modes);
        let rates: Vec<f64> = eigenvalues.iter().map(|m| setting.base_value + setting.epsilon * m).collect();
        if let Some(slowest) = rates.iter().find(|rate| **rate <= 0.0) {
            return Err(DynamicsError::domain("value + update", "positive eigenvalues", slowest));
        }
        Ok(Self { centers, releases, base_value: setting.base_value, rates, modes })
    }

    /// The releases, in order of time.
    pub fn releases(&self) -> &[Release] {
        &self.releases
    }

    /// The clusters that nobody makes leave, ascending.
    pub fn survivors(&self) -> Vec<usize> {
        (0..self.centers.len()).filter(|c| self.releases.iter().all(|r| r.from != *c)).collect()
    }

    /// The survivor that each cluster ends in, \[k\].
    pub fn destinations(&self) -> Vec<usize> {
        let follow = |c: usize| self.releases.iter().fold(c, |at, r| if r.from == at { r.into } else { at });
        (0..self.centers.len()).map(follow).collect()
    }

    /// When a release has come within `radius` of its new cluster: t + ln(|v_i - v_j| / radius) / c, not before t.
    pub fn merge_time(&self, release: &Release, radius: f64) -> f64 {
        release.time + (release.distance / radius).ln().max(0.0) / self.base_value
    }

    /// Where the tokens of `cluster` are at time t of the limit: at rest, or on z(t) = v_j + e^{-(t - t_i) V_eps} (z_i - v_j)
    /// after the release of their current leader towards v_j. O(releases·d²).
    ///
    /// # Panics
    /// If there is no such cluster.
    pub fn position(&self, cluster: usize, t: f64) -> Vec<f64> {
        let mut place = self.centers[cluster].clone();
        let (mut leader, mut since) = (cluster, 0.0);
        for release in self.releases.iter().take_while(|r| r.time <= t) {
            if release.from == leader {
                place = self.approach(&place, leader, release.time - since);
                (leader, since) = (release.into, release.time);
            }
        }
        self.approach(&place, leader, t - since)
    }

    /// v + e^{-duration V_eps} (place - v) for the leader's centre v.
    fn approach(&self, place: &[f64], leader: usize, duration: f64) -> Vec<f64> {
        let target = &self.centers[leader];
        let offset: Vec<f64> = place.iter().zip(target).map(|(a, b)| a - b).collect();
        let mut result = target.clone();
        for (k, rate) in self.rates.iter().enumerate() {
            let mode = self.modes.row(k);
            let amount = dot(mode, &offset) * (-rate * duration).exp();
            result.iter_mut().zip(mode).for_each(|(r, m)| *r += amount * m);
        }
        result
    }
}

/// Asymmetry and negative eigenvalues up to this share of the largest entry are rounding.
const ROUNDING: f64 = 1e-12;

/// Checks everything but the rates; returns the eigenvalues of M and its eigenvectors as rows.
fn validate(setting: &CascadeSetting<'_>) -> Result<(Vec<f64>, Matrix), DynamicsError> {
    let CascadeSetting { clusters, logits, base_value, direction, epsilon } = *setting;
    let d = clusters.centers.first().map_or(0, Vec::len);
    for (name, matrix) in [("logits", logits), ("direction", direction)] {
        if (matrix.rows(), matrix.columns()) != (d, d) {
            return Err(DynamicsError::shape(name, format!("[{d}, {d}]"), matrix.shape()));
        }
        let asymmetry = matrix.asymmetry();
        if asymmetry > ROUNDING * matrix.max_abs() {
            return Err(DynamicsError::NotSymmetric { name: name.into(), asymmetry });
        }
    }
    clusters.centers.iter().try_for_each(|c| crate::error::require_finite("cluster center", c))?;
    for (name, value) in [("base value", base_value), ("epsilon", epsilon)] {
        if !(value > 0.0 && value.is_finite()) {
            return Err(DynamicsError::domain(name, "a positive number", value));
        }
    }
    let (spectrum, _) = logits.symmetric_eigen()?;
    if spectrum[0] < -ROUNDING * logits.max_abs() {
        return Err(DynamicsError::domain("logits", "no negative eigenvalue", spectrum[0]));
    }
    let (eigenvalues, vectors) = direction.symmetric_eigen()?;
    Ok((eigenvalues, vectors.transpose()))
}

/// f_ij and where it changes sign.
struct Margin {
    sum: ExponentialSum,
    changes: Vec<f64>,
}

fn schedule(setting: &CascadeSetting<'_>, eigenvalues: &[f64], modes: &Matrix) -> Vec<Release> {
    let centers = &setting.clusters.centers;
    let margins = margins(centers, setting.logits, eigenvalues, modes);
    let count = centers.len();
    let mut occupied: Vec<usize> = (0..count).collect();
    let (mut now, mut releases) = (0.0, Vec::new());
    loop {
        let mut next: Option<(f64, usize)> = None;
        for &i in &occupied {
            for &j in occupied.iter().filter(|&&j| j != i) {
                let Margin { sum, changes } = &margins[i * count + j];
                if let Some(s) = sum.first_positive(now, changes)
                    && next.is_none_or(|(earliest, _)| s < earliest)
                {
                    next = Some((s, i));
                }
            }
        }
        let Some((s, from)) = next else { return releases };
        let leaving = |j: &usize| {
            let Margin { sum, changes } = &margins[from * count + j];
            sum.first_positive(now, changes).is_some_and(|first| first <= s)
        };
        let candidates = occupied.iter().copied().filter(|&j| j != from).filter(leaving);
        let Some(into) = arg_max(candidates, |j| logit_change(setting, eigenvalues, modes, s, (from, j))) else {
            return releases;
        };
        occupied.retain(|&c| c != from);
        let distance = squared_distance(&centers[from], &centers[into]).sqrt();
        releases.push(Release { slow_time: s, time: s / setting.epsilon, from, into, distance });
        now = s;
    }
}

fn arg_max(candidates: impl Iterator<Item = usize>, value: impl Fn(usize) -> f64) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for candidate in candidates {
        let value = value(candidate);
        if best.is_none_or(|(_, largest)| value > largest) {
            best = Some((candidate, value));
        }
    }
    best.map(|(candidate, _)| candidate)
}

/// Terms (rate, coefficient) of f_ij: with G' = modes G modesᵀ, a = modes v_i, b = modes (v_j - v_i), they are
/// a_k G'_kl b_l at the rate m_k + m_l.
fn terms(gram: &Matrix, eigenvalues: &[f64], a: &[f64], b: &[f64]) -> Vec<(f64, f64)> {
    let d = a.len();
    let term = |k: usize, l: usize| (eigenvalues[k] + eigenvalues[l], a[k] * gram.at(k, l) * b[l]);
    (0..d).flat_map(|k| (0..d).map(move |l| (k, l))).map(|(k, l)| term(k, l)).collect()
}

/// The coordinates of every centre in the eigenbasis of M, and G in it.
fn in_modes(centers: &[Vec<f64>], logits: &Matrix, modes: &Matrix) -> (Vec<Vec<f64>>, Matrix) {
    let turn = |v: &Vec<f64>| (0..v.len()).map(|k| dot(modes.row(k), v)).collect();
    (centers.iter().map(turn).collect(), modes.multiply(logits).multiply(&modes.transpose()))
}

fn margins(centers: &[Vec<f64>], logits: &Matrix, eigenvalues: &[f64], modes: &Matrix) -> Vec<Margin> {
    let (turned, gram) = in_modes(centers, logits, modes);
    let mut margins = Vec::with_capacity(centers.len() * centers.len());
    for from in &turned {
        for into in &turned {
            let offset: Vec<f64> = into.iter().zip(from).map(|(a, b)| a - b).collect();
            let sum = ExponentialSum::new(terms(&gram, eigenvalues, from, &offset));
            let changes = sum.sign_changes();
            margins.push(Margin { sum, changes });
        }
    }
    margins
}

/// f_ij(s) e^{-2 m_max s}: comparable between different j.
fn logit_change(
    setting: &CascadeSetting<'_>,
    eigenvalues: &[f64],
    modes: &Matrix,
    s: f64,
    (i, j): (usize, usize),
) -> f64 {
    let centers = [setting.clusters.centers[i].clone(), setting.clusters.centers[j].clone()];
    let (turned, gram) = in_modes(&centers, setting.logits, modes);
    let offset: Vec<f64> = turned[1].iter().zip(&turned[0]).map(|(a, b)| a - b).collect();
    let fastest = 2.0 * eigenvalues.last().copied().unwrap_or(0.0);
    terms(&gram, eigenvalues, &turned[0], &offset).iter().map(|(rate, c)| c * ((rate - fastest) * s).exp()).sum()
}

/// The release time of a cluster at v by one at w for A = I and the rank-one update -eps u uᵀ, |u| = 1.
///
/// With v_u = <v, u>, and p = <v, w - v> - v_u (w_u - v_u) the part across u:
/// t = ln(v_u (v_u - w_u) / p) / (2 eps). `None` unless p > 0 > v_u (w_u - v_u) and the ratio exceeds 1: otherwise v is
/// never released by w, or does not hold in the first place. In the plane with u = e_2 this is
/// ln(v_2 (v_2 - w_2) / (v_1 (w_1 - v_1))) / (2 eps) (\[derived\], checked against the authors' experiment).
pub fn rank_one_release_time(v: &[f64], w: &[f64], u: &[f64], epsilon: f64) -> Option<f64> {
    let (along_v, along_w) = (dot(v, u), dot(w, u));
    let across = |x: &[f64], along: f64| -> Vec<f64> { x.iter().zip(u).map(|(x, u)| x - along * u).collect() };
    let (across_v, across_w) = (across(v, along_v), across(w, along_w));
    let gain = dot(&across_v, &across_w) - dot(&across_v, &across_v);
    let hold = along_v * (along_v - along_w);
    (gain > 0.0 && hold > gain).then(|| (hold / gain).ln() / (2.0 * epsilon))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::observe::clusters::single_linkage;
    use crate::random;
    use crate::tokens::{Tokens, TokensRef};

    fn clusters(centers: &[[f64; 2]]) -> Clusters {
        single_linkage(Tokens::from_rows(centers).unwrap().view(), 1e-6)
    }

    fn shrinks_second() -> Matrix {
        Matrix::from_rows("M", &[[0.0, 0.0], [0.0, -1.0]]).unwrap()
    }

    fn predict(clusters: &Clusters, direction: &Matrix, epsilon: f64) -> Cascade {
        let d = direction.rows();
        let logits = Matrix::scaled_identity(d, 1.0);
        Cascade::predict(&CascadeSetting { clusters, logits: &logits, base_value: 1.0, direction, epsilon }).unwrap()
    }

    /// Clusters and C of the seed-42 experiment: RK4, dt = 0.01,
    /// made by the dossier's numpy script (`seed42_rk4_dt0.01`), and by explicit Euler, dt = 0.1
    /// (`seed42_euler_dt0.1`, the authors' discretisation).
    #[test]
    fn the_authors_experiment_leaves_at_its_closed_form() {
        let cases = [
            (
                [[-0.7366202224935509, 0.7091691679446823], [-0.325938749565582, -0.38627217461450686]],
                0.5754637311261647,
            ),
            (
                [[-0.7087083020382267, 0.6766706489982803], [-0.30417261545382906, -0.3522184205097708]],
                0.54007555551042,
            ),
        ];
        for (centers, constant) in cases {
            let cascade = predict(&clusters(&centers), &shrinks_second(), 0.01);
            let release = cascade.releases()[0];
            // The slope of f at its root is of the size of f's terms, so the root is as exact as they are.
            assert!((release.slow_time - constant).abs() < 1e-14, "{release:?}");
            assert_eq!((release.from, release.into, cascade.survivors()), (1, 0, vec![0]));
            let closed = rank_one_release_time(&centers[1], &centers[0], &[0.0, 1.0], 0.01).unwrap();
            assert!((closed - constant / 0.01).abs() < 1e-12);
            assert_eq!(rank_one_release_time(&centers[0], &centers[1], &[0.0, 1.0], 0.01), None);
        }
    }

    /// The five clusters of 40 tokens uniform in [-5, 5]² (numpy default_rng(7)) under V = I at t = 25: RK4, dt = 0.01,
    /// numpy 2, the dossier's cascade script, printed with repr.
    const FIVE: [[f64; 2]; 5] = [
        [4.461715693543565, 4.0122335604335095],
        [4.676429058934264, -2.8507586239328053],
        [-4.946627950307809, 3.2124174612845624],
        [-4.882022758746717, -3.0759350119039177],
        [-1.3065335125227464, -4.959445569897207],
    ];

    #[test]
    fn five_clusters_leave_on_the_published_schedule() {
        let cascade = predict(&clusters(&FIVE), &shrinks_second(), 0.02);
        let releases = cascade.releases();
        // Slow times to the four digits the script prints, ODE merge times at eps = 0.02 and radius 0.15 as the dossier
        // states its prediction (one digit).
        let expected = [(0.3465, 4, 3, 20.6), (1.6792, 0, 1, 87.8), (2.0581, 3, 2, 106.6)];
        assert_eq!(releases.len(), 3);
        for (release, (slow_time, from, into, merge)) in releases.iter().zip(expected) {
            assert!((release.slow_time - slow_time).abs() < 5e-5, "{release:?}");
            assert_eq!((release.from, release.into), (from, into));
            assert!((cascade.merge_time(release, 0.15) - merge).abs() < 0.05, "{release:?}");
        }
        assert_eq!(cascade.survivors(), [1, 2]);
        assert_eq!(cascade.destinations(), [1, 1, 2, 2, 2]);
    }

    #[test]
    fn tokens_rest_then_ride_the_segment_and_follow_their_leader() {
        let cascade = predict(&clusters(&FIVE), &shrinks_second(), 0.02);
        let close = |a: &[f64], b: &[f64]| squared_distance(a, b).sqrt() < 1e-9;
        let first = cascade.releases()[0];
        assert!(close(&cascade.position(4, first.time), &FIVE[4]));
        assert!(close(&cascade.position(4, first.time + 40.0), &FIVE[3]));
        assert!(close(&cascade.position(4, cascade.releases()[2].time + 40.0), &FIVE[2]));
        let half = cascade.position(4, first.time + 2.0_f64.ln());
        // The first coordinate decays at rate 1, the second at 1 - eps.
        assert!((half[0] - (FIVE[3][0] + (FIVE[4][0] - FIVE[3][0]) / 2.0)).abs() < 1e-12);
        assert!((half[1] - (FIVE[3][1] + (FIVE[4][1] - FIVE[3][1]) * 2.0_f64.powf(-0.98))).abs() < 1e-12);
    }

    proptest! {
        #[test]
        fn a_cascade_turns_with_the_coordinates(seed in 0_u64..200, d in 2_usize..4, k in 2_usize..6) {
            let centers = random::standard_normal(seed, k, d);
            let half = Matrix::new("h", d, d, random::standard_normal(seed + 1, d, d)).unwrap();
            let direction = half.add_scaled(1.0, &half.transpose());
            let generator = half.add_scaled(-1.0, &half.transpose());
            let turn = generator.exp().unwrap();
            let mut turned = vec![0.0; k * d];
            for (x, y) in centers.chunks(d).zip(turned.chunks_mut(d)) {
                turn.apply(x, y);
            }
            let turned_direction = turn.multiply(&direction).multiply(&turn.transpose());
            let turned_direction = turned_direction.add_scaled(1.0, &turned_direction.transpose()).scaled(0.5);
            let here = predict(&single_linkage(TokensRef::new(d, &centers), 1e-6), &direction, 0.01);
            let there = predict(&single_linkage(TokensRef::new(d, &turned), 1e-6), &turned_direction, 0.01);
            prop_assert_eq!(here.releases().len(), there.releases().len());
            for (a, b) in here.releases().iter().zip(there.releases()) {
                prop_assert_eq!((a.from, a.into), (b.from, b.into));
                // Rotations round at 1e-15 relative; roots of random forms may be ill-conditioned by up to 1e4.
                prop_assert!((a.slow_time - b.slow_time).abs() < 1e-9 * (1.0 + a.slow_time), "{:?} {:?}", a, b);
            }
        }

        #[test]
        fn survivors_are_dominant_for_ever_and_the_released_were_not(seed in 0_u64..200, k in 2_usize..7) {
            let centers = random::standard_normal(seed, k, 3);
            let diagonal = random::uniform(seed + 5, 3, 1, -1.0, 1.0);
            let direction = Matrix::from_fn(3, 3, |i, j| if i == j { diagonal[i] } else { 0.0 });
            let clusters = single_linkage(TokensRef::new(3, &centers), 1e-6);
            let cascade = predict(&clusters, &direction, 0.01);
            let margin = |i: usize, j: usize, s: f64| -> f64 {
                let (v, w) = (&clusters.centers[i], &clusters.centers[j]);
                (0..3).map(|k| v[k] * (2.0 * s * diagonal[k]).exp() * (w[k] - v[k])).sum()
            };
            let survivors = cascade.survivors();
            let end = cascade.releases().last().map_or(0.0, |r| r.slow_time);
            for &i in &survivors {
                for &j in survivors.iter().filter(|&&j| j != i) {
                    prop_assert!((1..40).all(|step| margin(i, j, end + 0.25 * f64::from(step)) <= 0.0));
                }
            }
            for release in cascade.releases() {
                // Random centres need not be self-dominant: those leave at once. The others leave by a change of sign.
                let at = |s: f64| margin(release.from, release.into, s);
                prop_assert!(at(release.slow_time + 1e-6) > 0.0, "{:?}", release);
                prop_assert!(release.slow_time == 0.0 || at(release.slow_time - 1e-6) < 0.0, "{:?}", release);
            }
        }
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let clusters = clusters(&FIVE);
        let (identity, direction) = (Matrix::scaled_identity(2, 1.0), shrinks_second());
        let skew = Matrix::from_rows("skew", &[[1.0, 0.5], [-0.5, 1.0]]).unwrap();
        let setting = CascadeSetting {
            clusters: &clusters,
            logits: &identity,
            base_value: 1.0,
            direction: &direction,
            epsilon: 0.1,
        };
        let error = |setting: CascadeSetting<'_>| Cascade::predict(&setting).unwrap_err();
        assert!(matches!(error(CascadeSetting { logits: &skew, ..setting }), DynamicsError::NotSymmetric { .. }));
        assert!(matches!(error(CascadeSetting { direction: &skew, ..setting }), DynamicsError::NotSymmetric { .. }));
        assert!(matches!(error(CascadeSetting { logits: &direction, ..setting }), DynamicsError::Domain { .. }));
        assert!(matches!(error(CascadeSetting { epsilon: 1.5, ..setting }), DynamicsError::Domain { .. }));
        assert!(matches!(error(CascadeSetting { base_value: 0.0, ..setting }), DynamicsError::Domain { .. }));
        let wide = Matrix::scaled_identity(3, 1.0);
        assert!(matches!(error(CascadeSetting { logits: &wide, ..setting }), DynamicsError::Shape { .. }));
    }
}
