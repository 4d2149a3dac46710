//! What the Hub's local cache holds; nothing is downloaded here.

use std::fs;
use std::path::{Path, PathBuf};

use super::choose::{Role, choose};
use super::name::{HubName, is_plain};
use super::place::{Place, files_of};
use crate::error::LabError;

/// The folder of the Hub's cache.
#[derive(Debug, Clone)]
pub struct HubCache {
    folder: Option<PathBuf>,
}

/// Longest accepted content of a file in `refs/`: a commit hash and a newline.
const LONGEST_REF: usize = 200;

impl HubCache {
    /// A cache in a given folder.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder: Some(folder) }
    }

    /// The cache as the `huggingface_hub` library finds it: HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME/hub,
    /// XDG_CACHE_HOME/huggingface/hub, ~/.cache/huggingface/hub; the first that is set.
    pub fn of_environment() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = variable("HF_HUB_CACHE")
            .or_else(|| variable("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| variable("HF_HOME").map(|home| home.join("hub")))
            .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")))
            .or_else(|| variable("HOME").map(|home| home.join(".cache/huggingface/hub")));
        Self { folder }
    }

    /// Where the cache is, if the environment names a place.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The folder or file of a model: `name` itself if it exists, else what [`HubName`] says of a snapshot in the
    /// cache; the only GGUF file of a snapshot without safetensors.
    ///
    /// # Errors
    /// [`LabError::UnknownModel`] with every place that was looked at.
    ///
    /// # Example
    /// ```
    /// use std::path::Path;
    /// use metastable::hub::HubCache;
    ///
    /// let cache = HubCache::new("no/such/cache".into());
    /// let error = cache.resolve(Path::new("HuggingFaceTB/SmolLM2-135M")).unwrap_err().to_string();
    /// assert!(error.contains("no/such/cache/models--HuggingFaceTB--SmolLM2-135M"), "{error}");
    /// ```
    pub fn resolve(&self, name: &Path) -> Result<PathBuf, LabError> {
        if name.exists() {
            return Ok(name.into());
        }
        let unknown = |looked: Vec<PathBuf>| LabError::UnknownModel { model: name.into(), looked };
        let mut looked = vec![name.to_path_buf()];
        let (Some(cache), Some(hub_name)) = (&self.folder, HubName::parse(name)) else { return Err(unknown(looked)) };
        if let Some(found) = self.snapshot(&hub_name).map(|snapshot| hub_name.within(&snapshot)) {
            if found.exists() {
                return Ok(only_gguf(&found).unwrap_or(found));
            }
            looked.push(found);
            return Err(unknown(looked));
        }
        let place = Place::new(cache, &hub_name);
        let reference = place.reference(&hub_name.revision);
        let commit = commit(&reference).unwrap_or_else(|| hub_name.revision.clone());
        looked.extend([reference, place.snapshot(&commit)]);
        Err(unknown(looked))
    }

    /// The same, refusing a snapshot that lacks what `role` needs with the name of what it lacks.
    pub(super) fn resolve_for(&self, name: &Path, role: Role) -> Result<PathBuf, LabError> {
        let found = self.resolve(name)?;
        if let Some(hub_name) = HubName::parse(name)
            && let Some(snapshot) = self.snapshot(&hub_name)
        {
            choose(&files_of(&snapshot), &hub_name, role)?;
        }
        Ok(found)
    }

    /// The folder of a revision of a repository, if the cache has one.
    pub(super) fn snapshot(&self, name: &HubName) -> Option<PathBuf> {
        let place = Place::new(self.folder.as_deref()?, name);
        // A revision is the name of a reference, or of a commit itself.
        let commit = commit(&place.reference(&name.revision)).unwrap_or_else(|| name.revision.clone());
        Some(place.snapshot(&commit)).filter(|snapshot| snapshot.is_dir())
    }
}

/// The commit that a file of `refs/` names.
fn commit(reference: &Path) -> Option<String> {
    let commit = fs::read_to_string(reference).ok()?.trim().to_owned();
    Some(commit).filter(|commit| commit.len() <= LONGEST_REF && is_plain(commit))
}

/// The only GGUF file of a folder that has no safetensors of a model.
fn only_gguf(folder: &Path) -> Option<PathBuf> {
    if ["model.safetensors", "model.safetensors.index.json"].iter().any(|name| folder.join(name).exists()) {
        return None;
    }
    let files = fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files = files.filter(|file| file.extension().is_some_and(|ending| ending == "gguf"));
    match (files.next(), files.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, HubCache) {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("models--org--tiny.model");
        for (commit, file) in [("aaa", "config.json"), ("bbb", "weights.gguf")] {
            fs::create_dir_all(model.join("snapshots").join(commit)).unwrap();
            fs::write(model.join("snapshots").join(commit).join(file), "").unwrap();
        }
        fs::create_dir_all(model.join("refs")).unwrap();
        fs::write(model.join("refs/main"), "aaa\n").unwrap();
        fs::write(model.join("refs/away"), "../../..").unwrap();
        let cache = HubCache::new(folder.path().into());
        (folder, cache)
    }

    #[test]
    fn names_lead_to_the_snapshot_of_their_revision() {
        let (folder, cache) = cache();
        let found = |name: &str| cache.resolve(Path::new(name)).unwrap();
        let snapshots = folder.path().join("models--org--tiny.model/snapshots");
        assert_eq!(found("org/tiny.model"), snapshots.join("aaa"));
        assert_eq!(found("org/tiny.model@aaa"), snapshots.join("aaa"));
        assert_eq!(found("org/tiny.model@bbb"), snapshots.join("bbb/weights.gguf"));
        assert_eq!(found(folder.path().to_str().unwrap()), folder.path());
    }

    #[test]
    fn what_is_not_there_is_said_with_every_place_that_was_looked_at() {
        let (folder, cache) = cache();
        let refused = |name: &str| cache.resolve(Path::new(name)).unwrap_err().to_string();
        let message = refused("org/other");
        assert!(message.starts_with("org/other: not found, expected a model folder, a GGUF file or"), "{message}");
        assert!(message.contains("models--org--other/refs/main") && message.contains("snapshots/main"), "{message}");
        let message = refused("org/tiny.model@v2");
        assert!(message.contains(&format!("{}", folder.path().join("models--org--tiny.model/refs/v2").display())));
    }

    #[test]
    fn names_and_references_cannot_lead_out_of_the_cache() {
        let (_folder, cache) = cache();
        for name in
            ["../org", "org/..", "a/../c", "org/tiny.model@../x", "org/tiny.model@away", "/no/such/place", "org/ti ny"]
        {
            let message = cache.resolve(Path::new(name)).unwrap_err().to_string();
            assert!(message.contains("not found"), "{message}");
        }
    }
}
