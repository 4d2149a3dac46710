//! One training run of adapters on a small problem, by any method, in f64.

use metastable_dynamics::balance::{LowRankPair, Skip};
use metastable_dynamics::{DynamicsError, Matrix, random};
use metastable_model::train::base::MatrixMoments;
use metastable_model::train::{Base, Gradient, Magnitude, PairOptimizer, clip};

use crate::methods::Rival;

/// Which examples a loss is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The batch of this step, counted from 0.
    Batch(u64),
    /// Held out, to choose settings by.
    Validation,
    /// Held out, to report.
    Test,
}

/// A loss of a few matrices, each with a frozen start.
pub(crate) trait Problem {
    /// The frozen matrices W [out, in].
    fn weights(&self) -> &[Matrix];

    /// The loss at other matrices of the same shapes.
    fn loss(&self, weights: &[Matrix], part: Part) -> f64;

    /// The least loss that adapters of rank r on these frozen matrices can reach, where that is known, up to a number that is
    /// the same for all matrices: starts that move the base have another.
    fn floor(&self, _bases: &[Matrix]) -> Result<f64, DynamicsError> {
        Ok(0.0)
    }

    /// The gradients of the loss of a batch with respect to all matrices.
    fn gradients(&self, weights: &[Matrix], batch: u64) -> Vec<Matrix>;
}

/// The numbers of one run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Setting {
    pub(crate) rank: usize,
    /// σ: the scale alpha/r is σ².
    pub(crate) sigma: f64,
    /// The learning rate times σ; times σ² under plain descent, where that makes it independent of σ.
    pub(crate) rate: f64,
    pub(crate) steps: u64,
    pub(crate) base: Base,
    pub(crate) decay: f64,
    /// The norm that all gradients together are clipped to; 0 for none.
    pub(crate) clip: f64,
    pub(crate) seed: u64,
    /// Deviation of a normal start of A at σ = 1 instead of the method's own start, as in the synthetic figure \[code\].
    pub(crate) normal_start: Option<f64>,
}

/// What came out of a run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    /// Losses above what the adapters could reach, see [`Problem::floor`].
    pub(crate) validation: f64,
    pub(crate) test: f64,
    /// The test loss when a run whose steps take [`SLOWER`] times as long would have to end.
    pub(crate) sooner: f64,
    /// The floor of the moved base minus that of the frozen matrices.
    pub(crate) moved_floor: f64,
    /// The largest condition number of a pair at the end, and what it would be after balancing.
    pub(crate) kappa: f64,
    pub(crate) kappa_balanced: f64,
    /// Projections that were due and not made.
    pub(crate) skipped: u64,
    /// The test loss before every step and after the last; empty unless it was asked for.
    pub(crate) curve: Vec<f64>,
}

impl Outcome {
    fn diverged() -> Self {
        let none = f64::INFINITY;
        Self {
            validation: none,
            test: none,
            sooner: none,
            moved_floor: 0.0,
            kappa: none,
            kappa_balanced: none,
            skipped: 0,
            curve: Vec::new(),
        }
    }
}

/// One adapted matrix.
struct Layer {
    base: Matrix,
    scale: f64,
    pair: LowRankPair,
    optimizer: PairOptimizer,
    /// DoRA's m [1, out].
    magnitude: Option<(Matrix, MatrixMoments)>,
}

