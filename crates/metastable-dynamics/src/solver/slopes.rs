//! The slopes of one step: taken, counted, combined.

use super::tableau::Tableau;
use crate::field::VectorField;
use crate::geometry::Geometry;

/// The field on its space.
#[derive(Clone, Copy)]
pub(super) struct System<'f> {
    pub(super) field: &'f dyn VectorField,
    pub(super) geometry: &'f dyn Geometry,
}

impl System<'_> {
    /// Moves `state` back to the space.
    pub(super) fn retract(&self, state: &mut [f64]) {
        if !self.geometry.is_flat() {
            self.geometry.retract(state);
        }
    }
}

/// A step on trial: from `t` to `t_new`, which is t + h up to rounding.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trial {
    pub(super) t: f64,
    pub(super) t_new: f64,
    pub(super) h: f64,
}

impl Trial {
    /// t + c h; exactly `t_new` for c = 1, so that no stage looks beyond the end.
    fn time(&self, c: f64) -> f64 {
        if c == 1.0 { self.t_new } else { self.t + c * self.h }
    }
}

/// Where f(t, y) at the current state is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Current {
    /// Nowhere. `counted` says whether an interrupted solve had taken it already.
    Missing { counted: bool },
    /// In slot 0: the next step can begin.
    First,
    /// In slot s, the end slope of the last step.
    End,
}

/// Slots 0..s hold the stages, slot s the end slope, later ones the stages of the dense output.
pub(super) struct Slopes {
    values: Vec<Vec<f64>>,
    argument: Vec<f64>,
    third: Vec<f64>,
    current: Current,
    extra_known: bool,
    pub(super) evaluations: u64,
    /// What every evaluation of the step starts from: remembered at the step's start.
    memory: Vec<f64>,
    /// What was remembered at the end slope.
    end_memory: Vec<f64>,
    spare: Vec<f64>,
}

