//! Scalings, mean laws and the constancy of the rank, for random flows: section 2.3, items 1, 10 and 11 of the notes.

use proptest::prelude::*;

use super::*;

fn entries() -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec(-1.0..1.0, 9)
}

fn square(entries: Vec<f64>) -> Matrix {
    Matrix::new("m", 3, 3, entries).unwrap()
}

/// N(m, LLᵀ) with L near the identity.
fn gaussian(l: &[f64], mean: &[f64]) -> Gaussian {
    let factor = Matrix::from_fn(3, 3, |i, j| 0.4 * l[3 * i + j] + if i == j { 1.0 } else { 0.0 });
    Gaussian::from_factor(mean.to_vec(), factor).unwrap()
}

/// N(m, cΣ).
fn scaled(gaussian: &Gaussian, c: f64) -> Gaussian {
    Gaussian::from_factor(gaussian.mean().to_vec(), gaussian.factor().scaled(c.sqrt())).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Softmax, any number of heads: Σ_0 → cΣ_0 runs c times as fast, Σ'(cΣ) = c²Σ'(Σ). Sinkhorn: (Σ, ε, t) → (cΣ, cε, ct).
    #[test]
    fn scaling_the_covariance_scales_time(
        q in entries(), k in entries(), v in entries(), l in entries(), c in 0.2..5.0,
    ) {
        let start = gaussian(&l, &[0.0; 3]);
        let wide = scaled(&start, c);
        let heads = vec![
            Head::new(square(q.clone()), square(k.clone()), square(v.clone()), None).unwrap(),
            Head::new(square(k), square(v), square(q), None).unwrap(),
        ];
        let slope = |kernel, at: &Gaussian| {
            GaussianFlow::new(heads.clone(), kernel, at).unwrap().moment_velocity(at).unwrap().1
        };
        let (here, there) = (slope(SOFTMAX, &start), slope(SOFTMAX, &wide));
        // Rounding of products of five matrices of size 3.
        let error = there.add_scaled(-c * c, &here).max_abs();
        prop_assert!(error < 1e-13 * (1.0 + there.max_abs()), "{error:e}");
        let (here, there) = (slope(sinkhorn(0.7), &start), slope(sinkhorn(0.7 * c), &wide));
        let error = there.add_scaled(-1.0, &here).max_abs();
        prop_assert!(error < 1e-12 * (1.0 + there.max_abs()), "{error:e}");
    }

    /// Sinkhorn: α' = Vα/ε; L2 with Q = K: α' = Vα; both exactly, whatever the covariance is.
    #[test]
    fn means_move_by_the_value_matrix_alone(
        q in entries(), k in entries(), v in entries(), l in entries(), m in prop::collection::vec(-1.0..1.0, 3),
    ) {
        let start = gaussian(&l, &m);
        let mut moved = vec![0.0; 3];
        square(v.clone()).apply(start.mean(), &mut moved);
        let head = |query: Vec<f64>| Head::new(square(query), square(k.clone()), square(v.clone()), None).unwrap();
        for (head, kernel, epsilon) in [(head(q), sinkhorn(0.7), 0.7), (head(k.clone()), L2, 1.0)] {
            let (found, _) = flow(head, kernel, &start).moment_velocity(&start).unwrap();
            for (found, moved) in found.iter().zip(&moved) {
                // L2 solves with I + X, whose condition is below 20 here.
                prop_assert!((found - moved / epsilon).abs() < 1e-13, "{} {found} {moved}", kernel.name());
            }
        }
    }

    /// V = vI, softmax: αᵀΣ⁻¹α e^{-2vt} is conserved; here its derivative at time 0.
    #[test]
    fn the_mean_in_units_of_the_covariance_grows_like_exp_vt(
        q in entries(), k in entries(), l in entries(), m in prop::collection::vec(-1.0..1.0, 3), v in -1.0..1.0,
    ) {
        let start = gaussian(&l, &m);
        let inverse = start.covariance().inverse().unwrap();
        let head = Head::new(square(q), square(k), Matrix::scaled_identity(3, v), None).unwrap();
        let (mean, slope) = flow(head, SOFTMAX, &start).moment_velocity(&start).unwrap();
        let mut dual = vec![0.0; 3];
        inverse.apply(start.mean(), &mut dual);
        let mut pushed = vec![0.0; 3];
        slope.apply(&dual, &mut pushed);
        let dot = crate::linalg::dot;
        let rate = 2.0 * dot(&mean, &dual) - dot(&dual, &pushed) - 2.0 * v * dot(start.mean(), &dual);
        // Cancellation of terms of the size of |Σ⁻¹|.
        prop_assert!(rate.abs() < 1e-12 * (1.0 + inverse.max_abs()), "{rate:e}");
    }

    /// Σ = PΣ_0Pᵀ: the rank is constant while the solution exists, and a singular start stays singular.
    #[test]
    fn the_rank_is_constant_in_finite_time(
        q in entries(), k in entries(), v in entries(), l in prop::collection::vec(-1.0..1.0, 6), rank in 1_usize..=2,
    ) {
        let factor = Matrix::from_fn(3, rank, |i, j| 0.4 * l[2 * i + j] + if i == j { 1.0 } else { 0.0 });
        let start = Gaussian::centred(factor.multiply(&factor.transpose())).unwrap();
        prop_assume!(start.rank() == rank);
        let head = Head::new(square(q), square(k), square(v), None).unwrap();
        for kernel in [SOFTMAX, L2, sinkhorn(0.7)] {
            let flow = flow(head.clone(), kernel, &start);
            let t = 0.2_f64.min(0.5 * crate::gaussian::bounds::blow_up_not_before(&flow, &start).unwrap());
            let found = at(&flow, &start, t);
            prop_assert_eq!(found.rank(), rank);
            let values = found.covariance().symmetric_eigen().unwrap().0;
            // Two factors' products round to eps; what must survive has not fallen by more than e^{-2 |B| t}.
            prop_assert!(values[..3 - rank].iter().all(|value| value.abs() < 1e-14 * values[2]), "{values:?}");
            prop_assert!(values[3 - rank] > 1e-6 * values[2], "{values:?}");
        }
    }
}
