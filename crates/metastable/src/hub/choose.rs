//! Which files of a repository are needed. The same choice is made of a server's list and of a folder of the cache.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

use super::name::{HubName, is_plain};
use crate::error::HubError;

/// What a repository is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A checkpoint with its config and tokenizer.
    Model,
    /// A LoRA adapter.
    Adapter,
}

/// The files to have, as their names in the repository.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Choice {
    /// Configs, tokenizers and the index of shards.
    pub(super) small: Vec<String>,
    /// Weights.
    pub(super) weights: Vec<String>,
    /// The list of further weights, among `small`.
    pub(super) index: Option<String>,
}

/// What may stand beside the weights of a model, and what we or other tools read of it.
const BESIDE_MODEL: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
];

pub(super) const TOKENIZER: &str = "tokenizer.json";
const INDEX: &str = "model.safetensors.index.json";
const PICKLES: [&str; 6] = [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"];

/// Chooses for a role.
///
/// # Errors
/// [`HubError::Files`] if the files do not contain what is needed, or not one thing alone.
pub(super) fn choose(files: &BTreeSet<String>, name: &HubName, role: Role) -> Result<Choice, HubError> {
    if let Some(file) = name.inside.as_ref().filter(|inside| files.contains(*inside)) {
        return single(file, name, role);
    }
    let prefix = name.inside.as_ref().map(|inside| format!("{inside}/")).unwrap_or_default();
    let here = Here { files, prefix: &prefix, name };
    match role {
        Role::Model => here.model(),
        Role::Adapter => here.adapter(),
    }
}

/// A file that was named itself.
fn single(file: &str, name: &HubName, role: Role) -> Result<Choice, HubError> {
    let (ending, expected) = match role {
        Role::Model => (".gguf", "a .gguf file, or a folder with config.json and model.safetensors"),
        Role::Adapter => (".safetensors", "a .safetensors file, or a folder with adapter_config.json"),
    };
    if file.ends_with(ending) {
        return Ok(Choice { weights: vec![file.into()], ..Choice::default() });
    }
    Err(HubError::Files { name: name.to_string(), expected: expected.into(), found: format!("`{file}`"), hint: None })
}

/// One folder of a repository.
struct Here<'a> {
    files: &'a BTreeSet<String>,
    prefix: &'a str,
    name: &'a HubName,
}

impl Here<'_> {
    fn has(&self, file: &str) -> Option<String> {
        let full = format!("{}{file}", self.prefix);
        self.files.contains(&full).then_some(full)
    }

    /// Files of this folder itself with one of these endings.
    fn ending<'a>(&'a self, endings: &'a [&str]) -> impl Iterator<Item = &'a str> {
        let names = self.files.iter().filter_map(|file| file.strip_prefix(self.prefix));
        names.filter(|name| !name.contains('/') && endings.iter().any(|ending| name.ends_with(ending)))
    }

    fn model(&self) -> Result<Choice, HubError> {
        let mut small: Vec<String> = BESIDE_MODEL.iter().filter_map(|file| self.has(file)).collect();
        if let (Some(_), Some(weights)) = (self.has("config.json"), self.has("model.safetensors")) {
            return Ok(Choice { small, weights: vec![weights], index: None });
        }
        if let (Some(_), Some(index)) = (self.has("config.json"), self.has(INDEX)) {
            small.push(index.clone());
            return Ok(Choice { small, weights: Vec::new(), index: Some(index) });
        }
        let ggufs: Vec<&str> = self.ending(&[".gguf"]).collect();
        match ggufs[..] {
            [] => Err(self.refuse("model.safetensors beside config.json, or a .gguf file", self.model_hint())),
            [one] => Ok(Choice { weights: vec![format!("{}{one}", self.prefix)], ..Choice::default() }),
            [first, ..] => {
                let hint = format!("name the file, as {}/{}{first}", self.repository(), self.prefix);
                Err(HubError::Files {
                    name: self.name.to_string(),
                    expected: "one .gguf file".into(),
                    found: list(&ggufs),
                    hint: Some(hint),
                })
            }
        }
    }

    fn model_hint(&self) -> Option<String> {
        let is_adapter = self.has("adapter_config.json").is_some();
        is_adapter.then(|| format!("this is an adapter: give its base as MODEL and --adapter {}", self.name))
    }

    fn adapter(&self) -> Result<Choice, HubError> {
        let weights = self.has("adapter_model.safetensors").or_else(|| self.has("adapters.safetensors"));
        if let (Some(config), Some(weights)) = (self.has("adapter_config.json"), weights) {
            return Ok(Choice { small: vec![config], weights: vec![weights], index: None });
        }
        let single = self.ending(&[".safetensors"]).next();
        let folder =
            self.files.iter().find_map(|file| file.strip_prefix(self.prefix)?.strip_suffix("/adapter_config.json"));
        let hint = single.or(folder).filter(|_| self.has("config.json").is_none());
        let hint = hint.map(|inside| format!("name what is meant, as {}/{}{inside}", self.repository(), self.prefix));
        Err(self.refuse("adapter_model.safetensors beside adapter_config.json", hint))
    }

    /// `organisation/name@revision`.
    fn repository(&self) -> String {
        HubName { inside: None, ..self.name.clone() }.to_string()
    }

    fn refuse(&self, expected: &str, hint: Option<String>) -> HubError {
        let pickles: Vec<&str> = self.ending(&PICKLES).collect();
        let weights: Vec<&str> = self.ending(&[".safetensors", ".gguf"]).collect();
        let (found, hint) = match (&pickles[..], &weights[..]) {
            ([], []) if self.files.is_empty() => ("no files".into(), hint),
            ([], []) => ("none of them".into(), hint),
            (pickles, []) => (
                format!("weights in pickles alone: {}", list(pickles)),
                hint.or_else(|| Some("pickles can run code and are never read: convert them to safetensors".into())),
            ),
            (_, weights) => (list(weights), hint),
        };
        HubError::Files { name: self.name.to_string(), expected: expected.into(), found, hint }
    }
}

