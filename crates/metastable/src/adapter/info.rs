//! What each module of an adapter does to its weight.

use std::path::Path;

use metastable_model::Weights;
use metastable_model::lora::{Adapter, IntruderRule, LeadingDirection, LoraModule, ModuleKind, ModuleSpectrum, Status};
use rayon::prelude::*;
use serde::Serialize;

use super::check::FindingRow;
use crate::error::LabError;
use crate::hub::{HubCache, Role, cached};
use crate::table::{Column, Table};

/// An adapter, module by module.
#[derive(Debug, Clone, Serialize)]
pub struct InfoReport {
    /// The adapter as given.
    pub adapter: String,
    /// "peft", "mlx" or "kohya".
    pub layout: &'static str,
    /// The base model as the adapter names it.
    pub base: Option<String>,
    /// PEFT's task type.
    pub task: Option<String>,
    /// Numbers in all factors.
    pub parameters: usize,
    /// The modules, in natural order.
    pub modules: Vec<ModuleRow>,
    /// Tensors that replace the base's.
    pub whole_tensors: Vec<String>,
    /// What is wrong or worth knowing.
    pub findings: Vec<FindingRow>,
    /// What it amounts to, in words.
    pub summary: Vec<String>,
}

/// One module.
#[derive(Debug, Clone, Serialize)]
pub struct ModuleRow {
    /// The path in the base model.
    pub name: String,
    /// "linear", "embedding" or "convolution".
    pub kind: &'static str,
    /// Nominal rank.
    pub r: usize,
    /// alpha of this module.
    pub alpha: f64,
    /// alpha/r, or alpha/sqrt(r) for rsLoRA.
    pub scale: f64,
    /// [out, in] of ΔW.
    pub shape: [usize; 2],
    /// ‖ΔW‖_F, scale included.
    pub norm: f64,
    /// ‖ΔW‖_F²/σ_1².
    pub stable_rank: f64,
    /// exp of the entropy of σ_i/Σσ.
    pub effective_rank: f64,
    /// Of ΔW, scale included, largest first.
    pub singular_values: Vec<f64>,
    /// ‖BᵀB - A Aᵀ‖_F of the factors.
    pub gap: f64,
    /// Condition number of the pair; null if infinite.
    pub kappa: f64,
    /// 2σ_1/σ_r, what a balanced pair would have; null if infinite.
    pub kappa_balanced: f64,
    /// "ok", "untrained", "dead" or "rank_deficient" (σ_r < 1e-6 σ_1).
    pub status: &'static str,
    /// Whether DoRA's magnitudes are there.
    pub dora: bool,
    /// The leading directions against the base's; null without a base model, and for modules that are no map of one of
    /// its blocks.
    pub intruders: Option<IntruderRow>,
}

/// Leading left singular vectors of W + ΔW that W does not have.
#[derive(Debug, Clone, Serialize)]
pub struct IntruderRow {
    /// How many leading vectors were judged.
    pub judged: usize,
    /// How many of them have |cos| below the threshold to every left singular vector of W.
    pub count: usize,
    /// The threshold.
    pub threshold: f64,
    /// Singular values of the judged vectors, largest first.
    pub singular_values: Vec<f64>,
    /// Their largest |cos| to a left singular vector of W.
    pub largest_cosines: Vec<f64>,
}

impl IntruderRow {
    fn of(directions: &[LeadingDirection], rule: IntruderRule) -> Self {
        Self {
            judged: directions.len(),
            count: directions.iter().filter(|direction| direction.intruder).count(),
            threshold: rule.threshold,
            singular_values: directions.iter().map(|direction| direction.singular_value).collect(),
            largest_cosines: directions.iter().map(|direction| direction.largest_cosine).collect(),
        }
    }
}

