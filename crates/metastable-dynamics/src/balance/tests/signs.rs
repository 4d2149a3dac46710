//! Why the signs of singular pairs decide whether an optimizer with memory survives the projection.

use nalgebra::DMatrix;

use super::{drawn, median, normal, relative_error};
use crate::balance::{Gauge, LowRankPair, nearest_balanced, norm_balanced};
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

/// The share of singular pairs that come back negated from a balanced pair [30, r]·[r, 40] plus noise of size 1e-3.
fn flipped(r: usize, project: impl Fn(&LowRankPair) -> LowRankPair) -> f64 {
    let (mut flips, mut all) = (0, 0);
    for seed in 0..40 {
        let start = LowRankPair::new(drawn(2000 + seed, r, 30), drawn(2100 + seed, 40, r)).unwrap();
        let start = start.project().unwrap().pair;
        let noisy = LowRankPair::new(
            start.a().add_scaled(1e-3, &drawn(2200 + seed, r, 30)),
            start.b().add_scaled(1e-3, &drawn(2300 + seed, 40, r)),
        );
        let after = project(&noisy.unwrap());
        let (b_after, b_start) = (after.b().transpose(), start.b().transpose());
        for i in 0..r {
            let agreement = dot(after.a().row(i), start.a().row(i)) + dot(b_after.row(i), b_start.row(i));
            flips += usize::from(agreement < 0.0);
            all += 1;
        }
    }
    f64::from(flips as u32) / f64::from(all as u32)
}

#[test]
fn our_projection_never_flips_a_pair_and_an_unsigned_one_flips_many() {
    for r in [2, 4, 8, 16] {
        assert_eq!(flipped(r, |pair| pair.project().unwrap().pair), 0.0, "r = {r}");
        // The negative control. LAPACK on these draws: 0.56, 0.49, 0.50, 0.47 (elsewhere 0.50, 0.73, 0.60, 0.54); signs of
        // another library's bidiagonal form are its own: about a half.
        let share = flipped(r, |pair| unsigned(pair).0);
        assert!((0.3..0.85).contains(&share), "r = {r}: {share}");
    }
}

/// Adam (0.9, 0.999, 1e-8) on ½‖W + B A - T‖², 20 x 20, r = 4, with a projection after every step that also says what
/// it did; returns the final excess loss and product.
struct Run {
    transport: bool,
    rate: f64,
    scale: f64,
    seed: u32,
}

impl Run {
    fn finish(&self, project: impl Fn(&LowRankPair, i32) -> (LowRankPair, Gauge)) -> (f64, Matrix) {
        let target = drawn(300 + self.seed, 20, 20).add_scaled(-1.0, &drawn(320 + self.seed, 20, 20));
        let optimum: f64 = target.singular_values().unwrap()[4..].iter().map(|s| 0.5 * s * s).sum();
        let mut pair =
            LowRankPair::new(drawn(310 + self.seed, 4, 20).scaled(self.scale), Matrix::from_fn(20, 4, |_, _| 0.0))
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
    // O13. Signs are exact in every product, root and rotation, so not a bit of the path depends on them.
    let run = Run { transport: true, rate: 0.1, scale: 1.0, seed: 1 };
    let (reference, with_coins) = (run.finish(aligned), run.finish(coin));
    assert_eq!(with_coins, reference);
    // Another library's decomposition has its own signs and its own rounding.
    let unsigned = run.finish(|pair, _| unsigned(pair));
    assert!(relative_error(&unsigned.1, &reference.1) < 1e-8, "{}", relative_error(&unsigned.1, &reference.1));
    // Without transport the same coins lead elsewhere.
    let run = Run { transport: false, ..run };
    assert!(relative_error(&run.finish(coin).1, &run.finish(aligned).1) > 1e-2);
}

/// What a projection may be: the pair and its gauge after step number so much.
type Projection = fn(&LowRankPair, i32) -> (LowRankPair, Gauge);

fn untouched(pair: &LowRankPair, _: i32) -> (LowRankPair, Gauge) {
    (pair.clone(), Gauge::scalar(4, 1.0).unwrap())
}

fn nearest(pair: &LowRankPair, _: i32) -> (LowRankPair, Gauge) {
    nearest_balanced(pair, &pair.project().unwrap()).unwrap()
}

fn even(pair: &LowRankPair, _: i32) -> (LowRankPair, Gauge) {
    norm_balanced(pair).unwrap().unwrap()
}

fn every_tenth(pair: &LowRankPair, step: i32) -> (LowRankPair, Gauge) {
    if step % 10 == 0 { aligned(pair, step) } else { untouched(pair, step) }
}

/// Median over four seeds of the least excess loss over rates 0.02·30^{k/8}, for starts of deviation 0.1, 1, 4.
fn row(transport: bool, project: Projection) -> [f64; 3] {
    [0.1, 1.0, 4.0].map(|scale| {
        let best = |seed| {
            let rates = (0..9).map(|k| 0.02 * 30.0_f64.powf(f64::from(k) / 8.0));
            rates.map(|rate| Run { transport, rate, scale, seed }.finish(project).0).fold(f64::INFINITY, f64::min)
        };
        median((0..4).map(best).collect())
    })
}

#[test]
fn without_transport_unsigned_projections_ruin_adam() {
    // The table of the sign trap. A hundred steps of Adam carry rounding to about 1e-10 of these excess losses.
    let table: [(&str, bool, Projection, [f64; 3]); 6] = [
        ("lora", false, untouched, [0.004_458_947_660_27, 0.008_007_887_553_53, 0.175_746_784_38]),
        ("signs aligned", false, aligned, [0.005_213_590_072_59, 0.006_185_672_993_94, 0.023_221_616_176_3]),
        ("nearest pair", false, nearest, [0.002_728_920_463_31, 0.003_127_420_380_85, 0.013_131_983_863_2]),
        ("transported", true, aligned, [0.003_482_672_556_81, 0.004_670_030_138_98, 0.011_922_022_692_4]),
        ("equal norms", false, even, [0.004_242_640_843_69, 0.003_964_277_434_66, 0.015_764_165_920_4]),
        ("every tenth", false, every_tenth, [0.003_057_475_286_44, 0.004_551_820_899_99, 0.169_512_927_609]),
    ];
    let mut best = [f64::INFINITY; 3];
    for (name, transport, project, expected) in table {
        let found = row(transport, project);
        for k in 0..3 {
            assert!((found[k] / expected[k] - 1.0).abs() < 1e-6, "{name}: {found:?} instead of {expected:?}");
            best[k] = best[k].min(found[k]);
        }
    }
    // The negative control: with LAPACK's signs 0.14, 0.63, 4.0 on these draws (elsewhere 2.3, 1.2, 2.6), with those of the
    // library here as bad: at least ten times the worst of the aligned, and hundreds of times the best method.
    let ruined = row(false, |pair, _| unsigned(pair));
    assert!(
        ruined.iter().zip([0.0052, 0.0062, 0.0232]).all(|(ruined, aligned)| *ruined > 10.0 * aligned),
        "{ruined:?}"
    );
    assert!(ruined.iter().zip(best).all(|(ruined, best)| *ruined > 20.0 * best), "{ruined:?} {best:?}");
    // Carrying the moments along repairs even these.
    for (repaired, expected) in row(true, |pair, _| unsigned(pair)).into_iter().zip(table[3].3) {
        assert!((repaired / expected - 1.0).abs() < 1e-6, "{repaired} {expected}");
    }
}
