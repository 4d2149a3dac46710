//! Condition numbers of general losses against their definition.

use super::{close, gaussian_pair, normal};
use crate::balance::LowRankPair;
use crate::balance::condition::balanced_kappa_with_residual;
use crate::balance::hessian::{extremes, factor_hessian, kappa_of};
use crate::linalg::Matrix;

#[test]
fn the_factor_hessian_is_the_second_difference_of_the_loss() {
    // g(X) = ½ Σ w_ij (X_ij - Z_ij)², a loss with a residual and with unequal curvature.
    let (pair, z) = (gaussian_pair(3, 5, 2, 4), normal(90, 5, 4));
    let w = normal(91, 5, 4).zip_with(&normal(92, 5, 4), |x, _| 0.5 + x * x);
    let gradient = w.zip_with(&pair.product().add_scaled(-1.0, &z), |w, e| w * e);
    let hessian = factor_hessian(&pair, &gradient, |d| w.zip_with(d, |w, d| w * d));
    let loss = |x: &[f64]| {
        let a = Matrix::new("a", 2, 4, x[..8].to_vec()).unwrap();
        let b = Matrix::new("b", 5, 2, x[8..].to_vec()).unwrap();
        let error = b.multiply(&a).add_scaled(-1.0, &z);
        0.5 * error.zip_with(&w, |e, w| w * e * e).as_slice().iter().sum::<f64>()
    };
    let at = [pair.a().as_slice(), pair.b().as_slice()].concat();
    let h = 1e-4;
    for (i, j) in [(0, 0), (0, 5), (3, 9), (7, 17), (12, 12), (2, 10), (16, 8)] {
        let moved = |si: f64, sj: f64| {
            let mut x = at.clone();
            x[i] += si * h;
            x[j] += sj * h;
            loss(&x)
        };
        let second = (moved(1.0, 1.0) - moved(1.0, -1.0) - moved(-1.0, 1.0) + moved(-1.0, -1.0)) / (4.0 * h * h);
        // The loss is a polynomial of degree 4: h² times its fourth derivative, and rounding of about 1e-15·30/h².
        assert!((hessian.at(i, j) - second).abs() < 2e-6, "({i}, {j}): {} {second}", hessian.at(i, j));
    }
    assert_eq!(hessian.asymmetry(), 0.0);
}

#[test]
fn measured_condition_numbers_are_those_of_the_formulas() {
    for seed in 0..20 {
        let pair = gaussian_pair(seed, 7, 3, 6);
        let flat = pair.product().scaled(0.0);
        // Eigenvalues carry eps·λ_max, so κ carries some eps·κ.
        let measured = kappa_of(&factor_hessian(&pair, &flat, Clone::clone), 3).unwrap();
        close(measured, pair.condition().unwrap().kappa, 1e-13 * measured.max(100.0));
    }
    // Z = diag(4, 1, ½): the gap counts.
    let a = Matrix::from_rows("a", &[[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).unwrap();
    let pair = LowRankPair::new(a.clone(), a.transpose()).unwrap();
    let residual = Matrix::from_fn(3, 3, |i, j| if i == 2 && j == 2 { -0.5 } else { 0.0 });
    let hessian = factor_hessian(&pair, &residual, Clone::clone);
    close(kappa_of(&hessian, 2).unwrap(), balanced_kappa_with_residual(4.0, 1.0, 0.5), 1e-12);
}

#[test]
fn curvature_between_mu_and_l_costs_at_most_their_ratio() {
    // T3: κ ≤ (L/μ)·κ of the isotropic loss, at an interpolating minimiser.
    for seed in 0..20 {
        let pair = gaussian_pair(seed, 6, 2, 5);
        let w = normal(seed + 300, 6, 5).zip_with(&normal(0, 6, 5), |x, _| 0.2 + x * x);
        let (mu, l) = w.as_slice().iter().fold((f64::MAX, 0.0), |(m, l): (f64, f64), w| (m.min(*w), l.max(*w)));
        let hessian = factor_hessian(&pair, &w.scaled(0.0), |d| w.zip_with(d, |w, d| w * d));
        let bound = l / mu * pair.condition().unwrap().kappa;
        let found = kappa_of(&hessian, 2).unwrap();
        assert!(found <= bound * (1.0 + 1e-9) && found >= 1.0, "{found} {bound}");
    }
}

#[test]
fn with_uneven_inputs_some_gauge_beats_the_balanced_one() {
    // The caveat of T3: balance minimises κ of an isotropic loss and a bound for others, not κ itself. Inputs of covariance
    // X Xᵀ + 0.05 I, X [4, 4]: elsewhere a better gauge in 200 of 200 problems, the best 0.31 times the balanced κ.
    let ratio = |seed: u64| {
        let balanced = gaussian_pair(seed, 5, 2, 4).project().unwrap().pair;
        let x = normal(seed + 400, 4, 4);
        let covariance = x.multiply(&x.transpose()).add_scaled(0.05, &Matrix::scaled_identity(4, 1.0));
        let flat = balanced.product().scaled(0.0);
        let kappa =
            |pair: &LowRankPair| kappa_of(&factor_hessian(pair, &flat, |d| d.multiply(&covariance)), 2).unwrap();
        let even = kappa(&balanced);
        let gauge =
            |k: u64| normal(1000 * seed + k, 2, 2).scaled(0.3).add_scaled(1.0, &Matrix::scaled_identity(2, 1.0));
        let others = (0..200).map(|k| kappa(&balanced.regauged(&gauge(k + 500_000)).unwrap()) / even);
        others.fold(f64::INFINITY, f64::min)
    };
    let ratios: Vec<f64> = (0..20).map(ratio).collect();
    // The search is random: in NumPy its median of a hundred problems is 0.53, its worst 1.01.
    let (better, best) = (ratios.iter().filter(|x| **x < 0.99).count(), ratios.iter().copied().fold(1.0, f64::min));
    assert!(better >= 18 && best < 0.6, "{ratios:?}");
}

#[test]
fn a_hessian_of_nothing_but_the_gauge_is_refused() {
    let error = extremes(&Matrix::scaled_identity(1, 1.0), 1).unwrap_err().to_string();
    assert!(error.contains("at least r² + 2"), "{error}");
}