impl Layer {
    fn start(weight: &Matrix, rival: &Rival, setting: &Setting, index: usize) -> Result<Self, DynamicsError> {
        let r = setting.rank;
        let more = if rival.rslora { (r as f64).sqrt() } else { 1.0 };
        let scale = setting.sigma * setting.sigma * more;
        let start = rival.start.pair(weight, r, scale, setting.seed, index as u64)?;
        let pair = match setting.normal_start {
            Some(deviation) if !start.changes_base => {
                let stream = 1_000_003 * (setting.seed + 1) + index as u64;
                let draws = random::standard_normal(stream, r, weight.columns());
                let a = Matrix::new("a", r, weight.columns(), draws)?.scaled(deviation);
                LowRankPair::new(a, start.pair.b().clone())?
            }
            _ => start.pair,
        };
        let base = if start.changes_base { weight.add_scaled(-scale, &pair.product()) } else { weight.clone() };
        let magnitude = rival.dora.then(|| {
            let lengths = Magnitude::initial(weight);
            let m = Matrix::from_fn(1, lengths.len(), |_, i| lengths[i]);
            let moments = MatrixMoments::zero(&m);
            (m, moments)
        });
        let optimizer = PairOptimizer::new(rival.method, setting.base, &pair, scale);
        Ok(Self { base, scale, pair, optimizer, magnitude })
    }

    /// W0 + s·B A, and the norms of its rows under DoRA.
    fn sum(&self) -> (Matrix, Option<Vec<f64>>) {
        let sum = self.base.add_scaled(self.scale, &self.pair.product());
        let norms = self.magnitude.as_ref().map(|_| {
            let norms = Magnitude::initial(&sum);
            norms.into_iter().map(|norm| norm.max(f64::MIN_POSITIVE)).collect()
        });
        (sum, norms)
    }

    /// W0 + s·B A, with row i of length m_i under DoRA.
    fn effective(&self) -> Matrix {
        let (sum, norms) = self.sum();
        match (&self.magnitude, norms) {
            (Some((m, _)), Some(norms)) => {
                Matrix::from_fn(sum.rows(), sum.columns(), |i, j| m.at(0, i) / norms[i] * sum.at(i, j))
            }
            _ => sum,
        }
    }

    /// The gradients of the factors, and of m under DoRA, whose norms count as constants.
    fn chain(&self, g: &Matrix) -> (Gradient, Option<Matrix>) {
        let (of_m, g) = match (&self.magnitude, self.sum()) {
            (Some((m, _)), (sum, Some(norms))) => {
                let along = |i: usize| sum.row(i).iter().zip(g.row(i)).map(|(w, g)| w * g).sum::<f64>();
                let of_m = Matrix::from_fn(1, g.rows(), |_, i| along(i) / norms[i]);
                (Some(of_m), Matrix::from_fn(g.rows(), g.columns(), |i, j| m.at(0, i) / norms[i] * g.at(i, j)))
            }
            _ => (None, g.clone()),
        };
        let a = self.pair.b().transpose().multiply(&g).scaled(self.scale);
        let b = g.multiply(&self.pair.a().transpose()).scaled(self.scale);
        (Gradient { a, b }, of_m)
    }
}

fn weights(layers: &[Layer]) -> Vec<Matrix> {
    layers.iter().map(Layer::effective).collect()
}

/// Trains; a run that leaves the finite numbers has infinite losses.
///
/// # Errors
/// [`DynamicsError::Domain`] if the rank is larger than a side.
pub(crate) fn train(
    problem: &dyn Problem,
    rival: &Rival,
    setting: &Setting,
    keeps_curve: bool,
) -> Result<Outcome, DynamicsError> {
    match attempt(problem, rival, setting, keeps_curve) {
        Ok(Some(outcome)) => Ok(outcome),
        Ok(None) | Err(DynamicsError::NotFinite { .. } | DynamicsError::Decomposition { .. }) => {
            Ok(Outcome::diverged())
        }
        Err(other) => Err(other),
    }
}

/// What a projection may add to a step on a real model (R6): equal seconds are so many fewer steps.
const SLOWER: f64 = 1.05;

/// Parameters beyond this are a divergence; starts are of the order 1 to 100.
const TOO_LARGE: f64 = 1e16;

