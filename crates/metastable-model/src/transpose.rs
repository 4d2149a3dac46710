//! Transposes of matrices that are larger than a cache.

use rayon::prelude::*;

/// Rows and columns moved at a time: two such squares stay in the nearest cache.
const SIDE: usize = 32;

/// The transpose [columns, rows] of a row-major matrix [rows, columns]. O(rows·columns), parallel over columns.
pub(crate) fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    debug_assert_eq!(values.len(), rows * columns);
    let mut out = vec![0.0; values.len()];
    out.par_chunks_mut(SIDE * rows.max(1)).enumerate().for_each(|(block, lines)| {
        for top in (0..rows).step_by(SIDE) {
            let end = (top + SIDE).min(rows);
            for (j, line) in lines.chunks_exact_mut(rows).enumerate() {
                let column = block * SIDE + j;
                for (i, x) in (top..end).zip(&mut line[top..end]) {
                    *x = values[i * columns + column];
                }
            }
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_goes_to_its_mirror_place() {
        for (rows, columns) in [(1, 1), (1, 70), (70, 1), (33, 65), (64, 32), (100, 37)] {
            let values: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
            let out = transposed(&values, rows, columns);
            for i in 0..rows {
                for j in 0..columns {
                    assert_eq!(out[j * rows + i], values[i * columns + j], "{rows} x {columns}");
                }
            }
            assert_eq!(transposed(&out, columns, rows), values);
        }
        assert!(transposed(&[], 0, 5).is_empty() && transposed(&[], 5, 0).is_empty());
    }
}
