//! `metastable render`.

use std::path::Path;

use anyhow::Result;
use metastable::LabError;
use metastable::finetune::compare::{CompareRequest, compare};
use metastable::run_dir::Existing;

use super::show::Out;
use crate::args::RenderArgs;

/// Rebuilds the renderings of a finished run, or lays fine-tuning runs side by side.
pub(crate) fn run(args: &RenderArgs) -> Result<()> {
    let page = |folder: &Path| Out::new().line(&folder.join("report.html").display().to_string());
    match (&args.folders[..], &args.output) {
        ([folder], None) => {
            metastable::publish::rerender(folder)?;
            page(folder)
        }
        (_, None) => Err(LabError::Setting {
            name: "--output".into(),
            expected: "the folder of a comparison, as more than one run is given".into(),
            found: "none".into(),
        }
        .into()),
        (folders, Some(output)) => {
            let existing = if args.overwrite { Existing::Overwrite } else { Existing::Refuse };
            let report = compare(&CompareRequest { runs: folders.to_vec(), output: output.clone(), existing })?;
            let mut out = Out::new();
            report.summary.iter().try_for_each(|sentence| out.line(sentence))?;
            report.warnings.iter().try_for_each(|warning| out.line(&format!("warning: {warning}")))?;
            page(output)
        }
    }
}
