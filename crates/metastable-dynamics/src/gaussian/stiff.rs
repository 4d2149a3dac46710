//! Implicit steps of the factor, for flows whose fast modes have died but still limit explicit steps.

use nalgebra::{DMatrix, DVector};

use crate::error::DynamicsError;
use crate::field::{GaussianFlow, VectorField};
use crate::linalg::{Matrix, norm};
use crate::measure::Gaussian;

/// The factor of a flow followed by RODAS, a Rosenbrock method of order 4(3) that is L-stable and stiffly accurate:
/// every stage solves with I/(γh) - J, J the exact Jacobian of L ↦ B L.
///
/// Where covariances grow along a direction u, all others relax at a rate proportional to λ = uᵀΣu: explicit steps are
/// limited to a few 1/λ although nothing moves that fast. Here a step is as long as accuracy allows.
/// Columns whose singular value has fallen below 1e-13 of the largest carry nothing but rounding and are dropped: the
/// face of the cone of covariances that remains is invariant (rank is constant).
///
/// O((d r)³) a step, so this is for small dimensions. The mean stays where it is: no kernel with a Jacobian here lets it
/// act on the covariance.
///
/// # References
/// Hairer, Wanner (1996), Solving Ordinary Differential Equations II, section IV.7 and `rodas.f` \[code\]; the order is
/// checked in the tests.
pub(super) struct Implicit<'f> {
    flow: &'f GaussianFlow,
    mean: Vec<f64>,
    factor: Vec<f64>,
    rank: usize,
    t: f64,
    step: f64,
    rtol: f64,
    evaluations: u64,
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stepped {
    /// It was accepted.
    Accepted,
    /// It was too long; the next try is shorter.
    Rejected,
    /// Time no longer moves.
    Underflow,
}

impl<'f> Implicit<'f> {
    /// Unknowns beyond which the linear systems cost more than explicit steps.
    const MOST_UNKNOWNS: usize = 400;

    /// Whether the linear systems of a flow are small enough.
    pub(super) fn is_affordable(flow: &GaussianFlow) -> bool {
        flow.len() - flow.dim() <= Self::MOST_UNKNOWNS
    }

    /// From a state of the flow (mean, factor) at time `t`, to begin with steps of `step`; none where the flow has no
    /// Jacobian or is too large.
    pub(super) fn new(flow: &'f GaussianFlow, moments: &[f64], t: f64, step: f64, rtol: f64) -> Option<Self> {
        let (mean, factor) = moments.split_at(flow.dim());
        let rank = factor.len() / flow.dim();
        if flow.noise() > 0.0 || !Self::is_affordable(flow) {
            return None;
        }
        flow.factor_jacobian(factor, rank)?;
        let (mean, factor) = (mean.to_vec(), factor.to_vec());
        Some(Self { flow, mean, factor, rank, t, step, rtol, evaluations: 0 })
    }

    /// As [`Implicit::new`], if a step this long is accurate at once.
    pub(super) fn if_longer(flow: &'f GaussianFlow, moments: &[f64], t: f64, step: f64, rtol: f64) -> Option<Self> {
        let mut implicit = Self::new(flow, moments, t, step, rtol)?;
        let (error, _) = implicit.attempt()?;
        (error <= 1.0).then_some(implicit)
    }

    pub(super) fn rtol(&self) -> f64 {
        self.rtol
    }

    pub(super) fn time(&self) -> f64 {
        self.t
    }

    pub(super) fn evaluations(&self) -> u64 {
        self.evaluations
    }

    /// tr Σ.
    pub(super) fn trace(&self) -> f64 {
        self.factor.iter().map(|entry| entry * entry).sum()
    }

    /// |Σ'| / |Σ| in the Frobenius norm.
    pub(super) fn unrest(&mut self) -> f64 {
        let Some(slope) = self.velocity(&self.factor.clone()) else { return f64::NAN };
        let of = |entries: Vec<f64>| Matrix::from_fn(self.flow.dim(), self.rank, |i, a| entries[i * self.rank + a]);
        let (factor, slope) = (of(self.factor.clone()), of(slope));
        let half = slope.multiply(&factor.transpose());
        let size = factor.multiply(&factor.transpose()).frobenius_norm();
        half.add_scaled(1.0, &half.transpose()).frobenius_norm() / size
    }

    /// The Gaussian here.
    ///
    /// # Errors
    /// Those of [`Gaussian::from_factor`].
    pub(super) fn gaussian(&self) -> Result<Gaussian, DynamicsError> {
        let factor = Matrix::new("factor", self.flow.dim(), self.rank, self.factor.clone())?;
        Gaussian::from_factor(self.mean.clone(), factor)
    }