fn attempt(
    problem: &dyn Problem,
    rival: &Rival,
    setting: &Setting,
    keeps_curve: bool,
) -> Result<Option<Outcome>, DynamicsError> {
    let start = |(index, weight): (usize, &Matrix)| Layer::start(weight, rival, setting, index);
    let mut layers = problem.weights().iter().enumerate().map(start).collect::<Result<Vec<_>, _>>()?;
    let moved_floor = moved_floor(problem, &layers)?;
    let (mut skipped, mut curve, mut sooner) = (0, Vec::new(), f64::INFINITY);
    for step in 0..setting.steps {
        let now = weights(&layers);
        // The last whole step that fits.
        if step == (setting.steps as f64 / SLOWER) as u64 {
            sooner = problem.loss(&now, Part::Test) - moved_floor;
        }
        if keeps_curve {
            curve.push(problem.loss(&now, Part::Test));
        }
        let gradients = problem.gradients(&now, step);
        let chained: Vec<_> = layers.iter().zip(&gradients).map(|(layer, g)| layer.chain(g)).collect();
        let square = |(gradient, of_m): &(Gradient, Option<Matrix>)| {
            gradient.squared_norm() + of_m.as_ref().map_or(0.0, |m| m.frobenius_norm().powi(2))
        };
        let factor = clip(chained.iter().map(square).sum::<f64>().sqrt(), setting.clip);
        for (index, (layer, (gradient, of_m))) in layers.iter_mut().zip(chained).enumerate() {
            let gradient = Gradient { a: gradient.a.scaled(factor), b: gradient.b.scaled(factor) };
            let rate = setting.rate / if setting.base == Base::Sgd { setting.sigma.powi(2) } else { setting.sigma };
            let stepped = layer.optimizer.step(&layer.pair, &gradient, rate, setting.decay)?;
            skipped += u64::from(matches!(stepped.skipped, Some(Skip::RankDeficient { .. } | Skip::ZeroFactor)));
            layer.pair = if rival.flips { flipped(stepped.pair, setting.seed, step, index)? } else { stepped.pair };
            if let (Some((m, moments)), Some(of_m)) = (&mut layer.magnitude, of_m) {
                *m = setting.base.step_matrix(m, &of_m.scaled(factor), rate, setting.decay, moments);
            }
            if layer.pair.squared_norm() >= TOO_LARGE {
                return Ok(None);
            }
        }
    }
    let last = weights(&layers);
    if keeps_curve {
        curve.push(problem.loss(&last, Part::Test));
    }
    let loss = |part| problem.loss(&last, part) - moved_floor;
    let (validation, test) = (loss(Part::Validation), loss(Part::Test));
    if !(validation.is_finite() && test.is_finite()) {
        return Ok(None);
    }
    let (mut kappa, mut kappa_balanced) = (0.0_f64, 0.0_f64);
    for layer in &layers {
        let condition = layer.pair.condition()?;
        kappa = kappa.max(condition.kappa);
        kappa_balanced = kappa_balanced.max(condition.balanced);
    }
    Ok(Some(Outcome { validation, test, sooner, moved_floor, kappa, kappa_balanced, skipped, curve }))
}

/// How much lower or higher a loss the moved bases allow.
fn moved_floor(problem: &dyn Problem, layers: &[Layer]) -> Result<f64, DynamicsError> {
    let bases: Vec<Matrix> = layers.iter().map(|layer| layer.base.clone()).collect();
    if bases == problem.weights() {
        return Ok(0.0);
    }
    Ok(problem.floor(&bases)? - problem.floor(problem.weights())?)
}

/// Each singular pair keeps or changes its sign with equal chances.
fn flipped(pair: LowRankPair, seed: u64, step: u64, index: usize) -> Result<LowRankPair, DynamicsError> {
    let r = pair.rank();
    let draws = random::uniforms(seed ^ 0x666c_6970, step * 1000 + index as u64, r);
    let sign = |k: usize| if draws[k] < 0.5 { -1.0 } else { 1.0 };
    let a = Matrix::from_fn(r, pair.a().columns(), |k, j| sign(k) * pair.a().at(k, j));
    LowRankPair::new(a, Matrix::from_fn(pair.b().rows(), r, |i, k| sign(k) * pair.b().at(i, k)))
}
