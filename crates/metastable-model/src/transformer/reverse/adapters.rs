//! The factors of all adapted maps in the numbers of a pass, and where their gradients go.

use super::map::{FactorGradients, Factors};
use super::real::Real;

/// A linear map of a block that an adapter can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    Query,
    Key,
    Value,
    AttentionOutput,
    FeedForwardIn,
    FeedForwardGate,
    FeedForwardOut,
}

impl Slot {
    pub(crate) const ALL: [Self; 7] = [
        Self::Query,
        Self::Key,
        Self::Value,
        Self::AttentionOutput,
        Self::FeedForwardIn,
        Self::FeedForwardGate,
        Self::FeedForwardOut,
    ];
}

/// Which module adapts a slot, and which rows of its B are this map's (GPT-2 joins query, key and value in one).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) module: usize,
    pub(crate) first_row: usize,
    pub(crate) rows: usize,
}

/// Where modules sit: one entry a distinct block and slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Places {
    blocks: Vec<[Option<Place>; Slot::ALL.len()]>,
}

impl Places {
    pub(crate) fn none(blocks: usize) -> Self {
        Self { blocks: vec![[None; Slot::ALL.len()]; blocks] }
    }

    pub(crate) fn set(&mut self, block: usize, slot: Slot, place: Place) {
        self.blocks[block][slot as usize] = Some(place);
    }

    pub(crate) fn at(&self, block: usize, slot: Slot) -> Option<Place> {
        self.blocks[block][slot as usize]
    }

    pub(crate) fn is_adapted(&self, block: usize) -> bool {
        self.blocks[block].iter().any(Option::is_some)
    }
}

/// One module's factors, or their gradients, in the numbers of the pass.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ModuleValues<T> {
    /// [r, inputs].
    pub(crate) a: Vec<T>,
    /// [outputs, r].
    pub(crate) b: Vec<T>,
    pub(crate) rank: usize,
    pub(crate) scale: T,
    /// c of DoRA.
    pub(crate) row_factors: Option<Vec<T>>,
}

impl<T: Real> ModuleValues<T> {
    pub(crate) fn zeros_like(&self) -> Self {
        let zeros = |values: &[T]| vec![T::default(); values.len()];
        Self { a: zeros(&self.a), b: zeros(&self.b), row_factors: self.row_factors.as_deref().map(zeros), ..*self }
    }
}

/// All modules of a pass.
pub(crate) struct Adapters<'a, T> {
    pub(crate) places: &'a Places,
    pub(crate) modules: &'a [ModuleValues<T>],
}

impl<T: Real> Adapters<'_, T> {
    pub(crate) fn factors(&self, block: usize, slot: Slot) -> Option<Factors<'_, T>> {
        let place = self.places.at(block, slot)?;
        let module = &self.modules[place.module];
        let rows = place.first_row..place.first_row + place.rows;
        Some(Factors {
            a: &module.a,
            b: &module.b[rows.start * module.rank..rows.end * module.rank],
            rank: module.rank,
            scale: module.scale,
            row_factors: module.row_factors.as_ref().map(|c| &c[rows]),
        })
    }
}

/// Sums of gradients, one entry a module.
pub(crate) struct Gradients<'a, T> {
    pub(crate) places: &'a Places,
    pub(crate) modules: &'a mut [ModuleValues<T>],
}

impl<T: Real> Gradients<'_, T> {
    pub(crate) fn at(&mut self, block: usize, slot: Slot) -> Option<FactorGradients<'_, T>> {
        let place = self.places.at(block, slot)?;
        let module = &mut self.modules[place.module];
        let rows = place.first_row..place.first_row + place.rows;
        Some(FactorGradients {
            a: &mut module.a,
            b: &mut module.b[rows.start * module.rank..rows.end * module.rank],
            row_factors: module.row_factors.as_mut().map(|c| &mut c[rows]),
        })
    }
}
