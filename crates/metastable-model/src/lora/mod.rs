//! LoRA adapters: read, judged, written back; never unpickled.
//!
//! PEFT's letters: ΔW = scale·B A with A [r, in], B [out, r]. Reading order: [`Adapter`] is the front; `locate` finds
//! the files and their tool; `peft`, `mlx` and `kohya` turn keys into modules through `assemble`; [`Finding`] is what
//! is wrong with them; `write` turns modules into PEFT's files.
//!
//! An adapter that would silently do something else than its files say is refused: silent no-ops are what users of
//! adapters complain about most.

mod adapter;
mod assemble;
mod attach;
mod finding;
mod intruder;
mod kohya;
mod locate;
mod merge;
mod mlx;
pub(crate) mod pattern;
mod peft;
mod rebalance;
mod settings;
mod spectrum;
mod tensor_file;
mod write;

use crate::error::ModelError;

pub(crate) use tensor_file::{NewTensor, f32_bytes, write as write_tensors};

pub use adapter::{Adapter, Factor, Layout, LoraModule, ModuleKind, Strictness, Survey, WholeTensor};
pub use attach::Adapted;
pub use finding::{Code, Finding, Severity};
pub use intruder::{IntruderRule, LeadingDirection};
pub use merge::Merging;
pub use rebalance::{Rebalanced, RebalancedModule, UNDO_FILE};
pub use spectrum::{ModuleSpectrum, Status};
pub use write::PeftFiles;

/// Judges the bytes of adapter_config.json and adapter_model.safetensors; `folder` is for messages.
pub(crate) fn survey_of_bytes(folder: &std::path::Path, config: &[u8], weights: &[u8]) -> Result<Survey, ModelError> {
    let path = folder.join(PeftFiles::WEIGHTS);
    peft::judge(folder, config.to_vec(), || tensor_file::TensorFile::parse(&path, weights.to_vec()))
}