/// Reads an adapter and measures every module, parallel over modules; with a base model also against its weights, which
/// are read tensor by tensor, O(out·in·min(out, in)) a module.
///
/// Findings do not stop it: an adapter that must not be used can still be looked at. `path` and `base` may be names in
/// the Hub's local cache.
///
/// # Errors
/// [`LabError::Model`] where nothing can be read, or an update has another shape than the base's weight.
pub fn info(path: &Path, base: Option<&Path>) -> Result<InfoReport, LabError> {
    let base =
        base.map(|base| Ok::<_, LabError>(Weights::open(&HubCache::of_environment().resolve(base)?)?)).transpose()?;
    let survey = Adapter::survey(&cached(path, Role::Adapter)?)?;
    let adapter = survey.adapter;
    let spectra: Vec<ModuleSpectrum> =
        adapter.modules().par_iter().map(LoraModule::spectrum).collect::<Result<_, _>>()?;
    let mut modules: Vec<ModuleRow> =
        adapter.modules().iter().zip(&spectra).map(|(module, spectrum)| row(module, spectrum)).collect();
    let mut summary = summary(&modules);
    if let Some(base) = &base {
        let intruders = intruders(base, adapter.modules())?;
        modules.iter_mut().zip(intruders).for_each(|(row, found)| row.intruders = found);
        summary.push(intruder_sentence(&modules));
    }
    Ok(InfoReport {
        adapter: path.display().to_string(),
        layout: adapter.layout().name(),
        base: adapter.base().map(str::to_owned),
        task: adapter.task().map(str::to_owned),
        parameters: adapter.modules().iter().map(LoraModule::parameters).sum(),
        summary,
        modules,
        whole_tensors: adapter.whole_tensors().iter().map(|tensor| tensor.name.clone()).collect(),
        findings: survey.findings.iter().map(FindingRow::from).collect(),
    })
}

fn row(module: &LoraModule, spectrum: &ModuleSpectrum) -> ModuleRow {
    ModuleRow {
        name: module.name.clone(),
        kind: match module.kind {
            ModuleKind::Embedding => "embedding",
            ModuleKind::Linear => "linear",
            _ => "convolution",
        },
        r: module.rank(),
        alpha: module.alpha,
        scale: module.scale,
        shape: module.shape(),
        norm: spectrum.norm,
        stable_rank: spectrum.stable_rank,
        effective_rank: spectrum.effective_rank,
        singular_values: spectrum.singular_values.clone(),
        gap: spectrum.gap,
        kappa: spectrum.kappa,
        kappa_balanced: spectrum.kappa_balanced,
        status: spectrum.status.name(),
        dora: module.magnitude.is_some(),
        intruders: None,
    }
}

/// The modules of `adapter` against the weights of `base`.
fn intruders(base: &Weights, modules: &[LoraModule]) -> Result<Vec<Option<IntruderRow>>, LabError> {
    let rule = IntruderRule::default();
    let judge = |module: &LoraModule| base.leading_directions(module, rule);
    let mut found: Vec<Option<Vec<LeadingDirection>>> = Vec::with_capacity(modules.len());
    for group in groups(modules, JUDGED_AT_ONCE) {
        found.extend(group.par_iter().map(judge).collect::<Result<Vec<_>, _>>()?);
    }
    Ok(found.into_iter().map(|directions| Some(IntruderRow::of(&directions?, rule))).collect())
}

/// What the modules that are judged at once may take together; a larger one is judged alone.
const JUDGED_AT_ONCE: usize = 1 << 30;

/// Modules in order, in groups that fit into so many bytes whatever the number of threads.
fn groups(modules: &[LoraModule], limit: usize) -> impl Iterator<Item = &[LoraModule]> {
    let mut bytes = 0;
    modules.chunk_by(move |before, next| {
        bytes = if bytes == 0 { before.judging_bytes() } else { bytes } + next.judging_bytes();
        let fits = bytes <= limit;
        if !fits {
            bytes = 0;
        }
        fits
    })
}

fn intruder_sentence(modules: &[ModuleRow]) -> String {
    let rule = IntruderRule::default();
    let judged: Vec<&IntruderRow> = modules.iter().filter_map(|module| module.intruders.as_ref()).collect();
    let (count, of) =
        (judged.iter().map(|row| row.count).sum::<usize>(), judged.iter().map(|row| row.judged).sum::<usize>());
    format!(
        "{count} intruders among {of} leading directions of {} modules: of the {} leading left singular vectors of \
         W + ΔW, those with |cos| below {} to every left singular vector of W.",
        judged.len(),
        rule.leading,
        rule.threshold
    )
}

