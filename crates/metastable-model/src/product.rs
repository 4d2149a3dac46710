//! Matrix products of strided views of f32 or f64: the one place that calls the `gemm` library.
//!
//! [`multiply`] stays on the calling thread: callers split outputs into blocks whose size does not depend on the number
//! of threads. [`multiply_on_all`] lets the library share out tiles of the output: it packs every operand once, which
//! blocks cannot. Either way every number is computed by the same instructions in the same order on any pool.

use gemm::Parallelism;

/// A read-only matrix inside a slice: entry (i, j) stands at i·row_stride + j·column_stride.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a, T = f32> {
    values: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T> Strided<'a, T> {
    /// The first `columns` numbers of each run of `row_stride`.
    ///
    /// # Panics
    /// If the matrix has no entry or reaches beyond the slice.
    pub(crate) fn new(values: &'a [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(rows > 0 && columns > 0, "a matrix has at least one entry");
        assert!((rows - 1) * row_stride + columns <= values.len(), "a view inside its slice");
        Self { values, rows, columns, row_stride, column_stride: 1 }
    }

    /// The transpose, without moving anything.
    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// What a matrix may hold.
pub(crate) trait Entry: Copy + Send + Sync + 'static {
    /// 1.
    const ONE: Self;
}

impl Entry for f32 {
    const ONE: Self = 1.0;
}

impl Entry for f64 {
    const ONE: Self = 1.0;
}

/// What a product does with the numbers already in its destination.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Forgets them.
    Overwrite,
    /// Adds to them.
    Add,
}

/// c = scale·a b, or c += scale·a b, with c row-major and dense. O(rows·inner·columns).
///
/// # Panics
/// If the sides do not fit.
pub(crate) fn multiply<T: Entry>(
    scale: T,
    a: Strided<'_, T>,
    b: Strided<'_, T>,
    destination: Destination,
    c: &mut [T],
) {
    multiply_with(Parallelism::None, scale, a, b, destination, c);
}

/// As [`multiply`], on all threads of the pool: for large products.
///
/// # Panics
/// As [`multiply`].
pub(crate) fn multiply_on_all<T: Entry>(
    scale: T,
    a: Strided<'_, T>,
    b: Strided<'_, T>,
    destination: Destination,
    c: &mut [T],
) {
    multiply_with(Parallelism::Rayon(0), scale, a, b, destination, c);
}

#[allow(unsafe_code)]
fn multiply_with<T: Entry>(
    parallelism: Parallelism,
    scale: T,
    a: Strided<'_, T>,
    b: Strided<'_, T>,
    destination: Destination,
    c: &mut [T],
) {
    assert_eq!(a.columns, b.rows, "inner sides of a product");
    assert_eq!(c.len(), a.rows * b.columns, "a destination of the product's size");
    // SAFETY: `Entry` is f32 or f64, which `gemm` takes. `Strided` keeps every entry of a and b inside its slice
    // (checked by its constructor, kept by `transposed`); c is exclusively borrowed and holds exactly rows·columns
    // entries of row stride b.columns. All strides are below isize::MAX because slices are.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            c.as_mut_ptr(),
            1,
            b.columns as isize,
            destination == Destination::Add,
            a.values.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            T::ONE,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_products_are_the_same_on_any_number_of_threads() {
        // Inner sides beyond one block of the library's, outputs that fill no whole tile.
        let (rows, inner, columns) = (203, 1300, 771);
        let entry = |i: usize| ((i * 2_654_435_761) % 1021) as f32 / 512.0 - 1.0;
        let a: Vec<f32> = (0..rows * inner).map(entry).collect();
        let b: Vec<f32> = (0..columns * inner).map(|i| entry(i + 7)).collect();
        let product = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut c = vec![0.5; rows * columns];
            let right = Strided::new(&b, columns, inner, inner).transposed();
            pool.install(|| {
                multiply_on_all(2.0, Strided::new(&a, rows, inner, inner), right, Destination::Add, &mut c)
            });
            c
        };
        let alone = product(1);
        let mut quiet = vec![0.5; rows * columns];
        let right = Strided::new(&b, columns, inner, inner).transposed();
        multiply(2.0, Strided::new(&a, rows, inner, inner), right, Destination::Add, &mut quiet);
        assert_eq!(alone, quiet);
        for threads in [2, 3, 5] {
            assert_eq!(product(threads), alone, "{threads} threads");
        }
    }

    #[test]
    fn strided_products_agree_with_the_triple_loop() {
        let a: Vec<f32> = (0..60).map(|i| ((i * 7 % 11) as f32) - 5.0).collect();
        let b: Vec<f32> = (0..60).map(|i| ((i * 5 % 13) as f32) - 6.0).collect();
        // a: 4 x 3 out of rows of 10, b: the transpose of 5 x 3 out of rows of 12.
        let mut c = vec![1.0; 20];
        let right = Strided::new(&b, 5, 3, 12).transposed();
        multiply(0.5, Strided::new(&a[2..], 4, 3, 10), right, Destination::Add, &mut c);
        for i in 0..4 {
            for j in 0..5 {
                let exact: f32 = (0..3).map(|k| a[2 + 10 * i + k] * b[12 * j + k]).sum();
                assert_eq!(c[5 * i + j], 1.0 + 0.5 * exact, "small integers are exact");
            }
        }
        multiply(1.0, Strided::new(&a[2..], 4, 3, 10), right, Destination::Overwrite, &mut c);
        assert_eq!(c[0], (0..3).map(|k| a[2 + k] * b[k]).sum::<f32>());
    }
}
