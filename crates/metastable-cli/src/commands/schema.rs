//! `metastable schema`.

use anyhow::Result;

use super::show::Out;
use crate::args::SchemaArgs;

/// Prints the JSON Schema of the configuration of `simulate`.
pub(crate) fn run(_args: &SchemaArgs) -> Result<()> {
    Out::new().json(&metastable::schema::simulate())
}
