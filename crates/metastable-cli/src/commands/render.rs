//! `metastable render`.

use anyhow::Result;

use super::show::Out;
use crate::args::RenderArgs;

/// Rebuilds the renderings of a finished run.
pub(crate) fn run(args: &RenderArgs) -> Result<()> {
    metastable::publish::rerender(&args.folder)?;
    Out::new().line(&args.folder.join("report.html").display().to_string())
}