    /// One try.
    pub(super) fn advance(&mut self) -> Stepped {
        let error = self.attempt();
        let scale = |factor: f64, most: f64| factor.clamp(0.1, most);
        match error {
            Some((error, factor)) if error <= 1.0 => {
                self.t += self.step;
                self.factor = factor;
                self.drop_lost_columns();
                self.step *= scale(0.9 * error.max(1e-9).powf(-0.25), 6.0);
                Stepped::Accepted
            }
            other => {
                self.step *= other.map_or(0.1, |(error, _)| scale(0.9 * error.powf(-0.25), 1.0));
                let shortest = 16.0 * f64::EPSILON * self.t;
                if self.step.is_finite() && self.step > shortest { Stepped::Rejected } else { Stepped::Underflow }
            }
        }
    }

    /// The error of a step in units of the tolerance, and the factor after it.
    fn attempt(&mut self) -> Option<(f64, Vec<f64>)> {
        let n = self.factor.len();
        let jacobian = self.flow.factor_jacobian(&self.factor, self.rank)?;
        let diagonal = 1.0 / (GAMMA * self.step);
        let system = DMatrix::from_fn(n, n, |i, j| if i == j { diagonal } else { 0.0 } - jacobian[i * n + j]).lu();
        let mut stages: Vec<DVector<f64>> = Vec::with_capacity(STAGES);
        for (inner, coupling) in INNER.iter().zip(COUPLING) {
            let slope = self.velocity(&combined(&self.factor, &stages, inner))?;
            let coupled = combined(&vec![0.0; n], &stages, coupling);
            let right = DVector::from_fn(n, |i, _| slope[i] + coupled[i] / self.step);
            stages.push(system.solve(&right)?);
        }
        // Stiffly accurate: the last stage is the error, and what it adds makes the step.
        let last = &stages[STAGES - 1];
        let factor: Vec<f64> = combined(&self.factor, &stages, &FINAL);
        let size = norm(&self.factor).max(norm(&factor));
        let error = last.norm() / (self.rtol * size);
        (error.is_finite() && factor.iter().all(|entry| entry.is_finite())).then_some((error, factor))
    }

    fn velocity(&mut self, factor: &[f64]) -> Option<Vec<f64>> {
        self.evaluations += 1;
        let (mut mean, mut slope) = (vec![0.0; self.flow.dim()], vec![0.0; factor.len()]);
        self.flow.transport(&self.mean, factor, self.rank, [&mut mean, &mut slope]).then_some(slope)
    }

    /// Keeps U diag(s) of L = U diag(s) Wᵀ without the directions that are lost; Σ and its flow do not see W.
    fn drop_lost_columns(&mut self) {
        let (d, rank) = (self.flow.dim(), self.rank);
        let decomposed = DMatrix::from_row_slice(d, rank, &self.factor).try_svd(true, false, f64::EPSILON, 0);
        let Some((left, values)) = decomposed.and_then(|svd| svd.u.map(|u| (u, svd.singular_values))) else { return };
        let largest = values.iter().fold(0.0_f64, |most, s| most.max(*s));
        let kept: Vec<usize> = (0..values.len()).filter(|k| values[*k] > LOST_COLUMN * largest).collect();
        if kept.is_empty() || kept.len() == rank {
            return;
        }
        self.factor =
            (0..d).flat_map(|i| kept.iter().map(move |k| (i, *k))).map(|(i, k)| left[(i, k)] * values[k]).collect();
        self.rank = kept.len();
    }
}

/// A singular value below this part of the largest is rounding.
const LOST_COLUMN: f64 = 1e-13;

/// y + Σ_j c_j k_j.
fn combined(y: &[f64], stages: &[DVector<f64>], coefficients: &[f64]) -> Vec<f64> {
    let mut out = y.to_vec();
    for (stage, c) in stages.iter().zip(coefficients) {
        out.iter_mut().zip(stage.iter()).for_each(|(out, k)| *out += c * k);
    }
    out
}

const STAGES: usize = 6;
const GAMMA: f64 = 0.25;

/// a_ij of (I/(γh) - J) k_i = f(y + Σ_j a_ij k_j) + Σ_j c_ij k_j / h.
const INNER: [&[f64]; STAGES] = [
    &[],
    &[1.544],
    &[0.946_678_528_081_582_6, 0.255_701_169_898_328_4],
    &[3.314_825_187_068_521, 2.896_124_015_972_201, 0.998_641_913_997_781_7],
    &[1.221_224_509_226_641, 6.019_134_481_288_629, 12.537_083_329_320_87, -0.687_886_036_105_895],
    &[1.221_224_509_226_641, 6.019_134_481_288_629, 12.537_083_329_320_87, -0.687_886_036_105_895, 1.0],
];

