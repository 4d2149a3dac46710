//! Rows of numbers, and the panels a sweep broadcasts from.

use crate::lanes::Real;

/// \[n, width\], one row after the other.
#[derive(Debug, Clone)]
pub(in crate::attention::fused) struct Table<T> {
    numbers: Vec<T>,
    width: usize,
}

impl<T: Real> Table<T> {
    /// A table whose rows are written by a function of the row's number.
    pub(in crate::attention::fused) fn filled(count: usize, width: usize, fill: impl Fn(usize, &mut [T])) -> Self {
        let mut numbers = vec![T::default(); count * width];
        numbers.chunks_exact_mut(width).enumerate().for_each(|(i, row)| fill(i, row));
        Self { numbers, width }
    }

    pub(in crate::attention::fused) fn width(&self) -> usize {
        self.width
    }

    pub(in crate::attention::fused) fn count(&self) -> usize {
        self.numbers.len() / self.width
    }

    pub(in crate::attention::fused) fn row(&self, i: usize) -> &[T] {
        &self.numbers[i * self.width..(i + 1) * self.width]
    }

    pub(in crate::attention::fused) fn rows(&self) -> impl Iterator<Item = &[T]> {
        self.numbers.chunks_exact(self.width)
    }

    /// All numbers.
    pub(in crate::attention::fused) fn numbers(&self) -> &[T] {
        &self.numbers
    }

    /// All numbers, to be written.
    pub(in crate::attention::fused) fn numbers_mut(&mut self) -> &mut [T] {
        &mut self.numbers
    }
}

/// Panels of SIZE rows, component after component: \[panel\]\[component\]\[row\], filled up with zeros.
pub(in crate::attention::fused) fn panels_of_rows<T: Real, const SIZE: usize>(table: &Table<T>) -> Vec<[T; SIZE]> {
    let (width, panels) = (table.width, table.count().div_ceil(SIZE));
    let mut panels = vec![[T::default(); SIZE]; panels * width];
    for (panel, rows) in panels.chunks_exact_mut(width).zip(table.numbers.chunks(SIZE * width)) {
        for (r, row) in rows.chunks_exact(width).enumerate() {
            panel.iter_mut().zip(row).for_each(|(entry, number)| entry[r] = *number);
        }
    }
    panels
}

/// Panels of SIZE components from component `first` on, row after row: \[panel\]\[row\]\[component\], filled up with
/// zeros to whole panels and to a multiple of SIZE rows.
pub(in crate::attention::fused) fn panels_of_components<T: Real, const SIZE: usize>(
    table: &Table<T>,
    first: usize,
) -> Vec<[T; SIZE]> {
    let rows = table.count().next_multiple_of(SIZE);
    let mut panels = vec![[T::default(); SIZE]; rows * (table.width - first).div_ceil(SIZE)];
    for (p, panel) in panels.chunks_exact_mut(rows).enumerate() {
        let start = first + p * SIZE;
        let end = (start + SIZE).min(table.width);
        for (entry, row) in panel.iter_mut().zip(table.rows()) {
            entry[..end - start].copy_from_slice(&row[start..end]);
        }
    }
    panels
}
