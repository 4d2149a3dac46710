use proptest::prelude::*;

use super::{close, gaussian_pair, normal, relative_error, small_pair};
use crate::balance::{Attempt, Gauge, LowRankPair, Skip, nearest_balanced, norm_balanced};
use crate::linalg::Matrix;

/// Rounding of a chain of QR, Jacobi and two products on small well-conditioned pairs.
const ROUNDING: f64 = 1e-13;

#[test]
fn the_three_by_three_example_has_the_numbers_of_its_closed_form() {
    // O1: Z = [[1,4,3],[0,2,1],[1,0,1]], σ² = (33 ± sqrt(873))/2.
    let pair = small_pair();
    close(pair.squared_norm(), 14.0, ROUNDING);
    close(pair.gap(), 2.0_f64.sqrt(), ROUNDING);
    close(pair.condition().unwrap().kappa, (19.0 + 13.0_f64.sqrt()) / 2.0, ROUNDING);
    let balanced = pair.project().unwrap();
    let sigma = [(33.0 + 873.0_f64.sqrt()) / 2.0, (33.0 - 873.0_f64.sqrt()) / 2.0].map(f64::sqrt);
    close(balanced.spectrum[0], sigma[0], ROUNDING);
    close(balanced.spectrum[1], sigma[1], ROUNDING);
    // The same numbers as printed.
    for (found, printed) in [
        (pair.condition().unwrap().kappa, 11.302_776),
        (balanced.spectrum[0].powi(2), 31.273_287),
        (balanced.spectrum[1].powi(2), 1.726_713),
        (balanced.spectrum[0], 5.592_252),
        (balanced.spectrum[1], 1.314_045),
        (balanced.pair.squared_norm(), 13.812_594),
    ] {
        assert!((found - printed).abs() < 6e-7, "{found} {printed}");
    }
    // 2‖Z‖_* = 2 sqrt(33 + 2 sqrt(54)).
    close(balanced.pair.squared_norm(), 2.0 * (33.0 + 2.0 * 54.0_f64.sqrt()).sqrt(), ROUNDING);
    assert!(balanced.pair.gap() < ROUNDING);
    assert!(relative_error(&balanced.pair.product(), &pair.product()) < ROUNDING);
    let condition = balanced.pair.condition().unwrap();
    close(condition.kappa, 2.0 * sigma[0] / sigma[1], ROUNDING);
    close(condition.kappa, 8.511_511, 1e-6);
    close(condition.balanced, condition.kappa, ROUNDING);
    let (b_gram, a_gram) = balanced.pair.grams();
    let diagonal = Matrix::from_fn(2, 2, |i, j| if i == j { sigma[i] } else { 0.0 });
    assert!(relative_error(&b_gram, &diagonal) < ROUNDING && relative_error(&a_gram, &diagonal) < ROUNDING);
    // Stored in single precision it is the same pair to 5e-6.
    let rounded = |m: &Matrix| Matrix::from_fn(m.rows(), m.columns(), |i, j| f64::from(m.at(i, j) as f32));
    let stored = LowRankPair::new(rounded(balanced.pair.a()), rounded(balanced.pair.b())).unwrap();
    assert!(relative_error(&stored.product(), &pair.product()) < 5e-6 && stored.gap() < 5e-6 * sigma[0]);
    close(stored.condition().unwrap().kappa, condition.kappa, 5e-6);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn projection_keeps_the_product_and_closes_the_gap(
        outputs in 1_usize..14, r in 1_usize..6, inputs in 1_usize..14, seed in 0_u64..500, exponent in -4_i32..5,
    ) {
        let pair = gaussian_pair(seed, outputs, r, inputs);
        let scaled = LowRankPair::new(pair.a().clone(), pair.b().scaled(10.0_f64.powi(exponent))).unwrap();
        let balanced = scaled.project().unwrap();
        // A badly scaled pair is harmless, because no Gram matrix and no inverse is formed.
        prop_assert!(relative_error(&balanced.pair.product(), &scaled.product()) < ROUNDING);
        prop_assert!(balanced.pair.gap() < ROUNDING * balanced.spectrum[0]);
        prop_assert!(balanced.spectrum.is_sorted_by(|x, y| x >= y));
        let dense = scaled.product().singular_values().unwrap();
        for (i, sigma) in balanced.spectrum.iter().enumerate() {
            let expected = dense.get(i).copied().unwrap_or(0.0);
            prop_assert!((sigma - expected).abs() < ROUNDING * dense[0], "{sigma} {expected}");
        }
    }

    #[test]
    fn projection_is_idempotent_homogeneous_and_canonical(seed in 0_u64..500, c in 0.01_f64..100.0) {
        let pair = gaussian_pair(seed, 7, 3, 6);
        let once = pair.project().unwrap().pair;
        let twice = once.project().unwrap().pair;
        prop_assert!(relative_error(twice.a(), once.a()) < ROUNDING && relative_error(twice.b(), once.b()) < ROUNDING);

        let scaled = LowRankPair::new(pair.a().scaled(c), pair.b().scaled(c)).unwrap().project().unwrap().pair;
        prop_assert!(relative_error(scaled.a(), &once.a().scaled(c)) < ROUNDING);
        prop_assert!(relative_error(scaled.b(), &once.b().scaled(c)) < ROUNDING);

        // The same product through other factors: the same pair up to the sign of each singular pair. Vectors of σ_i
        // are determined up to eps·κ(M)/relative gap, here below 1e-9 in all cases.
        let regauged = pair.regauged(&normal(7000 + seed, 3, 3)).unwrap().project().unwrap().pair;
        for i in 0..3 {
            let sign = crate::linalg::dot(regauged.a().row(i), once.a().row(i)).signum();
            for j in 0..6 {
                prop_assert!((regauged.a().at(i, j) - sign * once.a().at(i, j)).abs() < 1e-9);
            }
            for j in 0..7 {
                prop_assert!((regauged.b().at(j, i) - sign * once.b().at(j, i)).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn no_other_factors_of_the_product_are_smaller(seed in 0_u64..500) {
        // O3: ‖B M‖² + ‖M⁻¹A‖² >= 2‖BA‖_*, equality at the projection.
        let pair = gaussian_pair(seed, 6, 3, 5);
        let balanced = pair.project().unwrap();
        let nuclear: f64 = balanced.spectrum.iter().sum();
        close(balanced.pair.squared_norm(), 2.0 * nuclear, ROUNDING);
        let other = balanced.pair.regauged(&normal(9000 + seed, 3, 3)).unwrap();
        prop_assert!(other.squared_norm() > 2.0 * nuclear);
    }

    #[test]
    fn the_gauge_leads_from_the_pair_to_its_projection(seed in 0_u64..500) {
        let pair = gaussian_pair(seed, 6, 3, 5);
        let balanced = pair.project().unwrap();
        let gauge = balanced.gauge.unwrap();
        prop_assert!(relative_error(&pair.b().multiply(gauge.m()), balanced.pair.b()) < 1e-12);
        prop_assert!(relative_error(&gauge.inverse().multiply(pair.a()), balanced.pair.a()) < 1e-12);
        prop_assert!(relative_error(&gauge.m().multiply(gauge.inverse()), &Matrix::scaled_identity(3, 1.0)) < 1e-11);
    }

    #[test]
    fn transported_gradients_are_the_gradients_at_the_new_factors(seed in 0_u64..500) {
        // For L = <G, B A>: g_B = G Aᵀ, g_A = Bᵀ G. The condition of a Gaussian 3 x 3 core enters: 1e-10.
        let pair = gaussian_pair(seed, 6, 3, 5);
        let g = normal(11_000 + seed, 6, 5);
        let gradient = |pair: &LowRankPair| (pair.b().transpose().multiply(&g), g.multiply(&pair.a().transpose()));
        let (before, balanced) = (gradient(&pair), pair.project().unwrap());
        let (after, gauge) = (gradient(&balanced.pair), balanced.gauge.unwrap());
        prop_assert!(relative_error(&gauge.first_moment_a(&before.0), &after.0) < 1e-10);
        prop_assert!(relative_error(&gauge.first_moment_b(&before.1), &after.1) < 1e-10);
    }

    #[test]
    fn alternatives_keep_the_product(seed in 0_u64..500) {
        let pair = gaussian_pair(seed, 6, 3, 5);
        let balanced = pair.project().unwrap();
        let (nearest, gauge) = nearest_balanced(&pair, &balanced).unwrap();
        prop_assert!(relative_error(&nearest.product(), &pair.product()) < ROUNDING);
        prop_assert!(nearest.gap() < ROUNDING * balanced.spectrum[0]);
        prop_assert!(relative_error(&pair.b().multiply(gauge.m()), nearest.b()) < 1e-12);
        let distance = |other: &LowRankPair| {
            let (a, b) = (other.a().add_scaled(-1.0, pair.a()), other.b().add_scaled(-1.0, pair.b()));
            a.frobenius_norm().powi(2) + b.frobenius_norm().powi(2)
        };
        prop_assert!(distance(&nearest) <= distance(&balanced.pair) * (1.0 + 1e-12));
        // Nearest: every other rotation of a balanced pair is farther.
        let rotation = normal(13_000 + seed, 3, 3).nearest_orthogonal().unwrap();
        prop_assert!(distance(&nearest) <= distance(&nearest.regauged(&rotation).unwrap()) * (1.0 + 1e-12));

        let (scalar, _) = norm_balanced(&pair).unwrap().unwrap();
        prop_assert!(relative_error(&scalar.product(), &pair.product()) < ROUNDING);
        close(scalar.a().frobenius_norm(), scalar.b().frobenius_norm(), ROUNDING);
    }
}

#[test]
fn projecting_an_untrained_pair_is_refused_and_so_is_a_deficient_one() {
    let a = normal(3, 2, 5);
    let untrained = LowRankPair::new(a.clone(), Matrix::from_fn(4, 2, |_, _| 0.0)).unwrap();
    assert_eq!(untrained.try_project().unwrap(), Attempt::Skipped(Skip::ZeroFactor));
    assert!(norm_balanced(&untrained).unwrap().is_none());

    // Both columns of B are almost equal: the product has rank 1 to 1e-9.
    let b = Matrix::from_fn(4, 2, |i, j| (i + 1) as f64 + if i == 2 { 1e-9 * j as f64 } else { 0.0 });
    let deficient = LowRankPair::new(a.clone(), b).unwrap();
    let Attempt::Skipped(Skip::RankDeficient { ratio }) = deficient.try_project().unwrap() else {
        panic!("a deficient pair was projected");
    };
    assert!(ratio > 0.0 && ratio < 1e-8, "{ratio}");

    let full = LowRankPair::new(a, normal(4, 4, 2)).unwrap();
    assert!(matches!(full.try_project().unwrap(), Attempt::Projected(balanced) if balanced.gauge.is_some()));
}

#[test]
fn zeros_and_short_sides_stay_finite() {
    let zero = LowRankPair::new(normal(1, 3, 4), Matrix::from_fn(5, 3, |_, _| 0.0)).unwrap();
    let balanced = zero.project().unwrap();
    assert_eq!((balanced.pair.squared_norm(), balanced.gauge), (0.0, None));
    // A head of two classes with rank 3: the product has rank 2 at most.
    let short = gaussian_pair(5, 2, 3, 9);
    let balanced = short.project().unwrap();
    assert!(relative_error(&balanced.pair.product(), &short.product()) < ROUNDING);
    assert_eq!((balanced.spectrum[2], balanced.gauge), (0.0, None));
    assert_eq!(short.condition().unwrap().balanced, f64::INFINITY);
}

#[test]
fn a_gauge_of_one_number_moves_norm_between_the_factors() {
    assert!(Gauge::scalar(2, 0.0).is_err() && Gauge::scalar(2, f64::NAN).is_err());
    let gauge = Gauge::scalar(2, 4.0).unwrap().then(&Gauge::scalar(2, 0.5).unwrap());
    assert_eq!(gauge, Gauge::scalar(2, 2.0).unwrap());
    let v = normal(1, 2, 3).multiply(&normal(2, 3, 3));
    assert_eq!(gauge.second_moment_a(&v), v.scaled(4.0));
}
