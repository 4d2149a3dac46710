//! `metastable lipschitz`.

use anyhow::Result;
use metastable::simulate::lipschitz::{self, LipschitzReport, LipschitzRequest};

use super::show::{self, Out};
use crate::args::{LipschitzArgs, OutputFormat};

/// Encloses the local Lipschitz constant of a config's attention.
pub(crate) fn run(args: LipschitzArgs, format: OutputFormat) -> Result<()> {
    let request = LipschitzRequest {
        config: args.config,
        overrides: args.overrides,
        seed: args.seed,
        singular_vector: args.singular_vector,
    };
    let report = lipschitz::run(&request)?;
    let mut out = Out::new();
    match format {
        _ if args.json => out.json(&serde_json::to_value(&report)?),
        OutputFormat::Json => out.json(&serde_json::to_value(&report)?),
        OutputFormat::Csv => out.text(&report.table()?.to_csv()),
        OutputFormat::Table => {
            out.line(&format!("{}\n", sentence(&report)))?;
            out.text(&show::table(&report.table()?))
        }
    }
}

fn sentence(report: &LipschitzReport) -> String {
    let upper = match (report.upper, report.ln_upper) {
        (Some(upper), _) => format!("at most {upper}"),
        (None, Some(ln)) => format!("at most e^{ln}"),
        (None, None) => "without a proven upper bound for this kernel".into(),
    };
    let reached = if report.converged { "" } else { ", not converged" };
    format!(
        "local Lipschitz constant of attention at these tokens (residual not included): at least {}, {upper} \
         ({} steps of Lanczos, residual {:.1e}{reached})",
        report.lower, report.iterations, report.residual
    )
}
