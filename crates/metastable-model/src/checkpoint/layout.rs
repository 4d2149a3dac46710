//! From the order in which a file holds the numbers of a map to [outputs, inputs].

use crate::names::Storage;

impl Storage {
    /// The shape a file gives to a tensor of canonical `shape`.
    pub(super) fn stored(self, shape: &[usize]) -> Vec<usize> {
        match (self, shape) {
            (Self::Columns, [outputs, inputs]) => vec![*inputs, *outputs],
            (Self::JoinedColumns { count, .. }, [outputs, inputs]) => vec![*inputs, count * outputs],
            (Self::JoinedColumns { count, .. }, [length]) => vec![count * length],
            _ => shape.to_vec(),
        }
    }

    /// The numbers of the tensor of canonical `shape`, row-major, out of what the file holds.
    pub(super) fn canonical(self, values: Vec<f32>, shape: &[usize]) -> Vec<f32> {
        match (self, shape) {
            (Self::Columns, [outputs, inputs]) => columns(&values, 0, *outputs, (*inputs, *outputs)),
            (Self::JoinedColumns { index, count }, [outputs, inputs]) => {
                columns(&values, index * outputs, *outputs, (*inputs, count * outputs))
            }
            (Self::JoinedColumns { index, .. }, [length]) => values[index * length..(index + 1) * length].to_vec(),
            _ => values,
        }
    }
}

/// The transpose of columns `first`..`first + count` of a row-major matrix.
fn columns(values: &[f32], first: usize, count: usize, (rows, width): (usize, usize)) -> Vec<f32> {
    let mut transposed = Vec::with_capacity(rows * count);
    for column in first..first + count {
        transposed.extend(values.iter().skip(column).step_by(width).take(rows));
    }
    transposed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_joined_maps_become_the_rows_of_each() {
        // Two inputs; maps a and b of two outputs each: [a0 a1 b0 b1] per input.
        let joined = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        let storage = |index| Storage::JoinedColumns { index, count: 2 };
        assert_eq!(storage(0).stored(&[2, 2]), [2, 4]);
        assert_eq!(storage(0).canonical(joined.clone(), &[2, 2]), [1.0, 5.0, 2.0, 6.0]);
        assert_eq!(storage(1).canonical(joined.clone(), &[2, 2]), [3.0, 7.0, 4.0, 8.0]);
        assert_eq!(storage(1).canonical(vec![1.0, 2.0, 3.0, 4.0], &[2]), [3.0, 4.0]);
        assert_eq!(Storage::Columns.stored(&[4, 2]), [2, 4]);
        assert_eq!(Storage::Columns.canonical(joined, &[4, 2]), [1.0, 5.0, 2.0, 6.0, 3.0, 7.0, 4.0, 8.0]);
    }
}
