//! Why the signs of singular pairs decide whether an optimizer with memory survives the projection.

use nalgebra::DMatrix;

use super::{gaussian_pair, normal, relative_error};
use crate::balance::{Gauge, LowRankPair};
use crate::linalg::{Matrix, dot};

/// The projection as a port to a LAPACK-style decomposition would write it: QR, bidiagonal SVD, no look at signs.
fn unsigned(pair: &LowRankPair) -> (LowRankPair, Gauge) {
    let (q_a, r_a) = pair.a().transpose().thin_qr();
    let (q_b, r_b) = pair.b().thin_qr();
    let r = pair.rank();
    let core = r_b.multiply(&r_a.transpose());
    let svd = DMatrix::from_fn(r, r, |i, j| core.at(i, j)).svd(true, true);
    let (u, v_t) = (svd.u.unwrap(), svd.v_t.unwrap());
    let root = |i: usize| svd.singular_values[i].sqrt();
    let b = q_b.multiply(&Matrix::from_fn(r, r, |i, j| u[(i, j)] * root(j)));
    let a = Matrix::from_fn(r, r, |i, j| root(i) * v_t[(i, j)]).multiply(&q_a.transpose());
    let m = r_a.transpose().multiply(&Matrix::from_fn(r, r, |i, j| v_t[(j, i)] / root(j)));
    (LowRankPair::new(a, b).unwrap(), Gauge::new(m).unwrap())
}

/// The share of singular pairs that come back negated from a balanced pair plus noise of size 1e-3.
fn flipped(project: impl Fn(&LowRankPair) -> LowRankPair) -> f64 {
    let (mut flips, mut all) = (0, 0);
    for seed in 0..40 {
        let start = gaussian_pair(seed, 20, 4, 15).project().unwrap().pair;
        let noisy = LowRankPair::new(
            start.a().add_scaled(1e-3, &normal(seed + 300, 4, 15)),
            start.b().add_scaled(1e-3, &normal(seed + 600, 20, 4)),
        );
        let after = project(&noisy.unwrap());
        for i in 0..4 {
            flips += usize::from(dot(after.a().row(i), start.a().row(i)) < 0.0);
            all += 1;
        }
    }
    f64::from(flips as u32) / f64::from(all as u32)
}

#[test]
fn our_projection_never_flips_a_pair_and_an_unsigned_one_flips_many() {
    assert_eq!(flipped(|pair| pair.project().unwrap().pair), 0.0);
    // The negative control. Published for LAPACK at r = 4: 0.73; the library here goes through a bidiagonal form, too.
    let share = flipped(|pair| unsigned(pair).0);
    assert!(share > 0.2, "{share}");
}

/// Adam (0.9, 0.999, 1e-8) on ½‖W + B A - T‖², 20 x 20, r = 4, with a projection after every step that also says what
/// it did; returns the final excess loss and product.
struct Run {
    transport: bool,
    rate: f64,
    scale: f64,
    seed: u64,
}

impl Run {
    fn finish(&self, project: impl Fn(&LowRankPair, i32) -> (LowRankPair, Gauge)) -> (f64, Matrix) {
        let target = normal(self.seed + 40, 20, 20);
        let optimum: f64 = target.singular_values().unwrap()[4..].iter().map(|s| 0.5 * s * s).sum();
        let mut pair =
            LowRankPair::new(normal(self.seed + 41, 4, 20).scaled(self.scale), Matrix::from_fn(20, 4, |_, _| 0.0))
                .unwrap();
        let (zero_a, zero_b) = (pair.a().scaled(0.0), pair.b().scaled(0.0));
        let (mut m_a, mut v_a, mut m_b, mut v_b) = (zero_a.clone(), zero_a, zero_b.clone(), zero_b);
        for step in 1..=100 {
            let g = pair.product().add_scaled(-1.0, &target);
            let (g_a, g_b) = (pair.b().transpose().multiply(&g), g.multiply(&pair.a().transpose()));
            let a = adam(pair.a(), &g_a, &mut m_a, &mut v_a, step, self.rate);
            let b = adam(pair.b(), &g_b, &mut m_b, &mut v_b, step, self.rate);
            let (projected, gauge) = project(&LowRankPair::new(a, b).unwrap(), step);
            pair = projected;
            if self.transport {
                (m_a, m_b) = (gauge.first_moment_a(&m_a), gauge.first_moment_b(&m_b));
                (v_a, v_b) = (gauge.second_moment_a(&v_a), gauge.second_moment_b(&v_b));
            }
        }
        let residual = pair.product().add_scaled(-1.0, &target).frobenius_norm();
        (0.5 * residual * residual - optimum, pair.product())
    }
}

