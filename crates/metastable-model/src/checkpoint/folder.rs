//! A Hugging Face folder: config.json, and its weights in one safetensors file or in shards that an index lists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use serde::Deserialize;

use super::directory::Directory;
use crate::config::read_bounded;
use crate::error::ModelError;
use crate::mapped::map;

/// The weights of a folder that is not split.
const WEIGHTS: &str = "model.safetensors";

/// The list of shards of one that is.
const INDEX: &str = "model.safetensors.index.json";

/// What else a folder may hold its weights in; named in the refusal.
const OTHER_WEIGHTS: [&str; 4] =
    ["pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack"];

/// Largest accepted index; those of the largest models have some hundred kilobytes.
const LARGEST_INDEX: u64 = 64 << 20;

/// Maps the weights of a folder.
///
/// # Errors
/// [`ModelError::Missing`], [`ModelError::WeightFormat`], [`ModelError::Unreadable`], [`ModelError::Malformed`];
/// [`ModelError::Tensor`] if a shard lacks a tensor that the index promises.
pub(super) fn weights(folder: &Path) -> Result<Directory, ModelError> {
    let (single, index) = (folder.join(WEIGHTS), folder.join(INDEX));
    if !single.exists() {
        if index.exists() {
            return shards(folder, &index);
        }
        if let Some(other) = OTHER_WEIGHTS.iter().find(|name| folder.join(name).exists()) {
            return Err(ModelError::WeightFormat { path: folder.into(), found: (*other).into() });
        }
    }
    let mut directory = Directory::empty();
    let bytes = map(&single, "the weights of the model folder")?;
    directory.add_safetensors(&single, bytes, |_| true)?;
    Ok(directory)
}

/// The names of the weights files of a folder: one, or the shards of its index.
///
/// # Errors
/// As [`weights`]; shards are not opened.
pub(crate) fn weight_files(folder: &Path) -> Result<Vec<String>, ModelError> {
    let index = folder.join(INDEX);
    if folder.join(WEIGHTS).exists() || !index.exists() {
        return Ok(vec![WEIGHTS.into()]);
    }
    let shards: BTreeSet<String> = read_index(&index)?.into_values().collect();
    Ok(shards.into_iter().collect())
}

/// The index as written; its other keys do not matter.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The file of every tensor, each a plain name.
fn read_index(index: &Path) -> Result<BTreeMap<String, String>, ModelError> {
    let malformed = |found: String| ModelError::Malformed {
        path: index.into(),
        expected: "a JSON object whose weight_map gives the file of every tensor",
        found,
    };
    let bytes = read_bounded(index, "the index of sharded weights", LARGEST_INDEX)?;
    let Index { weight_map } = serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
    // A name and nothing else: no way out of the folder.
    let is_plain =
        |shard: &&String| matches!(Path::new(shard).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
    match weight_map.values().find(|shard| !is_plain(shard)) {
        Some(shard) => Err(malformed(format!("the file `{shard}`, which is no plain name"))),
        None => Ok(weight_map),
    }
}

fn shards(folder: &Path, index: &Path) -> Result<Directory, ModelError> {
    let weight_map = read_index(index)?;
    let shards: BTreeSet<&String> = weight_map.values().collect();
    let mut directory = Directory::empty();
    for shard in shards {
        let path = folder.join(shard);
        let bytes = map(&path, "a shard that model.safetensors.index.json lists")?;
        directory.add_safetensors(&path, bytes, |name| weight_map.get(name) == Some(shard))?;
    }
    match weight_map.iter().find(|(name, _)| directory.get(name).is_none()) {
        Some((tensor, shard)) => Err(ModelError::Tensor {
            path: folder.join(shard),
            tensor: tensor.clone(),
            expected: format!("a tensor of this file, as {INDEX} says"),
            found: "no such tensor".into(),
        }),
        None => Ok(directory),
    }
}
