//! The spectral norm of a large weight matrix from above, by products alone.

use super::real::Real;
use crate::product::{Destination, Strided, multiply};

/// Covers the rounding of sums of some thousand products in f64.
const ROUNDING: f64 = 1e-10;

/// ‖W‖_2 ≤ (Σ σ^16)^{1/16}, the Schatten norm of order 16, for W [rows, columns]: with G the smaller Gram matrix,
/// ‖G⁴‖_F^{1/8}. Above by at most min(rows, columns)^{1/16}, by a few per cent where singular values decay.
/// O(min(rows, columns)²·(rows + columns)).
///
/// # References
/// J. von Neumann's trace inequalities; R. Bhatia, "Matrix Analysis", 1997, chapter IV (norms decrease in p) \[2nd\].
pub(crate) fn spectral_norm_upper<T: Real>(weight: &[T], rows: usize, columns: usize) -> f64 {
    let weight: Vec<f64> = weight.iter().map(|x| x.to_f64()).collect();
    let (side, w) = (rows.min(columns), Strided::new(&weight, rows, columns, columns));
    let mut gram = vec![0.0; side * side];
    let [left, right] = if rows <= columns { [w, w.transposed()] } else { [w.transposed(), w] };
    multiply(1.0, left, right, Destination::Overwrite, &mut gram);
    let trace: f64 = (0..side).map(|i| gram[i * side + i]).sum();
    if trace == 0.0 {
        return 0.0;
    }
    gram.iter_mut().for_each(|x| *x /= trace);
    for _ in 0..2 {
        let view = Strided::new(&gram, side, side, side);
        let mut square = vec![0.0; side * side];
        multiply(1.0, view, view.transposed(), Destination::Overwrite, &mut square);
        gram = square;
    }
    let frobenius = gram.iter().map(|x| x * x).sum::<f64>().sqrt();
    (trace * frobenius.powf(0.25)).sqrt() * (1.0 + ROUNDING)
}

#[cfg(test)]
mod tests {
    use metastable_dynamics::{Matrix, random};

    use super::*;

    #[test]
    fn the_norm_is_bounded_and_nearly_attained_on_a_thousand_matrices() {
        for seed in 0..1000 {
            let (rows, columns) = (1 + seed as usize % 9, 1 + (seed as usize / 9) % 11);
            let scale = 10_f64.powi(seed as i32 % 7 - 3);
            let entries: Vec<f64> =
                random::standard_normal(seed, rows, columns).into_iter().map(|x| scale * x).collect();
            let found = spectral_norm_upper(&entries, rows, columns);
            let exact = Matrix::new("w", rows, columns, entries).unwrap().operator_norm().unwrap();
            let loose = (rows.min(columns) as f64).powf(1.0 / 16.0);
            assert!(found >= exact && found <= exact * loose * (1.0 + 1e-9), "seed {seed}: {found} {exact}");
        }
        assert_eq!(spectral_norm_upper(&[0.0_f32; 6], 2, 3), 0.0);
    }
}
