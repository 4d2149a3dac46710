//! Heads as their weights alone describe them: rows of the report, a table, and the spectra in full.

use std::collections::BTreeMap;
use std::str::FromStr;

use metastable_model::{Config, DistancePoint, HeadSpectrum, Weights};
use serde::Serialize;

use super::report::HeadConstantRow;
use super::setting;
use crate::arrays::{Tensor, TensorData, safetensors_bytes};
use crate::error::LabError;
use crate::table::{Column, Table};

/// One head's circuits.
#[derive(Debug, Clone, Serialize)]
pub struct HeadRow {
    /// The block, from 0.
    pub layer: usize,
    /// The head, from 0.
    pub head: usize,
    /// The key and value head that it shares with the other heads of its group.
    pub kv_head: usize,
    /// Both circuits; arrays to six digits, heads.safetensors has them in full.
    #[serde(flatten)]
    pub spectrum: HeadSpectrum,
    /// 1 minus `qk_symmetric_share`.
    pub qk_antisymmetric_share: Option<f64>,
    /// The query-key circuit over relative positions, where asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub qk_by_distance: Vec<DistanceRow>,
    /// How steep the head with its part of the output map is at the text; none without a text and for long ones.
    pub lipschitz: Option<HeadConstantRow>,
}

/// The circuit by which a token scores one that stands `distance` places before it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DistanceRow {
    /// Places between the two.
    pub distance: usize,
    /// Operator norm.
    pub norm: f64,
    /// Frobenius norm.
    pub frobenius: f64,
    /// As [`HeadSpectrum::qk_symmetric_share`].
    pub symmetric_share: Option<f64>,
}

impl From<DistancePoint> for DistanceRow {
    fn from(point: DistancePoint) -> Self {
        let DistancePoint { distance, norm, frobenius, symmetric_share, .. } = point;
        Self { distance, norm, frobenius, symmetric_share }
    }
}

/// Heads of a checkpoint, in order, with their spectra in full.
pub(super) struct Heads {
    pub(super) rows: Vec<HeadRow>,
    spectra: Vec<HeadSpectrum>,
}

impl Heads {
    /// The heads of some blocks, read block by block; `distances` are relative positions, none to leave those out.
    pub(super) fn of(weights: &Weights, layers: &[usize], distances: &[usize]) -> Result<Self, LabError> {
        let mut heads = Self { rows: Vec::new(), spectra: Vec::new() };
        for &layer in layers {
            for (head, spectrum) in weights.spectra(layer)?.into_iter().enumerate() {
                let mut row = row(weights.config(), (layer, head), &spectrum);
                if !distances.is_empty() {
                    let curve = weights.query_key_by_distance(layer, head, distances)?;
                    row.qk_by_distance = curve.into_iter().map(DistanceRow::from).collect();
                }
                heads.rows.push(row);
                heads.spectra.push(spectrum);
            }
        }
        Ok(heads)
    }

    /// `layer`, `head` \[heads\], `qk_singular_values`, `ov_singular_values` [heads, k], `ov_eigenvalues` [heads, k, 2].
    pub(super) fn arrays(&self) -> Vec<u8> {
        let numbers = |pick: fn(&HeadRow) -> usize| -> Vec<i64> {
            self.rows.iter().map(|row| i64::try_from(pick(row)).unwrap_or(i64::MAX)).collect()
        };
        let (layer, head) = (numbers(|row| row.layer), numbers(|row| row.head));
        let of = |pick: fn(&HeadSpectrum) -> &[f64]| self.spectra.iter().flat_map(pick).copied().collect::<Vec<f64>>();
        let (qk, ov) = (of(|head| &head.qk_singular_values), of(|head| &head.ov_singular_values));
        let eigenvalues: Vec<f64> =
            self.spectra.iter().flat_map(|head| &head.ov_eigenvalues).flat_map(|(re, im)| [*re, *im]).collect();
        let count = self.rows.len();
        let side = |values: &[f64]| values.len() / count.max(1);
        let tensors = [
            Tensor::new("layer", &[count], TensorData::I64(&layer)),
            Tensor::new("head", &[count], TensorData::I64(&head)),
            Tensor::new("qk_singular_values", &[count, side(&qk)], TensorData::F64(&qk)),
            Tensor::new("ov_singular_values", &[count, side(&ov)], TensorData::F64(&ov)),
            Tensor::new("ov_eigenvalues", &[count, side(&eigenvalues) / 2, 2], TensorData::F64(&eigenvalues)),
        ];
        safetensors_bytes(&tensors, &BTreeMap::new())
    }
}

fn row(config: &Config, (layer, head): (usize, usize), spectrum: &HeadSpectrum) -> HeadRow {
    let mut spectrum = spectrum.clone();
    let pairs = spectrum.ov_eigenvalues.iter_mut().flat_map(|(re, im)| [re, im]);
    let arrays = spectrum.ov_singular_values.iter_mut().chain(&mut spectrum.qk_singular_values);
    pairs.chain(arrays).for_each(|number| *number = six_digits(*number));
    HeadRow {
        layer,
        head,
        kv_head: head / (config.heads / config.kv_heads),
        qk_antisymmetric_share: spectrum.qk_symmetric_share.map(|share| 1.0 - share),
        spectrum,
        qk_by_distance: Vec::new(),
        lipschitz: None,
    }
}

/// The number that six digits of `x` spell: a report of 270 heads stays small.
fn six_digits(x: f64) -> f64 {
    f64::from_str(&format!("{x:.5e}")).unwrap_or(x)
}