fn summary(modules: &[ModuleRow]) -> Vec<String> {
    let count = |status: Status| modules.iter().filter(|module| module.status == status.name()).count();
    let ok = count(Status::Ok);
    let mut sentences = vec![format!("{} modules, {ok} of full rank.", modules.len())];
    for (status, words) in [
        (Status::Untrained, "do nothing: one factor is 0"),
        (Status::Dead, "are dead: both factors are 0"),
        (Status::RankDeficient, "use fewer directions than their rank (σ_r < 1e-6 σ_1)"),
    ] {
        if count(status) > 0 {
            sentences.push(format!("{} {words}.", count(status)));
        }
    }
    let ratios: Vec<f64> =
        modules.iter().map(|module| module.kappa / module.kappa_balanced).filter(|ratio| ratio.is_finite()).collect();
    if let Some(median) = median(ratios) {
        sentences.push(format!(
            "Condition number of the pairs: {median:.3} times the balanced one in the median; `adapter rebalance` \
             removes that factor without changing the update."
        ));
    }
    sentences
}

/// The lower median.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

impl InfoReport {
    /// The modules as a table.
    ///
    /// # Errors
    /// [`LabError::Column`] never, in practice: all columns have a row a module.
    pub fn table(&self) -> Result<Table, LabError> {
        let rows = &self.modules;
        let mut table = Table::new("modules");
        let numbers = |pick: fn(&ModuleRow) -> f64| {
            Column::Float(rows.iter().map(|row| Some(pick(row)).filter(|value| value.is_finite())).collect())
        };
        table.push("name", Column::Text(rows.iter().map(|row| row.name.clone()).collect()))?;
        table.push("r", Column::Integer(rows.iter().map(|row| i64::try_from(row.r).unwrap_or(i64::MAX)).collect()))?;
        table.push("scale", numbers(|row| row.scale))?;
        let shapes = rows.iter().map(|row| format!("{}x{}", row.shape[0], row.shape[1])).collect();
        table.push("shape", Column::Text(shapes))?;
        table.push("norm", numbers(|row| row.norm))?;
        table.push("stable_rank", numbers(|row| row.stable_rank))?;
        table.push("effective_rank", numbers(|row| row.effective_rank))?;
        table.push("sigma_1", numbers(|row| row.singular_values[0]))?;
        table.push("sigma_r", numbers(|row| row.singular_values[row.singular_values.len() - 1]))?;
        table.push("gap", numbers(|row| row.gap))?;
        table.push("kappa", numbers(|row| row.kappa))?;
        table.push("kappa_balanced", numbers(|row| row.kappa_balanced))?;
        if rows.iter().any(|row| row.intruders.is_some()) {
            let counts = rows.iter().map(|row| row.intruders.as_ref().map(|found| found.count as f64)).collect();
            table.push("intruders", Column::Float(counts))?;
        }
        table.push("status", Column::Text(rows.iter().map(|row| row.status.to_owned()).collect()))?;
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use metastable_model::lora::Factor;

    use super::*;

    #[test]
    fn modules_that_are_judged_together_fit_into_memory() {
        let module = |side: usize| {
            let factor = |rows, columns| Factor::new(rows, columns, vec![1.0; rows * columns]).unwrap();
            LoraModule::linear("map", factor(1, side), factor(side, 1), 1.0, false).unwrap()
        };
        let modules: Vec<LoraModule> = [2, 2, 2, 9, 2, 2, 9, 9, 1].map(module).into();
        // Room for two of side 2, or one of any size.
        let found: Vec<usize> = groups(&modules, 2 * modules[0].judging_bytes()).map(<[_]>::len).collect();
        assert_eq!(found, [2, 1, 1, 2, 1, 1, 1]);
        assert_eq!(groups(&modules, usize::MAX).map(<[_]>::len).collect::<Vec<_>>(), [9]);
        assert_eq!(groups(&[], 1).count(), 0);
    }
}
