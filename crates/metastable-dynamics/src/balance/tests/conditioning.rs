use super::{close, from_stream, gaussian_pair, median, normal, relative_error};
use crate::balance::condition::{balanced_kappa_with_residual, rank_one_kappa};
use crate::balance::{LowRankPair, norm_balanced};
use crate::linalg::Matrix;
use crate::random::numpy::RandomState;

/// Eigenvalues, ascending, of the Hessian of ½‖B A - Z‖² in the entries of (A, B), from its definition:
/// H[(dA, dB)] = (Bᵀ D + dBᵀ E, D Aᵀ + E dAᵀ) with D = dB A + B dA and E = B A - Z.
fn hessian_spectrum(pair: &LowRankPair, z: &Matrix) -> Vec<f64> {
    let (a, b, r) = (pair.a(), pair.b(), pair.rank());
    let (of_a, of_b) = (r * a.columns(), b.rows() * r);
    let residual = pair.product().add_scaled(-1.0, z);
    let column = |k: usize| -> Vec<f64> {
        let at = |offset: usize, columns: usize, i: usize, j: usize| f64::from(offset + i * columns + j == k);
        let da = Matrix::from_fn(r, a.columns(), |i, j| at(0, a.columns(), i, j));
        let db = Matrix::from_fn(b.rows(), r, |i, j| at(of_a, r, i, j));
        let d = db.multiply(a).add_scaled(1.0, &b.multiply(&da));
        let on_a = b.transpose().multiply(&d).add_scaled(1.0, &db.transpose().multiply(&residual));
        let on_b = d.multiply(&a.transpose()).add_scaled(1.0, &residual.multiply(&da.transpose()));
        [on_a.as_slice(), on_b.as_slice()].concat()
    };
    let columns: Vec<Vec<f64>> = (0..of_a + of_b).map(column).collect();
    let hessian = Matrix::from_fn(of_a + of_b, of_a + of_b, |i, j| 0.5 * (columns[j][i] + columns[i][j]));
    hessian.symmetric_eigen().unwrap().0
}

/// Largest over smallest eigenvalue outside the kernel of dimension r².
fn measured_kappa(pair: &LowRankPair, z: &Matrix) -> f64 {
    let spectrum = hessian_spectrum(pair, z);
    let kernel = pair.rank() * pair.rank();
    assert!(spectrum[..kernel].iter().all(|value| value.abs() < 1e-12), "{spectrum:?}");
    spectrum[spectrum.len() - 1] / spectrum[kernel]
}

fn diagonal(entries: &[f64]) -> Matrix {
    Matrix::from_fn(entries.len(), entries.len(), |i, j| if i == j { entries[i] } else { 0.0 })
}

