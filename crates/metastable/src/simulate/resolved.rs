//! The resolved config as it stands in the run folder: the run again, from anywhere.

use std::path::{Path, PathBuf};

use super::forms::{MatrixConfig, VectorConfig};
use super::written::SimulateConfig;
use crate::document::to_toml;
use crate::error::LabError;

/// The TOML text of a config whose files are named by absolute paths, so that it can be run from the run folder;
/// relative files are taken from the folder of `file`, the config as it was given.
///
/// # Errors
/// [`LabError::Resolve`]; [`LabError::Read`] if the working folder is unknown.
pub fn resolved(config: &SimulateConfig, file: &Path) -> Result<String, LabError> {
    let absolute = std::path::absolute(file).map_err(|source| LabError::Read { file: file.to_owned(), source })?;
    let folder = absolute.parent().map_or_else(PathBuf::new, Path::to_owned);
    let mut config = config.clone();
    for name in files(&mut config) {
        // A folder whose name is no text cannot stand in TOML: the file then keeps the name it was given.
        if let Some(path) = folder.join(&*name).to_str() {
            *name = path.to_owned();
        }
    }
    to_toml(&config)
}

/// The names of all files in a config.
fn files(config: &mut SimulateConfig) -> Vec<&mut String> {
    let heads = config.head.iter_mut().chain(config.layer.iter_mut().flat_map(|layer| &mut layer.head));
    let heads = heads
        .flat_map(|head| [Some(&mut head.query), Some(&mut head.key), Some(&mut head.value), head.output.as_mut()]);
    let loras = config.lora.0.iter_mut();
    let loras = loras.flat_map(|lora| [lora.a.as_mut(), lora.b.as_mut(), lora.delta.as_mut()]);
    let gaussian = config.gaussian.iter_mut();
    let (mut matrices, mut vectors) = (Vec::new(), Vec::new());
    gaussian.for_each(|table| table.inputs_mut(&mut matrices, &mut vectors));
    config.feed_forward.iter_mut().for_each(|part| part.inputs_mut(&mut matrices, &mut vectors));
    let matrices = heads.chain(loras).chain([config.tokens.covariance.as_mut()]).flatten().chain(matrices);
    let of_matrix = |matrix| match matrix {
        &mut MatrixConfig::File(ref mut file, _) => Some(file),
        _ => None,
    };
    let vectors = vectors.into_iter().filter_map(VectorConfig::file_mut);
    config.tokens.file.as_mut().into_iter().chain(matrices.filter_map(of_matrix)).chain(vectors).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Format, parse_document};

    #[test]
    fn every_file_is_named_by_its_absolute_path_and_all_else_stays() {
        let text = r#"
            tokens = { file = "x0.npy", covariance = "c.npy" }
            time = { end = 1 }
            head = [{ query = "q.npy", key = "/k.npy", value = { file = "v.safetensors", tensor = "v" }, output = 2.0 }]
            lora = { target = "value", a = "../a.npy", b = "b.npy", delta = [[1.0]] }
        "#;
        let config: SimulateConfig = parse_document("run.toml".as_ref(), text, Format::Toml, &[]).unwrap();
        let resolved = resolved(&config, "/configs/run.toml".as_ref()).unwrap();
        for file in ["x0.npy", "c.npy", "q.npy", "v.safetensors", "../a.npy", "b.npy"] {
            assert!(resolved.contains(&format!("\"/configs/{file}\"")), "{resolved}");
        }
        assert!(resolved.contains("key = \"/k.npy\"") && resolved.contains("output = 2.0"), "{resolved}");
        let again: SimulateConfig = parse_document("other.toml".as_ref(), &resolved, Format::Toml, &[]).unwrap();
        assert_eq!(to_toml(&again).unwrap(), resolved);
    }
}
