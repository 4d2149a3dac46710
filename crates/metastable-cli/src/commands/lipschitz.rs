//! `metastable lipschitz`.

use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::Result;
use metastable::LabError;
use metastable::adapter::Strictness;
use metastable::hub::{Role, fetch};
use metastable::inspect::TextSource;
use metastable::simulate::lipschitz::{self, LipschitzReport, LipschitzRequest};
use metastable::smoothness::{self, ModelLipschitzReport, SmoothnessRequest, VariantRequest, WorstRequest};

use super::show::{self, Out, number};
use crate::args::{Global, LipschitzArgs, LipschitzModelArgs, OutputFormat};
use crate::progress::Progress;

/// Encloses the local Lipschitz constants of a config's attention, or of a model's layers and heads.
pub(crate) fn run(args: LipschitzArgs, global: &Global, progress: &mut Progress) -> Result<()> {
    let format = if args.json { OutputFormat::Json } else { global.format };
    let text = match (args.words.text, args.words.prompt) {
        (Some(file), _) => Some(TextSource::File(file)),
        (None, prompt) => prompt.map(TextSource::Prompt),
    };
    if let Some(text) = text {
        fetch(&args.target, Role::Model, global.offline, progress)?;
        let of = &args.model;
        let others = of.against.iter().map(|model| (model, Role::Model));
        for (name, role) in of.adapter.iter().map(|adapter| (adapter, Role::Adapter)).chain(others) {
            fetch(name, role, global.offline, progress)?;
        }
        let request = asked(args.target, text, args.model, args.seed);
        let report = smoothness::run(&request, progress)?;
        progress.clear();
        return show_model(&report, format);
    }
    if is_model(&args.target) {
        let found = format!("none beside the model {}", args.target.display());
        return Err(LabError::Setting { name: "--text".into(), expected: "a text, or --prompt".into(), found }.into());
    }
    let request = LipschitzRequest {
        config: args.target,
        overrides: args.overrides,
        seed: args.seed,
        singular_vector: args.singular_vector,
    };
    show_config(&lipschitz::run(&request)?, format)
}

fn is_model(target: &Path) -> bool {
    target.is_dir() || target.extension() == Some(OsStr::new("gguf"))
}

fn asked(
    model: std::path::PathBuf,
    text: TextSource,
    args: LipschitzModelArgs,
    seed: Option<u64>,
) -> SmoothnessRequest {
    let strictness = if args.allow_partial { Strictness::Partial } else { Strictness::Closed };
    let adapters = args.adapter.into_iter().map(|adapter| VariantRequest::Adapter(adapter, strictness));
    let quantized = args.quantize.into_iter().map(VariantRequest::Quantized);
    let against = args.against.into_iter().map(VariantRequest::Against);
    let stretched = args.rope_scaling.into_iter().map(VariantRequest::RotaryScaling);
    let worst = (args.worst.is_some() || args.worst_token.is_some()).then_some(WorstRequest {
        cloud_tokens: args.worst,
        position: args.worst_token,
        ascent_steps: args.ascent_steps,
    });
    SmoothnessRequest {
        model,
        text,
        max_tokens: args.max_tokens.map(NonZeroUsize::get),
        layers: args.layers,
        explain: args.explain,
        depth: args.depth,
        growth: args.growth,
        worst,
        variants: adapters.chain(quantized).chain(against).chain(stretched).collect(),
        seed: seed.unwrap_or(0),
    }
}

fn show_model(report: &ModelLipschitzReport, format: OutputFormat) -> Result<()> {
    let mut out = Out::new();
    match format {
        OutputFormat::Json => out.json(&serde_json::to_value(report)?),
        OutputFormat::Csv => out.text(&report.table()?.to_csv()),
        OutputFormat::Table => {
            out.line(&format!("local Lipschitz constants of {} at {} tokens\n", report.model, report.tokens))?;
            out.text(&show::table(&report.table()?))?;
            for sentence in report.sentences() {
                out.line(&sentence)?;
            }
            Ok(())
        }
    }
}

fn show_config(report: &LipschitzReport, format: OutputFormat) -> Result<()> {
    let mut out = Out::new();
    match format {
        OutputFormat::Json => out.json(&serde_json::to_value(report)?),
        OutputFormat::Csv => out.text(&report.table()?.to_csv()),
        OutputFormat::Table => {
            out.line(&format!("{}\n", sentence(report)))?;
            out.text(&show::table(&report.table()?))
        }
    }
}

fn sentence(report: &LipschitzReport) -> String {
    let upper = match (report.upper, report.ln_upper) {
        (Some(upper), _) => format!("at most {}", number(upper)),
        (None, Some(ln)) => format!("at most e^{}", number(ln)),
        (None, None) => "without a proven upper bound for this kernel".into(),
    };
    let reached = if report.converged { "" } else { ", not converged" };
    format!(
        "local Lipschitz constant of attention at these tokens (residual not included): at least {}, {upper} \
         ({} steps of Lanczos, residual {:.1e}{reached})",
        number(report.lower),
        report.iterations,
        report.residual
    )
}