/// At most a few names.
fn list(names: &[&str]) -> String {
    const SHOWN: usize = 6;
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

/// The weights that an index of shards names, in the folder of the index.
///
/// # Errors
/// What was found instead of an index.
pub(super) fn shards(index: &str, content: &[u8]) -> Result<Vec<String>, String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let Index { weight_map } = serde_json::from_slice(content).map_err(|error| error.to_string())?;
    let names: BTreeSet<String> = weight_map.into_values().collect();
    if let Some(name) = names.iter().find(|name| !is_plain(name) || !name.ends_with(".safetensors")) {
        return Err(format!("the file `{name}`, which is no plain name of a safetensors file"));
    }
    let folder = index.strip_suffix(INDEX).unwrap_or_default();
    Ok(names.into_iter().map(|name| format!("{folder}{name}")).collect())
}

/// A name in a repository that stays inside it on every system.
pub(super) fn is_safe(file: &str) -> bool {
    let is_part = |part: &str| {
        let only = Path::new(part).components().collect::<Vec<_>>();
        matches!(only[..], [std::path::Component::Normal(_)]) && !part.contains(['\\', ':', '\0'])
    };
    file.len() < 1000 && file.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(files: &[&str], name: &str, role: Role) -> Result<Choice, String> {
        let files = files.iter().map(|file| (*file).to_owned()).collect();
        choose(&files, &HubName::parse(Path::new(name)).unwrap(), role)
            .map_err(|error| format!("{error}; {}", error.hint().unwrap_or_default()))
    }

    #[test]
    fn safetensors_go_before_gguf_and_pickles_are_left_alone() {
        let files = ["config.json", "tokenizer.json", "model.safetensors", "pytorch_model.bin", "x.gguf", "README.md"];
        let choice = chosen(&files, "a/b", Role::Model).unwrap();
        assert_eq!(
            (choice.small, choice.weights),
            (vec!["config.json".into(), "tokenizer.json".into()], vec!["model.safetensors".to_owned()])
        );
    }

    #[test]
    fn shards_are_what_the_index_names() {
        let files = ["config.json", INDEX, "model-00001-of-00002.safetensors"];
        assert_eq!(chosen(&files, "a/b", Role::Model).unwrap().index.as_deref(), Some(INDEX));
        let content = br#"{"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors","c":"m-1.safetensors"}}"#;
        assert_eq!(shards(&format!("sub/{INDEX}"), content).unwrap(), ["sub/m-1.safetensors", "sub/m-2.safetensors"]);
        for wrong in ["[]", r#"{"weight_map":{"a":"../x.safetensors"}}"#, r#"{"weight_map":{"a":"m.bin"}}"#] {
            assert!(shards(INDEX, wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn one_of_several_ggufs_must_be_named() {
        let files = ["q4.gguf", "q8.gguf", "config.json"];
        let message = chosen(&files, "a/b@v1", Role::Model).unwrap_err();
        assert_eq!(
            message,
            "a/b@v1: expected one .gguf file, found q4.gguf, q8.gguf; name the file, as a/b@v1/q4.gguf"
        );
        assert_eq!(chosen(&files, "a/b/q8.gguf", Role::Model).unwrap().weights, ["q8.gguf"]);
        assert_eq!(chosen(&files[..1], "a/b", Role::Model).unwrap().weights, ["q4.gguf"]);
    }

    #[test]
    fn adapters_are_a_config_and_its_weights() {
        let files =
            ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "two/adapter_config.json"];
        let choice = chosen(&files, "a/b", Role::Adapter).unwrap();
        assert_eq!((choice.small.len(), choice.weights), (1, vec!["adapter_model.safetensors".into()]));
        assert!(chosen(&files, "a/b", Role::Model).unwrap_err().contains("this is an adapter"));
        let message = chosen(&files[3..], "a/b", Role::Adapter).unwrap_err();
        assert!(message.ends_with("as a/b/two"), "{message}");
        let message = chosen(&["kohya.safetensors"], "a/b", Role::Adapter).unwrap_err();
        assert!(message.ends_with("as a/b/kohya.safetensors"), "{message}");
        assert_eq!(chosen(&["k.safetensors"], "a/b/k.safetensors", Role::Adapter).unwrap().weights, ["k.safetensors"]);
    }

    #[test]
    fn pickles_alone_are_refused() {
        for (role, files) in [
            (Role::Model, ["config.json", "pytorch_model.bin"]),
            (Role::Adapter, ["adapter_config.json", "adapter_model.bin"]),
        ] {
            let message = chosen(&files, "a/b", role).unwrap_err();
            assert!(
                message.contains(&format!("pickles alone: {}", files[1])) && message.contains("never read"),
                "{message}"
            );
        }
    }

    #[test]
    fn names_of_servers_cannot_lead_out_of_the_cache() {
        for name in ["../x", "/x", "a/../../x", "a\\..\\x", "c:x", "a//b", "", "a/"] {
            assert!(!is_safe(name), "{name}");
        }
        assert!(is_safe("onnx/model.safetensors") && is_safe("a b.json"));
    }
}
