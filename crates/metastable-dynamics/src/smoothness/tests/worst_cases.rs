//! Clouds in a ball where the constant is large: closed forms and lower values.

use proptest::prelude::*;

use super::*;
use crate::smoothness::a_priori::{APriori, Norms};
use crate::smoothness::worst_case::{
    three_cluster, three_cluster_lower, two_point_cloud, two_point_lower, two_point_norm, two_points,
};

fn scaled_identity_head(gamma: f64) -> Head {
    head_of(&Matrix::scaled_identity(2, gamma), &Matrix::scaled_identity(2, 1.0))
}

/// Tables of the theory's section 5, item 5 [derived].
#[test]
fn two_point_norms_are_the_tabulated_ones() {
    let opposed = [
        (1.0, 2, 1.601543),
        (1.0, 8, 2.874126),
        (1.0, 32, 2.805418),
        (1.0, 1024, 1.171448),
        (1.5, 32, 9.211639),
        (1.5, 128, 17.196384),
        (2.0, 8, 2.689575),
        (2.0, 128, 14.370592),
        (2.0, 1024, 72.612585),
        (2.0, 8192, 165.838297),
    ];
    for (r, n, expected) in opposed {
        let found = two_point_norm([-r, r], -1.0, n);
        assert!((found - expected).abs() < 6e-7, "R = {r}, n = {n}: {found}");
    }
    for (r, n, expected) in [(1.0, 8, 3.089921), (1.5, 128, 17.035991), (2.0, 1024, 72.491959)] {
        let found = two_point_norm([r, r / 2.0], 8.0, n);
        assert!((found - expected).abs() < 6e-7, "R = {r}, n = {n}: {found}");
    }
}

/// sup over n for A = -I, theory 2.5 [derived].
#[test]
fn two_point_norms_approach_the_mean_field_bound() {
    for (r, best, at, bound) in [
        (0.5, 1.0125, 7, 1.8550),
        (1.0, 3.0681, 15, 6.4366),
        (1.5, 18.178, 222, 33.085),
        (2.0, 165.85, 8042, 276.99),
        (2.5, 2329.09, 753_257, 3761.8),
    ] {
        let found = two_point_norm([-r, r], -1.0, at);
        assert!((found / best - 1.0).abs() < 5e-5, "R = {r}: {found}");
        let norms = Norms::of(&scaled_identity_head(-1.0), &softmax(Mask::Full)).unwrap();
        let upper = APriori::of(&norms, &softmax(Mask::Full), at, r).unwrap().mean_field.unwrap().value();
        assert!((upper / bound - 1.0).abs() < 5e-5 && upper > found, "R = {r}: {upper}");
    }
}

/// Three clusters with V = I, theory section 5 [derived].
#[test]
fn three_clusters_have_the_tabulated_constants() {
    let rows = [
        (-1.0, 2.0, 8, Mask::Full, 7.84199, 6.56735),
        (-1.0, 2.0, 8, Mask::Causal, 7.96892, 6.71535),
        (-1.0, 3.0, 64, Mask::Full, 51.03027, 49.91890),
        (-1.0, 3.0, 64, Mask::Causal, 51.12512, 50.01276),
        (16.0, 2.0, 64, Mask::Full, 93.853, 88.167),
        (8.0, 2.0, 16, Mask::Full, 23.716, 18.761),
    ];
    for (gamma, r, n, mask, exact, lower) in rows {
        let head = scaled_identity_head(gamma);
        let case = three_cluster(&head, &softmax(mask), r, n).unwrap().unwrap();
        // Printed to five or three decimals.
        let printed = if gamma < 0.0 { 6e-6 } else { 6e-4 };
        assert!((case.lower - lower).abs() < printed, "{gamma} {r} {n} {mask:?}: {}", case.lower);
        let found = constant(&[head], softmax(mask), case.tokens.as_slice());
        assert!((found - exact).abs() < printed, "{gamma} {r} {n} {mask:?}: {found}");
    }
    let norms = Norms::of(&scaled_identity_head(-1.0), &softmax(Mask::Full)).unwrap();
    let upper = APriori::of(&norms, &softmax(Mask::Full), 64, 3.0).unwrap().unified.value();
    assert!((upper - 88.99996).abs() < 6e-6, "{upper}");
}

#[test]
fn two_points_scale_like_the_root_of_n_while_n_is_small() {
    let found = two_point_lower(Mask::Full, [-2.0, 2.0], -1.0, 32) / 32.0_f64.sqrt();
    // R = 2, γ = 1, n = 32: 5.5105/√32 = 0.974.
    assert!((found - 0.974).abs() < 5e-4, "{found}");
    let root = 2.0_f64.sqrt();
    let causal = two_point_lower(Mask::Causal, [-root, root], -1.0, 200_000);
    // e^{γ R²} as n → ∞: the sum is below the integral by 1/2 of e^4, and by e^8/n for what is left out.
    assert!((causal / 2.0_f64.exp() - 1.0).abs() < 1e-2, "{causal}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn two_point_closed_forms_are_the_norms_of_the_jacobian(alpha in -2.0_f64..2.0, beta in -2.0_f64..2.0, gamma in -3.0_f64..3.0, n in 1_usize..7, other in -3.0_f64..3.0) {
        let a = Matrix::from_rows("A", &[[gamma, 0.0], [0.0, other]]).unwrap();
        let head = head_of(&a, &Matrix::scaled_identity(2, 1.0));
        let cloud = two_point_cloud(&[1.0, 0.0], [alpha, beta], n).unwrap();
        // Rounding of a dense SVD of at most 12 numbers a side.
        let (closed, exact) = (two_point_norm([alpha, beta], gamma, n), constant(&[head], softmax(Mask::Full), cloud.as_slice()));
        prop_assert!((closed - exact).abs() <= 1e-13 * exact.max(1.0), "{closed} {exact}");
    }

    /// Both constructions from the eigenpairs of a random head: lower ≤ constant ≤ unified bound of the ball.
    #[test]
    fn worst_cases_lie_between_their_lower_value_and_the_bound(seed in 0_u64..1_000_000, n in 2_usize..8, d in 2_usize..4, r in 0.2_f64..2.0, causal in any::<bool>()) {
        let kernel = softmax(MASKS[usize::from(causal)]);
        let head = head_of(&matrix(seed, d, d, 1.0), &matrix(seed + 1, d, d, 1.0));
        let norms = Norms::of(&head, &kernel).unwrap();
        let cases = [two_points(&head, &kernel, r, n).unwrap(), three_cluster(&head, &kernel, r, n).unwrap()];
        for case in cases.into_iter().flatten() {
            let exact = constant(std::slice::from_ref(&head), kernel, case.tokens.as_slice());
            // Eigenvectors of nearly defective matrices are known to the root of eps.
            prop_assert!(case.lower <= exact * (1.0 + 1e-6), "{} > {exact}", case.lower);
            let bound = APriori::of(&norms, &kernel, n, r * (1.0 + 1e-12)).unwrap();
            prop_assert!(exact.ln() <= bound.unified.ln + 1e-12 && exact.ln() <= bound.general.unwrap().ln);
            prop_assert!(case.tokens.view().iter().all(|x| crate::linalg::norm(x) <= r * (1.0 + 1e-12)));
        }
        prop_assert!(three_cluster_lower(Mask::Full, r, -1.0, n) >= 0.0);
    }
}