/// diag(2, 1) in 3 dimensions: the balanced pair of diag(4, 1, 0).
fn balanced_four_one() -> LowRankPair {
    let a = Matrix::from_rows("a", &[[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).unwrap();
    LowRankPair::new(a.clone(), a.transpose()).unwrap()
}

#[test]
fn the_hessian_at_an_exact_fit_has_the_eigenvalues_of_the_formula() {
    // O4.
    let (pair, z) = (balanced_four_one(), diagonal(&[4.0, 1.0, 0.0]));
    let expected = [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 2.0, 4.0, 4.0, 5.0, 5.0, 8.0];
    for (found, expected) in hessian_spectrum(&pair, &z).iter().zip(expected) {
        assert!((found - expected).abs() < 1e-13, "{found} {expected}");
    }
    close(pair.condition().unwrap().kappa, 8.0, 1e-13);
    for (c, kappa) in [(2.0, 68.0), (4.0, 1028.0), (10.0, 40004.0)] {
        let unbalanced = pair.regauged(&Matrix::scaled_identity(2, c)).unwrap();
        close(unbalanced.condition().unwrap().kappa, kappa, 1e-12);
        // Eigenvalues carry eps·λ_max absolutely, so κ carries eps·κ.
        close(measured_kappa(&unbalanced, &z), kappa, 1e-11);
        close(unbalanced.condition().unwrap().balanced, 8.0, 1e-12);
    }
    let shear = Matrix::from_rows("shear", &[[1.0, 1.0], [0.0, 1.0]]).unwrap();
    let sheared = pair.regauged(&shear).unwrap();
    close(sheared.condition().unwrap().kappa, 29.362_432_644, 1e-10);
    close(measured_kappa(&sheared, &z), 29.362_432_644, 1e-10);
}

#[test]
fn a_residual_makes_the_spectral_gap_the_key_quantity() {
    // O4, Z = diag(4, 1, 0.5): λ_min = (σ/2)(c² + c⁻²) - sqrt((σ/2)²(c² - c⁻²)² + σ_3²).
    let (pair, z) = (balanced_four_one(), diagonal(&[4.0, 1.0, 0.5]));
    let expected = [0.0, 0.0, 0.0, 0.0, 0.5, 1.5, 2.0, 3.5, 4.5, 5.0, 5.0, 8.0];
    for (found, expected) in hessian_spectrum(&pair, &z).iter().zip(expected) {
        assert!((found - expected).abs() < 1e-13, "{found} {expected}");
    }
    close(balanced_kappa_with_residual(4.0, 1.0, 0.5), 16.0, 1e-15);
    close(measured_kappa(&pair, &z), 16.0, 1e-12);
    for (c, kappa) in [(1.2, 19.248_606_95), (1.5, 34.190_191_15), (2.0, 92.151_828_31)] {
        let unbalanced = pair.regauged(&Matrix::scaled_identity(2, c)).unwrap();
        close(measured_kappa(&unbalanced, &z), kappa, 1e-9);
    }
}

#[test]
fn rank_one_pairs_pay_for_their_conserved_imbalance() {
    // O5.
    for (imbalance, sigma, kappa) in [(0.0, 1.0, 2.0), (4.0, 1.0, 18.944_271_910), (15.0, 2.0, 59.232_827_555)] {
        close(rank_one_kappa(imbalance, sigma), kappa, 1e-10);
        // a² - b² = D, a b = σ.
        let a = ((f64::hypot(imbalance, 2.0 * sigma) + imbalance) / 2.0).sqrt();
        let pair = LowRankPair::new(
            Matrix::from_rows("a", &[[sigma / a, 0.0]]).unwrap(),
            Matrix::from_rows("b", &[[a], [0.0]]).unwrap(),
        );
        close(pair.unwrap().condition().unwrap().kappa, kappa, 1e-10);
    }
}

#[test]
fn no_gauge_has_a_smaller_condition_number_than_the_balanced_one() {
    for seed in 0..200 {
        let pair = gaussian_pair(seed, 7, 3, 6);
        let other = pair.regauged(&normal(seed + 5000, 3, 3)).unwrap().condition().unwrap();
        let optimum = pair.condition().unwrap().balanced;
        close(other.balanced, optimum, 1e-9);
        assert!(other.kappa >= optimum * (1.0 - 1e-9), "{} {optimum}", other.kappa);
    }
}

#[test]
fn one_number_per_pair_recovers_much_of_the_condition() {
    // O17: Gaussian factors 12 x 4 · 4 x 9 with log-normal scales; median κ/κ_bal with equal norms 2.12 elsewhere, where
    // scales of another law gave 4.64 without.
    let mut ratios = [Vec::new(), Vec::new(), Vec::new()];
    for seed in 0..1001 {
        let mut stream = RandomState::new(5000 + seed);
        let mut next = |rows, columns| from_stream(&mut stream, rows, columns);
        let (a, b, scales) = (next(4, 9), next(12, 4), next(1, 2));
        let pair = LowRankPair::new(a.scaled(scales.at(0, 0).exp()), b.scaled(scales.at(0, 1).exp())).unwrap();
        let ratio = |pair: &LowRankPair| pair.condition().map(|found| found.kappa / found.balanced).unwrap();
        ratios[0].push(ratio(&pair));
        ratios[1].push(ratio(&norm_balanced(&pair).unwrap().unwrap().0));
        ratios[2].push(ratio(&pair.project().unwrap().pair));
    }
    let [raw, scalar, balanced] = ratios.map(median);
    // Singular values of κ up to 1e4 carry 1e-12.
    close(raw, 6.932_946_625_871_689, 1e-10);
    close(scalar, 2.239_664_835_398_4, 1e-10);
    close(balanced, 1.0, 1e-12);
    // A median of a few hundred ratios that spread over a decade is known to about 10 %.
    close(scalar, 2.12, 0.1);
}

/// (X Xᵀ)^½ and (XᵀX)^½ of the best approximation of X of rank r, which is X here.
fn square_roots(x: &Matrix, r: usize) -> (Matrix, Matrix) {
    let found = crate::balance::jacobi::jacobi(x).unwrap();
    // Rows of the left are σ_k u_k: Σ σ_k u_k u_kᵀ and Σ σ_k v_k v_kᵀ.
    let scaled =
        |m: &Matrix, power: f64| Matrix::from_fn(r, m.columns(), |k, j| found.values[k].powf(power) * m.at(k, j));
    let (left, right) = (scaled(&found.scaled_left, -0.5), scaled(&found.right, 0.5));
    (left.transpose().multiply(&left), right.transpose().multiply(&right))
}

/// The best approximation of rank r.
fn truncated(x: &Matrix, r: usize) -> Matrix {
    let found = crate::balance::jacobi::jacobi(x).unwrap();
    let keep = |m: &Matrix| Matrix::from_fn(r, m.columns(), |i, j| m.at(i, j));
    keep(&found.scaled_left).transpose().multiply(&keep(&found.right))
}

#[test]
fn balanced_gradient_descent_has_an_intrinsic_recursion() {
    // O9: X⁺ = X - τ((XXᵀ)^½ G + G (XᵀX)^½) + τ² G Xᵀ G, truncated to rank r; 2.0e-15 after 300 steps elsewhere.
    let z = truncated(&normal(31, 6, 5), 2);
    let mut pair = gaussian_pair(32, 6, 2, 5).project().unwrap().pair;
    let mut x = pair.product();
    let rate = 0.02;
    for _ in 0..300 {
        let g = x.add_scaled(-1.0, &z);
        let (left, right) = square_roots(&x, 2);
        let curved = g.multiply(&x.transpose()).multiply(&g);
        x = x.add_scaled(-rate, &left.multiply(&g)).add_scaled(-rate, &g.multiply(&right));
        x = truncated(&x.add_scaled(rate * rate, &curved), 2);

        let g = pair.product().add_scaled(-1.0, &z);
        let (g_a, g_b) = (pair.b().transpose().multiply(&g), g.multiply(&pair.a().transpose()));
        let stepped = LowRankPair::new(pair.a().add_scaled(-rate, &g_a), pair.b().add_scaled(-rate, &g_b));
        pair = stepped.unwrap().project().unwrap().pair;
    }
    // Some eps a step, contracted by the descent.
    assert!(relative_error(&pair.product(), &x) < 1e-13, "{}", relative_error(&pair.product(), &x));
    // The run arrived somewhere: it fits the target.
    assert!(relative_error(&x, &z) < 1e-2);
}