/// c_ij.
const COUPLING: [&[f64]; STAGES] = [
    &[],
    &[-5.6688],
    &[-2.430_093_356_833_875, -0.206_359_915_709_191_5],
    &[-0.107_352_905_815_137_5, -9.594_562_251_023_355, -20.470_286_148_096_16],
    &[7.496_443_313_967_647, -10.246_804_314_643_52, -33.999_903_528_199_05, 11.708_908_932_061_6],
    &[
        8.083_246_795_921_522,
        -7.981_132_988_064_893,
        -31.521_594_328_743_71,
        16.319_305_431_231_36,
        -6.058_818_238_834_054,
    ],
];

/// m_i of y_new = y + Σ m_i k_i.
const FINAL: [f64; STAGES] =
    [1.221_224_509_226_641, 6.019_134_481_288_629, 12.537_083_329_320_87, -0.687_886_036_105_895, 1.0, 1.0];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::GaussianKernel;
    use crate::gaussian::evolve;
    use crate::gaussian::tests::{flow, key, query, start, value};
    use crate::head::Head;

    /// On the master data the error of the covariance falls by 2⁴ where steps are halved.
    #[test]
    fn implicit_steps_are_of_order_four() {
        for kernel in [GaussianKernel::Softmax { beta: 1.0 }, GaussianKernel::SquaredDistance { beta: 1.0 }] {
            let flow = flow(Head::new(query(), key(), value(), None).unwrap(), kernel, &start());
            let (exact, _) = evolve(&flow, &start(), 1.0, 1e-13).unwrap();
            let error = |steps: u32| {
                let state = flow.state(&start()).unwrap();
                let mut implicit = Implicit::new(&flow, &state, 0.0, 1.0 / f64::from(steps), 1.0).unwrap();
                for _ in 0..steps {
                    implicit.factor = implicit.attempt().unwrap().1;
                }
                implicit.gaussian().unwrap().covariance().add_scaled(-1.0, exact.covariance()).max_abs()
            };
            let (coarse, fine) = (error(20), error(40));
            let order = (coarse / fine).log2();
            assert!((order - 4.0).abs() < 0.2, "{order} {coarse:e} {fine:e}");
        }
    }

    /// W pulls the second coordinate to 0.3 of the first at a rate of 10⁴; the first follows s' = s - 2s².
    #[test]
    fn steps_are_not_limited_by_what_has_died() {
        let diagonal = |a: f64| Matrix::from_fn(2, 2, |i, j| if i + j == 0 { a } else { 0.0 });
        let head = Head::new(diagonal(1.0), diagonal(-1.0), Matrix::scaled_identity(2, 1.0), None).unwrap();
        let start = Gaussian::centred(Matrix::scaled_identity(2, 2.0)).unwrap();
        let weight = Matrix::from_rows("W", &[[0.5, 0.0], [3e3, -1e4]]).unwrap();
        let flow = flow(head, GaussianKernel::Softmax { beta: 1.0 }, &start);
        let flow = flow.with_feed_forward(weight, vec![0.0; 2]).unwrap();
        let mut implicit = Implicit::new(&flow, &flow.state(&start).unwrap(), 0.0, 1e-6, 1e-7).unwrap();
        let mut tries = 0;
        // An explicit method needs ten thousand steps and more.
        while implicit.time() < 5.0 {
            assert!(implicit.advance() != Stepped::Underflow && tries < 1000, "{}", implicit.time());
            tries += 1;
        }
        let found = implicit.gaussian().unwrap();
        let exact = 1.0 / (2.0 + (0.5 - 2.0) * (-implicit.time()).exp());
        // A tolerance of 1e-7 a step, errors of early steps decay.
        assert!((found.covariance().at(0, 0) / exact - 1.0).abs() < 1e-5, "{found:?} {exact} after {tries}");
        // x2 (10⁴ + rate) = 3·10³ x1: the ratio up to the slow rate over the fast.
        assert!((found.covariance().at(0, 1) / found.covariance().at(0, 0) - 0.3).abs() < 1e-4);
    }

    #[test]
    fn columns_that_are_rounding_are_dropped_and_the_covariance_stays() {
        let factor = Matrix::from_rows("factor", &[[1.0, 1.0], [1.0, 1.0 + 1e-14]]).unwrap();
        let narrow = Gaussian::from_factor(vec![0.0; 2], factor).unwrap();
        let head = Head::identity(2);
        let flow = flow(head, GaussianKernel::Softmax { beta: 1.0 }, &narrow);
        let mut implicit = Implicit::new(&flow, &flow.state(&narrow).unwrap(), 0.0, 1e-3, 1e-7).unwrap();
        implicit.drop_lost_columns();
        assert_eq!(implicit.rank, 1);
        let moved = implicit.gaussian().unwrap().covariance().add_scaled(-1.0, narrow.covariance()).max_abs();
        // Rounding of entries of size 2.
        assert!(moved < 1e-14, "{moved:e}");
    }
}
