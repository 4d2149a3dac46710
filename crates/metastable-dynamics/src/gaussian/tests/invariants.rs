//! What does not change, or changes by a known law, on random flows.

use proptest::prelude::*;

use super::*;
use crate::field::VectorField;
use crate::gaussian::bounds::{kernel_invariant, value_trace};

fn square(entries: Vec<f64>) -> Matrix {
    Matrix::new("m", 3, 3, entries).unwrap()
}

/// A well-conditioned start: identity plus small entries as factor.
fn near_identity(entries: &[f64]) -> Gaussian {
    let factor = Matrix::from_fn(3, 3, |i, j| 0.3 * entries[3 * i + j] + if i == j { 1.0 } else { 0.0 });
    Gaussian::from_factor(vec![0.4, -0.7, 0.2], factor).unwrap()
}

fn entries() -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec(-1.0..1.0, 9)
}

/// A time well before any blow-up: a quarter of the proven bound for softmax, and at most 1.
fn safe_time(flow: &GaussianFlow, start: &Gaussian) -> f64 {
    let bound = crate::gaussian::bounds::blow_up_not_before(flow, start).unwrap();
    (0.5 * bound).min(1.0)
}

fn trace_of_product(a: &Matrix, b: &Matrix) -> f64 {
    let product = a.multiply(b);
    (0..product.rows()).map(|i| product.at(i, i)).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// 2.3.2: the precision on the common kernel of all A_h, for any V, in all four Gaussian kernels.
    #[test]
    fn precision_on_the_kernel_is_conserved(q in entries(), k in entries(), v in entries(), l in entries()) {
        let two_rows = |m: Vec<f64>| Matrix::new("rows", 2, 3, m[..6].to_vec()).unwrap();
        let (q, k, start) = (two_rows(q), two_rows(k), near_identity(&l));
        // The kernel of Q is spanned by the cross product of its rows; A = KᵀQ has the same.
        let (a, b) = (q.row(0), q.row(1));
        let cross = [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
        let length = crate::linalg::norm(&cross);
        prop_assume!(length > 0.1);
        let basis = Matrix::from_fn(3, 1, |i, _| cross[i] / length);
        for kernel in [SOFTMAX, L2, sinkhorn(0.7), LINEAR] {
            // A second head with the same kernel: another key and another value.
            let heads = vec![
                Head::new(q.clone(), k.clone(), square(v.clone()), None).unwrap(),
                Head::new(q.scaled(0.5), q.clone(), square(v.clone()).transpose(), None).unwrap(),
            ];
            let flow = GaussianFlow::new(heads, kernel, &start).unwrap();
            // Nothing is proven for linear attention of a mean that moves; its velocity is below a hundred here.
            let t = if kernel == LINEAR { 0.005 } else { safe_time(&flow, &start) };
            let later = at(&flow, &start, t);
            prop_assume!(later.covariance() != start.covariance());
            let [before, after] = [&start, &later].map(|g| kernel_invariant(&basis, g).unwrap().at(0, 0));
            // The relative error of an inverse is cond(Σ) times that of Σ: the solver's 1e-13 a step over some steps.
            // Sinkhorn at this ε reaches conditions of 1e4 and more.
            let spectrum = later.spectrum().unwrap();
            let drift = (after / before - 1.0).abs();
            prop_assert!(drift < 1e-13 * spectrum[0] / spectrum[2] + 1e-12, "{} {drift:e} {spectrum:?}", kernel.name());
        }
    }

    /// 2.3.3: nᵀV = 0 freezes nᵀΣn.
    #[test]
    fn the_left_kernel_of_the_value_matrix_is_frozen(q in entries(), k in entries(), v in entries(), l in entries()) {
        let value = Matrix::from_fn(3, 3, |i, j| if i < 2 { v[3 * i + j] } else { v[j] + v[3 + j] });
        let n = matrix(&[[1.0, 1.0, -1.0]]);
        let start = near_identity(&l);
        let along = |g: &Gaussian| n.multiply(g.covariance()).multiply(&n.transpose()).at(0, 0);
        for kernel in [SOFTMAX, L2, sinkhorn(0.7), GaussianKernel::Linear { beta: 0.3 }] {
            let head = Head::new(square(q.clone()), square(k.clone()), value.clone(), None).unwrap();
            let flow = flow(head, kernel, &start);
            let (_, slope) = flow.moment_velocity(&start).unwrap();
            let drift = n.multiply(&slope).multiply(&n.transpose()).at(0, 0);
            prop_assert!(drift.abs() < 1e-13 * (1.0 + slope.max_abs()) * along(&start).max(1.0), "{drift:e}");
        }
    }

    /// 2.3.4: V > 0, K = -Q.
    #[test]
    fn the_value_trace_never_grows_under_repulsion(q in entries(), g in entries(), l in entries()) {
        let root = square(g);
        let value = root.multiply(&root.transpose()).add_scaled(0.1, &Matrix::scaled_identity(3, 1.0));
        let value = Matrix::from_fn(3, 3, |i, j| value.at(i.min(j), i.max(j)));
        let start = near_identity(&l);
        for kernel in [SOFTMAX, L2, sinkhorn(0.5), LINEAR] {
            // Linear attention sees second moments: centred it is softmax.
            let start = if kernel == LINEAR { Gaussian::from_factor(vec![0.0; 3], start.factor().clone()).unwrap() } else { start.clone() };
            let (_, slope) = flow(repulsive(&square(q.clone()), &value), kernel, &start).moment_velocity(&start).unwrap();
            let rate = trace_of_product(&value.inverse().unwrap(), &slope);
            prop_assert!(rate <= 1e-12 * slope.max_abs() / 0.1, "{} {rate:e}", kernel.name());
            let along: f64 = value_trace(&value, &start).unwrap();
            prop_assert!(along > 0.0);
        }
    }

    /// V skew, Q = aI, K = I: Σ' = [V, g(Σ)] with g(Σ) a function of Σ, a Lax pair in every kernel.
    #[test]
    fn skew_values_keep_the_spectrum(v in entries(), l in entries(), a in -1.0..1.0) {
        let value = Matrix::from_fn(3, 3, |i, j| v[3 * i + j] - v[3 * j + i]);
        let start = Gaussian::from_factor(vec![0.0; 3], near_identity(&l).factor().clone()).unwrap();
        for kernel in [SOFTMAX, L2, sinkhorn(0.7), LINEAR] {
            let flow = flow(with_logits(&Matrix::scaled_identity(3, a), &value), kernel, &start);
            let later = at(&flow, &start, 2.0);
            // Eigenvalues below 4, the solver's tolerance 1e-13 a step over some hundred steps.
            assert_near(&later.spectrum().unwrap(), &start.spectrum().unwrap(), 1e-10);
            let verdict = crate::gaussian::judge(&flow, &start, &crate::gaussian::JudgeOptions::default()).unwrap();
            prop_assert!(verdict.is_proven && verdict.regime == crate::gaussian::Regime::Isospectral, "{verdict:?}");
        }
    }

    /// 2.3.9: d/dt log det Σ = 2 tr(ΣAV) + 2 tr W.
    #[test]
    fn the_log_determinant_moves_by_twice_the_trace(
        q in entries(), k in entries(), v in entries(), w in entries(), l in entries(),
    ) {
        let start = near_identity(&l);
        let head = Head::new(square(q), square(k), square(v.clone()), None).unwrap();
        let flow = flow(head, SOFTMAX, &start).with_feed_forward(square(w.clone()), vec![0.0; 3]).unwrap();
        let (_, slope) = flow.moment_velocity(&start).unwrap();
        let rate = trace_of_product(&start.covariance().inverse().unwrap(), &slope);
        let inner = start.covariance().multiply(&flow.logits(0));
        let expected = 2.0 * trace_of_product(&inner, &square(v)) + 2.0 * (w[0] + w[4] + w[8]);
        prop_assert!((rate - expected).abs() < 1e-10 * (1.0 + slope.max_abs()), "{rate} {expected}");
    }

    /// ε² times Sinkhorn's right-hand side tends to softmax's, with an error of order 1/ε².
    #[test]
    fn sinkhorn_tends_to_softmax_for_large_epsilon(q in entries(), k in entries(), v in entries(), l in entries()) {
        let start = near_identity(&l);
        let head = Head::new(square(q), square(k), square(v), None).unwrap();
        let (_, soft) = flow(head.clone(), SOFTMAX, &start).moment_velocity(&start).unwrap();
        let error = |epsilon: f64| {
            let (_, slope) = flow(head.clone(), sinkhorn(epsilon), &start).moment_velocity(&start).unwrap();
            slope.scaled(epsilon * epsilon).add_scaled(-1.0, &soft).max_abs()
        };
        let (near, far) = (error(1e2), error(1e3));
        prop_assume!(far > 1e-9);
        prop_assert!((near / far / 100.0 - 1.0).abs() < 0.05, "{near:e} {far:e}");
    }

    /// 2.3.11: (Σ, V, A) → (TΣTᵀ, TVT⁻¹, T⁻ᵀAT⁻¹) for softmax, L2 (Q, K → QT⁻¹, KT⁻¹) and Sinkhorn.
    #[test]
    fn flows_are_equivariant_under_linear_maps(
        q in entries(), k in entries(), v in entries(), l in entries(), t in entries(),
    ) {
        let map = Matrix::from_fn(3, 3, |i, j| 0.3 * t[3 * i + j] + if i == j { 1.0 } else { 0.0 });
        let inverse = map.inverse().unwrap();
        let start = near_identity(&l);
        let image = start.push_forward(&map, &[0.0; 3]).unwrap();
        for kernel in [SOFTMAX, L2, sinkhorn(0.7)] {
            let here = flow(Head::new(square(q.clone()), square(k.clone()), square(v.clone()), None).unwrap(), kernel, &start);
            let there = Head::new(
                square(q.clone()).multiply(&inverse),
                square(k.clone()).multiply(&inverse),
                map.multiply(&square(v.clone())).multiply(&inverse),
                None,
            ).unwrap();
            let (_, slope) = here.moment_velocity(&start).unwrap();
            let (_, moved) = flow(there, kernel, &image).moment_velocity(&image).unwrap();
            let expected = map.multiply(&slope).multiply(&map.transpose());
            let error = moved.add_scaled(-1.0, &expected).max_abs();
            prop_assert!(error < 1e-11 * (1.0 + expected.max_abs()), "{} {error:e}", kernel.name());
        }
    }

    /// The reduced forms against the table of B and c, computed with inverses.
    #[test]
    fn reduced_fields_are_those_of_the_table(q in entries(), k in entries(), v in entries(), l in entries()) {
        let start = near_identity(&l);
        let (sigma, mean) = (start.covariance(), Matrix::from_fn(3, 1, |i, _| start.mean()[i]));
        let (q, k, v) = (square(q), square(k), square(v));
        let (a, m) = (k.transpose().multiply(&q), k.transpose().multiply(&k));
        let one = Matrix::scaled_identity(3, 1.0);
        let resolvent = one.add_scaled(2.0, &sigma.multiply(&m)).inverse().unwrap();
        let table = |kernel: GaussianKernel| match kernel {
            GaussianKernel::Softmax { .. } => (v.multiply(&sigma.multiply(&a)), v.multiply(&one.add_scaled(1.0, &sigma.multiply(&a)))),
            GaussianKernel::SquaredDistance { .. } => {
                let map = v.multiply(&resolvent);
                (map.multiply(&sigma.multiply(&a)).scaled(2.0), map.multiply(&one.add_scaled(2.0, &sigma.multiply(&a))))
            }
            _ => {
                let second = sigma.add_scaled(1.0, &mean.multiply(&mean.transpose()));
                (v.multiply(&second).multiply(&a), v.multiply(&second).multiply(&a))
            }
        };
        for kernel in [SOFTMAX, L2, GaussianKernel::Linear { beta: 1.0 }] {
            let flow = flow(Head::new(q.clone(), k.clone(), v.clone(), None).unwrap(), kernel, &start);
            let (c, slope) = flow.moment_velocity(&start).unwrap();
            let (b, map) = table(kernel);
            let half = b.multiply(sigma);
            let expected = half.add_scaled(1.0, &half.transpose());
            assert_near(slope.as_slice(), expected.as_slice(), 1e-12 * (1.0 + expected.max_abs()));
            assert_near(&c, map.multiply(&mean).as_slice(), 1e-12 * (1.0 + expected.max_abs()));
        }
    }

    /// The Gaussian Sinkhorn coupling: off-diagonal block of the joint precision is -Aᵀ/ε.
    #[test]
    fn sinkhorn_couples_with_the_precision_that_defines_it(q in entries(), k in entries(), l in entries()) {
        let (start, epsilon) = (near_identity(&l), 0.6);
        let one = Matrix::scaled_identity(3, 1.0);
        // With V = I, B Σ = Cᵀ/ε: read C off L' Lᵀ.
        let head = Head::new(square(q.clone()), square(k.clone()), one, None).unwrap();
        let flow = flow(head, sinkhorn(epsilon), &start);
        let mut velocity = vec![0.0; flow.len()];
        flow.evaluate(0.0, &flow.state(&start).unwrap(), &mut velocity);
        let slope = Matrix::new("slope", 3, 3, velocity[3..].to_vec()).unwrap();
        let coupling = slope.multiply(&start.factor().transpose()).transpose().scaled(epsilon);
        let joint = Matrix::from_fn(6, 6, |i, j| match (i < 3, j < 3) {
            (true, true) => start.covariance().at(i, j),
            (true, false) => coupling.at(i, j - 3),
            (false, true) => coupling.at(j, i - 3),
            (false, false) => start.covariance().at(i - 3, j - 3),
        });
        let precision = joint.inverse().unwrap();
        let logits = square(k).transpose().multiply(&square(q));
        for (i, j) in (0..9).map(|at| (at / 3, at % 3)) {
            // xᵀAᵀy/ε couples x and y: block (x, y) of the precision is -Aᵀ/ε.
            prop_assert!((precision.at(i, j + 3) + logits.at(j, i) / epsilon).abs() < 1e-9 * precision.max_abs());
        }
    }
}

#[test]
fn sinkhorn_limit_of_the_master_data_has_the_printed_errors() {
    let head = Head::new(query(), key(), value(), None).unwrap();
    let (_, soft) = flow(head.clone(), SOFTMAX, &start()).moment_velocity(&start()).unwrap();
    for (epsilon, golden, digits) in [(1e2, 4.469e-6, 5e-10), (1e4, 4.469e-10, 5e-14)] {
        let (_, slope) = flow(head.clone(), sinkhorn(epsilon), &start()).moment_velocity(&start()).unwrap();
        let error = slope.scaled(epsilon * epsilon).add_scaled(-1.0, &soft).max_abs();
        assert_near(&[error], &[golden], digits);
    }
}

#[test]
fn conserved_numbers_of_the_master_data() {
    let scaled = flow(Head::new(query(), key(), Matrix::scaled_identity(3, 0.7), None).unwrap(), SOFTMAX, &start());
    for t in [0.0, 0.3, 1.0] {
        let g = if t == 0.0 { start() } else { at(&scaled, &start(), t) };
        let mean = Matrix::from_fn(3, 1, |i, _| g.mean()[i]);
        let conserved = kernel_invariant(&mean, &g).unwrap().at(0, 0) * (-1.4 * t).exp();
        assert_near(&[conserved], &[1.616611295681063], 1e-12);
    }
    let two = |m: Matrix| Matrix::new("rows", 2, 3, m.as_slice()[..6].to_vec()).unwrap();
    // Cross product of the rows of Q: (.02, .2, .34).
    let n: Vec<f64> = [0.02, 0.2, 0.34].into_iter().collect();
    let basis = Matrix::from_fn(3, 1, |i, _| n[i] / crate::linalg::norm(&n));
    for kernel in [SOFTMAX, L2, sinkhorn(1.0)] {
        let flow = flow(Head::new(two(query()), two(key()), value(), None).unwrap(), kernel, &start());
        let found = kernel_invariant(&basis, &at(&flow, &start(), 1.0)).unwrap().at(0, 0);
        assert_near(&[found], &[1.705767101115938], 1e-12);
    }
    let v = value();
    let dependent = Matrix::from_fn(3, 3, |i, j| if i < 2 { v.at(i, j) } else { v.at(0, j) + v.at(1, j) });
    let n = matrix(&[[1.0, 1.0, -1.0]]);
    for kernel in [SOFTMAX, L2, sinkhorn(1.0)] {
        let flow = flow(Head::new(query(), key(), dependent.clone(), None).unwrap(), kernel, &start());
        let g = at(&flow, &start(), 1.0);
        assert_near(n.multiply(g.covariance()).multiply(&n.transpose()).as_slice(), &[3.1], 1e-12);
    }
}