fn adam(x: &Matrix, g: &Matrix, m: &mut Matrix, v: &mut Matrix, step: i32, rate: f64) -> Matrix {
    *m = m.scaled(0.9).add_scaled(0.1, g);
    *v = Matrix::from_fn(v.rows(), v.columns(), |i, j| 0.999 * v.at(i, j) + 0.001 * g.at(i, j).powi(2));
    let (c, d) = (1.0 - 0.9_f64.powi(step), 1.0 - 0.999_f64.powi(step));
    Matrix::from_fn(x.rows(), x.columns(), |i, j| {
        x.at(i, j) - rate * (m.at(i, j) / c) / ((v.at(i, j) / d).sqrt() + 1e-8)
    })
}

fn aligned(pair: &LowRankPair, _: i32) -> (LowRankPair, Gauge) {
    let balanced = pair.project().unwrap();
    (balanced.pair, balanced.gauge.unwrap())
}

/// Our projection with signs then chosen by a coin.
fn coin(pair: &LowRankPair, step: i32) -> (LowRankPair, Gauge) {
    let (pair, gauge) = aligned(pair, step);
    let coins = normal(step as u64, 1, 4);
    let signs = Matrix::from_fn(4, 4, |i, j| if i == j { coins.at(0, i).signum() } else { 0.0 });
    (pair.regauged(&signs).unwrap(), gauge.then(&Gauge::new(signs).unwrap()))
}

#[test]
fn with_transported_moments_adam_does_not_see_the_signs() {
    // O13. Signs are exact, so both paths differ by the rounding of a hundred products only.
    let run = Run { transport: true, rate: 0.1, scale: 1.0, seed: 1 };
    let (reference, with_coins) = (run.finish(aligned), run.finish(coin));
    let error = relative_error(&with_coins.1, &reference.1);
    assert!(error < 1e-10, "{error}");
    let unsigned = run.finish(|pair, _| unsigned(pair));
    assert!(relative_error(&unsigned.1, &reference.1) < 1e-8, "{}", relative_error(&unsigned.1, &reference.1));
}

#[test]
fn without_transport_unsigned_projections_ruin_adam() {
    // The table of the sign trap: best of a grid of rates, median of four seeds.
    let best = |transport: bool, project: &dyn Fn(&LowRankPair, i32) -> (LowRankPair, Gauge)| {
        let mut losses: Vec<f64> = (0..4)
            .map(|seed| {
                let rates = [0.02, 0.04, 0.08, 0.15, 0.3];
                let run = |rate| Run { transport, rate, scale: 1.0, seed: 100 * seed }.finish(project).0;
                rates.into_iter().map(run).fold(f64::INFINITY, f64::min)
            })
            .collect();
        losses.sort_by(f64::total_cmp);
        0.5 * (losses[1] + losses[2])
    };
    let signed = best(false, &aligned);
    let transported = best(true, &aligned);
    let ruined = best(false, &|pair, _| unsigned(pair));
    // Measured at scale 1 with other draws: 9.5e-3 aligned, 5.1e-3 transported, 1.2 unsigned.
    assert!(ruined > 20.0 * signed && ruined > 20.0 * transported, "{ruined} {signed} {transported}");
}