/// What the numbers are, and where their formulas come from.
pub(super) fn definitions() -> [String; 3] {
    [
        "Heads: Q_hᵀK_h/sqrt(d_head) (\"QK\") and W_O W_V (\"OV\") per head, biases left out; QK rank counts singular values \
         above qk_tolerance = d·2^-23·σ_1. effective_beta = sqrt(d)·‖sym(QK)‖_F: the β of softmax(β<u_i, u_j>) if sym(QK) \
         were a multiple of the identity and tokens had norm sqrt(d), as the LoRA paper's code prints it for ALBERT."
            .into(),
        "ov_gap = |λ_1| - |λ_2| of OV, λ_2 not the conjugate of λ_1."
            .into(),
        "Regime: of the flow of this head alone, its weights repeated for ever, from λ_1 and its eigenvector φ. hyperplanes: \
         λ_1 > 0 leads alone and <Qφ, Kφ> > 0, so rescaled tokens approach at most three parallel hyperplanes (a theorem: \
         2305.05465); turned_away: as before with <Qφ, Kφ> <= 0; rotating: a complex pair leads; reversing: λ_1 < 0; \
         undecided: no eigenvalue leads. For the last four no theorem is claimed."
            .into(),
    ]
}

/// How many heads each regime has, in words.
pub(super) fn sentence(rows: &[HeadRow]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    rows.iter().for_each(|row| *counts.entry(row.spectrum.regime.name()).or_default() += 1);
    let words: Vec<String> =
        counts.iter().map(|(regime, count)| format!("{count} {}", regime.replace('_', " "))).collect();
    format!("{} heads: {}.", rows.len(), words.join(", "))
}

/// One row a head.
pub(super) fn table(rows: &[HeadRow]) -> Result<Table, LabError> {
    let mut table = Table::new("heads");
    let integers = |pick: fn(&HeadRow) -> usize| {
        Column::Integer(rows.iter().map(|row| i64::try_from(pick(row)).unwrap_or(i64::MAX)).collect())
    };
    let numbers = |pick: fn(&HeadRow) -> f64| Column::numbers(rows.iter().map(pick));
    let leading = |pick: fn(&(f64, f64)) -> f64| {
        Column::Float(rows.iter().map(|row| row.spectrum.ov_eigenvalues_top.first().map(pick)).collect())
    };
    let lipschitz = |pick: fn(&HeadConstantRow) -> f64| {
        Column::Float(rows.iter().map(|row| row.lipschitz.as_ref().map(pick)).collect())
    };
    table.push("layer", integers(|row| row.layer))?;
    table.push("head", integers(|row| row.head))?;
    table.push("kv_head", integers(|row| row.kv_head))?;
    table.push("qk_rank", integers(|row| row.spectrum.qk_rank))?;
    table.push("qk_tolerance", numbers(|row| row.spectrum.qk_tolerance))?;
    table.push("qk_stable_rank", numbers(|row| row.spectrum.qk_stable_rank))?;
    table.push("qk_effective_rank", numbers(|row| row.spectrum.qk_effective_rank))?;
    table.push("qk_norm", numbers(|row| row.spectrum.qk_norm))?;
    table.push("qk_frobenius", numbers(|row| row.spectrum.qk_frobenius))?;
    table
        .push("qk_symmetric_share", Column::Float(rows.iter().map(|row| row.spectrum.qk_symmetric_share).collect()))?;
    table.push("effective_beta", numbers(|row| row.spectrum.effective_beta))?;
    table.push("ov_norm", numbers(|row| row.spectrum.ov_norm))?;
    table.push("ov_stable_rank", numbers(|row| row.spectrum.ov_stable_rank))?;
    table.push("ov_leading_re", leading(|z| z.0))?;
    table.push("ov_leading_im", leading(|z| z.1))?;
    table.push("ov_gap", numbers(|row| row.spectrum.ov_gap))?;
    table.push("regime", Column::Text(rows.iter().map(|row| row.spectrum.regime.name().to_owned()).collect()))?;
    table.push("lipschitz_lower", lipschitz(|row| row.lower))?;
    table.push("lipschitz_upper", lipschitz(|row| row.upper))?;
    Ok(table)
}

/// Heads of one block: all of them, or one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadChoice {
    /// The block, from 0.
    pub layer: usize,
    /// The head, from 0; all heads of the block if absent.
    pub head: Option<usize>,
}

impl HeadChoice {
    /// Parses `LAYER.HEAD`, or `LAYER` for all its heads.
    ///
    /// # Errors
    /// [`LabError::Setting`] for `--export-head`.
    ///
    /// # Example
    /// ```
    /// use metastable::inspect::HeadChoice;
    /// assert_eq!(HeadChoice::parse("2.0").unwrap(), HeadChoice { layer: 2, head: Some(0) });
    /// assert_eq!(HeadChoice::parse("2").unwrap().head, None);
    /// assert!(HeadChoice::parse("2.x").unwrap_err().to_string().contains("LAYER.HEAD"));
    /// ```
    pub fn parse(text: &str) -> Result<Self, LabError> {
        let number = |text: &str| text.trim().parse::<usize>().ok();
        let parsed = match text.split_once('.') {
            Some((layer, head)) => {
                number(layer).zip(number(head)).map(|(layer, head)| Self { layer, head: Some(head) })
            }
            None => number(text).map(|layer| Self { layer, head: None }),
        };
        parsed.ok_or_else(|| setting("--export-head", "LAYER.HEAD, or LAYER for all its heads", format!("`{text}`")))
    }

    /// Refuses a block or head that the model does not have.
    pub(super) fn require(self, config: &Config) -> Result<(), LabError> {
        if self.layer >= config.layers {
            return Err(setting("--export-head", format!("a layer below {}", config.layers), self.layer));
        }
        match self.head.filter(|head| *head >= config.heads) {
            Some(head) => Err(setting("--export-head", format!("a head below {}", config.heads), head)),
            None => Ok(()),
        }
    }
}
