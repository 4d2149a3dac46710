//! `metastable schema`.

use anyhow::Result;

use super::show::Out;
use crate::args::{SchemaArgs, SchemaOf};

/// Prints the JSON Schema of a configuration.
pub(crate) fn run(args: &SchemaArgs) -> Result<()> {
    let schema = match args.what {
        SchemaOf::Simulate => metastable::schema::simulate(),
        SchemaOf::Finetune => metastable::schema::finetune(),
        SchemaOf::Sweep => metastable::schema::sweep(),
    };
    Out::new().json(&schema)
}
