//! `metastable field`.

use anyhow::Result;
use metastable::simulate::field::{self, FieldRequest};

use super::show::Out;
use crate::args::FieldArgs;

/// Evaluates a field once.
pub(crate) fn run(args: FieldArgs) -> Result<()> {
    let request = FieldRequest {
        config: args.config,
        overrides: args.overrides,
        seed: args.seed,
        output: args.output,
        weights: args.weights,
        direction: args.direction,
        cotangent: args.cotangent,
    };
    field::run(&request)?;
    Out::new().line(&request.output.display().to_string())
}
