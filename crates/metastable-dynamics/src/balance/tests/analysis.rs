//! Fast paths against the slow ones.

use super::*;

#[test]
fn the_analysis_equals_its_parts() {
    for (outputs, r, inputs) in [(9, 3, 7), (40, 8, 30), (4, 4, 9), (3, 5, 4)] {
        let pair = gaussian_pair(5, outputs, r, inputs);
        let analysis = pair.analysis().unwrap();
        let (spectrum, condition) = (pair.spectrum().unwrap(), pair.condition().unwrap());
        // Both are backward stable: a few hundred eps of the largest value.
        for (found, expected) in analysis.spectrum.iter().zip(&spectrum) {
            assert!((found - expected).abs() < 1e-13 * spectrum[0], "{found} {expected}");
        }
        assert_eq!(analysis.spectrum.len(), r);
        close(analysis.gap, pair.gap(), 1e-13);
        if condition.kappa.is_finite() {
            // κ squares the smallest singular value, so its error is that of σ_1/σ_r, squared.
            close(analysis.condition.kappa, condition.kappa, 1e-10);
            close(analysis.condition.balanced, condition.balanced, 1e-10);
        } else {
            assert_eq!(analysis.condition.kappa, f64::INFINITY);
        }
    }
}

#[test]
fn the_distance_of_products_is_that_of_the_dense_products() {
    let (x, y) = (gaussian_pair(1, 12, 3, 10), gaussian_pair(2, 12, 4, 10));
    let dense = x.product().add_scaled(-1.0, &y.product()).frobenius_norm();
    close(x.product_distance(&y).unwrap(), dense, 1e-13);
    let same = x.regauged(&normal(77, 3, 3)).unwrap();
    assert!(x.product_distance(&same).unwrap() < 1e-12 * x.product().frobenius_norm());
    assert!(x.product_distance(&gaussian_pair(2, 11, 3, 10)).is_err());
}