impl Slopes {
    /// Room for the slopes of a method on states of `len` entries.
    pub(super) fn new(tableau: &Tableau, len: usize, (evaluations, counted): (u64, bool), memory: Vec<f64>) -> Self {
        let has_third = tableau.error.as_ref().is_some_and(|error| error.third.is_some());
        Self {
            values: vec![vec![0.0; len]; tableau.len() + 1 + tableau.extra().len()],
            argument: vec![0.0; len],
            third: vec![0.0; if has_third { len } else { 0 }],
            current: Current::Missing { counted },
            extra_known: false,
            evaluations,
            memory,
            end_memory: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// What the next evaluation starts from.
    pub(super) fn memory(&self) -> &[f64] {
        &self.memory
    }

    /// Whether f at the current state is among the counted evaluations.
    pub(super) fn is_current_counted(&self) -> bool {
        self.current != Current::Missing { counted: false }
    }

    /// Puts f(t, y) at the current state into slot 0, by exchange with the end slope where there is one.
    pub(super) fn begin(&mut self, system: &System, end: usize, t: f64, y: &[f64]) {
        match self.current {
            Current::First => {}
            Current::End => {
                self.values.swap(0, end);
                std::mem::swap(&mut self.memory, &mut self.end_memory);
            }
            Current::Missing { counted } => {
                system.field.evaluate_from(t, y, &self.memory, &mut self.spare, &mut self.values[0]);
                std::mem::swap(&mut self.memory, &mut self.spare);
                self.evaluations += u64::from(!counted);
            }
        }
        self.current = Current::First;
    }

    /// The slope at the current state, after [`Slopes::begin`].
    pub(super) fn first(&self) -> &[f64] {
        &self.values[0]
    }

    /// Takes the stages 1..s and writes y + h sum b_i k_i, retracted, into `y_new`; false if anything is not finite.
    ///
    /// On a curved space each stage argument is retracted first. For the sphere this integrates the extension
    /// G(x) = F(x/|x|) of the field F to the space around it: <x, G(x)> = |x| <u, F(u)> = 0 at u = x/|x| for a
    /// tangent F, so the exact flow of G keeps |x| = 1 and agrees there with that of F. The method approximates it
    /// with its full order, and retracting the result changes no more than its local error.
    pub(super) fn take(
        &mut self,
        system: &System,
        tableau: &Tableau,
        trial: Trial,
        y: &[f64],
        y_new: &mut [f64],
    ) -> bool {
        for (i, row) in tableau.stages.iter().enumerate().skip(1) {
            if !self.take_one(system, trial.time(tableau.nodes[i]), trial.h, (i, row), y) {
                return false;
            }
        }
        combine(y_new, y, trial.h, tableau.weights, &self.values);
        system.retract(y_new);
        is_finite(y_new)
    }

    /// Takes the end slope f(t_new, y_new); false if it is not finite. G does not depend on |x|, so this is the
    /// last stage of a first-same-as-last pair on curved spaces too.
    pub(super) fn take_end(&mut self, system: &System, end: usize, t_new: f64, y_new: &[f64]) -> bool {
        system.field.evaluate_from(t_new, y_new, &self.memory, &mut self.end_memory, &mut self.values[end]);
        self.evaluations += 1;
        is_finite(&self.values[end])
    }

    /// Declares the step taken; `has_end` tells whether its end slope is known.
    pub(super) fn accept(&mut self, has_end: bool) {
        self.current = if has_end { Current::End } else { Current::Missing { counted: false } };
        self.extra_known = false;
    }

    /// Takes what the dense output of the last step needs and is not there yet.
    pub(super) fn complete(&mut self, system: &System, tableau: &Tableau, trial: Trial, y: &[f64], y_new: &[f64]) {
        if tableau.dense_slopes() > tableau.len() && self.current != Current::End {
            self.take_end(system, tableau.len(), trial.t_new, y_new);
            self.current = Current::End;
        }
        if !self.extra_known {
            for (i, extra) in tableau.extra().iter().enumerate() {
                let slot = tableau.len() + 1 + i;
                self.take_one(system, trial.time(extra.node), trial.h, (slot, extra.row), y);
            }
            self.extra_known = true;
        }
    }

    /// Slot i = f(t, retract(y + h sum_j row_j k_j)); false if it is not finite.
    fn take_one(&mut self, system: &System, t: f64, h: f64, (i, row): (usize, &[f64]), y: &[f64]) -> bool {
        combine(&mut self.argument, y, h, row, &self.values);
        system.retract(&mut self.argument);
        system.field.evaluate_from(t, &self.argument, &self.memory, &mut self.spare, &mut self.values[i]);
        self.evaluations += 1;
        is_finite(&self.values[i])
    }

    /// The slopes' combinations sum_i e_i k_i that estimate the error: of order 5 (or the pair's), and of order 3.
    pub(super) fn error_estimates(&mut self, fifth: &[f64], third: Option<&[f64]>) -> (&[f64], Option<&[f64]>) {
        sum(&mut self.argument, fifth, &self.values);
        if let Some(weights) = third {
            sum(&mut self.third, weights, &self.values);
        }
        (&self.argument, third.map(|_| self.third.as_slice()))
    }

    /// Writes (f(t + h, retract(y + h f)) - f) / h into the first half of the returned pair, f into the second:
    /// the explicit Euler probe of the first step.
    pub(super) fn probe(&mut self, system: &System, trial: Trial, y: &[f64]) -> (&[f64], &[f64]) {
        self.take_one(system, trial.t_new, trial.h, (1, &[1.0]), y);
        let (first, others) = self.values.split_at_mut(1);
        others[0].iter_mut().zip(&first[0]).for_each(|(change, f)| *change = (*change - f) / trial.h);
        (&others[0], &first[0])
    }

    /// y + h sum_i weights_i k_i.
    pub(super) fn combine(&self, out: &mut [f64], y: &[f64], h: f64, weights: &[f64]) {
        combine(out, y, h, weights, &self.values);
    }
}

/// Whether every entry is finite.
pub(super) fn is_finite(values: &[f64]) -> bool {
    values.iter().all(|value| value.is_finite())
}

/// out = y + h sum_j weights_j slopes_j.
fn combine(out: &mut [f64], y: &[f64], h: f64, weights: &[f64], slopes: &[Vec<f64>]) {
    sum(out, weights, slopes);
    out.iter_mut().zip(y).for_each(|(out, y)| *out = y + h * *out);
}

/// out = sum_j weights_j slopes_j, skipping zero weights (their slots may hold anything). In pieces that stay in the
/// first-level cache while the slopes pass by.
fn sum(out: &mut [f64], weights: &[f64], slopes: &[Vec<f64>]) {
    const PIECE: usize = 1024;
    for (piece, out) in out.chunks_mut(PIECE).enumerate() {
        out.fill(0.0);
        let start = piece * PIECE;
        for (weight, slope) in weights.iter().zip(slopes).filter(|(weight, _)| **weight != 0.0) {
            out.iter_mut().zip(&slope[start..]).for_each(|(out, slope)| *out += weight * slope);
        }
    }
}
