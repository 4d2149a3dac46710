//! Which files of a folder are the adapter, and which tool wrote them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::adapter::Survey;
use super::{kohya, mlx, peft};
use crate::config::read_bounded;
use crate::error::ModelError;

/// The config of PEFT and of mlx-lm.
pub(super) const CONFIG: &str = "adapter_config.json";

/// The weights of PEFT.
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";

/// The weights of mlx-lm.
const MLX_WEIGHTS: &str = "adapters.safetensors";

/// What else may hold an adapter's weights; named in the refusal.
const PICKLES: [&str; 3] = ["adapter_model.bin", "adapter_model.pt", "pytorch_lora_weights.bin"];

/// Largest accepted adapter_config.json.
const LARGEST_CONFIG: u64 = 1 << 20;

/// Finds the adapter at `path` and reads it.
pub(super) fn survey(path: &Path) -> Result<Survey, ModelError> {
    let metadata = fs::metadata(path).map_err(|error| ModelError::reading(path, "an adapter", error))?;
    if metadata.is_file() {
        return kohya::survey(path);
    }
    let folder = folder_of(path)?;
    let config = read_bounded(&folder.join(CONFIG), "adapter_config.json of an adapter folder", LARGEST_CONFIG)?;
    if folder.join(MLX_WEIGHTS).exists() && !folder.join(WEIGHTS).exists() {
        return mlx::survey(&folder, &config, &folder.join(MLX_WEIGHTS));
    }
    let weights = folder.join(WEIGHTS);
    if !weights.exists()
        && let Some(pickle) = PICKLES.iter().find(|name| folder.join(name).exists())
    {
        return Err(ModelError::AdapterFormat { path: folder, found: (*pickle).into() });
    }
    peft::survey(&folder, config, &weights)
}

/// The folder itself, or its only sub-folder with an adapter_config.json.
fn folder_of(path: &Path) -> Result<PathBuf, ModelError> {
    if path.join(CONFIG).exists() {
        return Ok(path.into());
    }
    let unreadable = |error| ModelError::reading(path, "an adapter folder", error);
    let mut inside = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let folder = entry.map_err(unreadable)?.path();
        if folder.join(CONFIG).is_file() {
            inside.push(folder);
        }
    }
    inside.sort();
    match inside.as_slice() {
        [] => Ok(path.into()),
        [only] => Ok(only.clone()),
        several => {
            let names: Vec<String> =
                several.iter().filter_map(|folder| folder.file_name()).map(|n| n.to_string_lossy().into()).collect();
            let found = format!("several: {}", names.join(", "));
            Err(ModelError::Malformed { path: path.into(), expected: "one adapter", found })
        }
    }
}

/// A config's value under a path of keys.
pub(super) fn value<'a>(config: &'a Value, keys: &[&str]) -> Option<&'a Value> {
    keys.iter().try_fold(config, |value, key| value.get(key)).filter(|value| !value.is_null())
}
