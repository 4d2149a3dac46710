//! The renderings of a finished run: one HTML page, static SVG figures, a Markdown summary.
//!
//! Everything here is a pure function of `report.json` and of the arrays that the lab prepared for display.
//! Nothing is measured here: no observable is computed, no file is read, no clock is asked.
//! Parts of the report that are absent or null are left out of the page; they never stop it.
//!
//! Reading order: [`Display`] (what arrives), [`html`], [`figures()`], [`markdown()`], then `page/` for the
//! hand-written HTML, CSS and JavaScript.

mod figures;
mod finetune;
mod heat;
mod html;
mod markdown;
mod palette;
mod read;
mod svg;

pub use figures::figures;
pub use html::html;
pub use markdown::markdown;

/// Holds the arrays that the page moves: saved times, and the clouds of tokens at each of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Display {
    /// The `S` saved times (or layer numbers), increasing.
    pub times: Vec<f64>,
    /// The unperturbed run.
    pub base: Cloud,
    /// The run with the adapter, from the same tokens and at the same times.
    pub twin: Option<Cloud>,
    /// Particles beside the moments of a Gaussian, in its first two coordinates.
    pub samples: Option<Cloud>,
}

/// Holds one run as it is drawn: `S` snapshots of `n` tokens in at most three dimensions.
#[derive(Debug, Clone, PartialEq)]
pub struct Cloud {
    /// The number of tokens `n`.
    pub count: usize,
    /// The number of drawn dimensions: 1, 2 or 3, after the projection that the report states.
    pub dim: usize,
    /// Positions of shape `[S, n, dim]`, row-major: token after token within a snapshot.
    pub positions: Vec<f32>,
    /// The attention matrices at the saved times, where they were kept.
    pub attention: Option<AttentionMaps>,
}

/// Holds attention matrices small enough to draw: `S` squares of `m <= 64` rows.
///
/// A level is `round(255 * weight^gamma)`, so 255 is weight 1; `gamma` is `attention.gamma` of the report, 1 if absent.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionMaps {
    /// The number of rows and columns `m`.
    pub side: usize,
    /// Levels of shape `[S, m, m]`: row = the token that attends, column = the token attended to.
    pub levels: Vec<u8>,
    /// One label per row: a token index or a range of them.
    pub rows: Vec<String>,
}

impl Display {
    /// Nothing that moves: for jobs whose figures come from the report alone.
    pub fn nothing() -> Self {
        let base = Cloud { count: 0, dim: 1, positions: Vec::new(), attention: None };
        Self { times: Vec::new(), base, twin: None, samples: None }
    }
}

impl Cloud {
    /// Returns the drawn position of one token at one saved time, or `None` where the array is too short or not finite.
    pub(crate) fn at(&self, time: usize, token: usize) -> Option<&[f32]> {
        let start = (time * self.count + token) * self.dim;
        let position = self.positions.get(start..start + self.dim)?;
        (!position.is_empty() && position.iter().all(|x| x.is_finite())).then_some(position)
    }
}
