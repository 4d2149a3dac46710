//! From a finished report to the files of a run folder; and the same again from the files alone.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::arrays::{Array, Tensor, TensorData, parse_safetensors, safetensors_bytes};
use crate::error::LabError;
use crate::render::{self, AttentionMaps, Cloud, Display};
use crate::run_dir::RunDir;

/// The arrays that the page draws; a rendering needs nothing but this and `report.json`.
const DISPLAY: &str = "display.safetensors";

/// Writes `report.json`, the drawn arrays, and every rendering.
///
/// # Errors
/// [`LabError::Write`].
pub fn publish(folder: &mut RunDir, report: &impl Serialize, display: &Display) -> Result<(), LabError> {
    let report = serde_json::to_value(report).expect("reports have string keys only");
    let mut text = serde_json::to_string(&report).expect("a JSON value always serialises");
    text.push('\n');
    folder.write("report.json", text.as_bytes())?;
    folder.write(DISPLAY, &display_bytes(display))?;
    write_renderings(folder, &report, display)
}

/// Writes `report.json` and every rendering of a job whose figures come from the report alone.
///
/// # Errors
/// [`LabError::Write`].
pub fn publish_without_clouds(folder: &mut RunDir, report: &impl Serialize) -> Result<(), LabError> {
    let report = serde_json::to_value(report).expect("reports have string keys only");
    folder.write("report.json", format!("{report}\n").as_bytes())?;
    write_renderings(folder, &report, &Display::nothing())
}

/// Rebuilds every rendering of a finished run from `report.json` and the drawn arrays, computing nothing.
///
/// # Errors
/// [`LabError::NotFinished`], [`LabError::Read`], [`LabError::Content`], [`LabError::Write`].
pub fn rerender(path: &Path) -> Result<(), LabError> {
    let mut folder = RunDir::reopen(path)?;
    let file = path.join("report.json");
    let report: Value = serde_json::from_slice(&folder.read("report.json")?).map_err(|error| LabError::Content {
        file,
        expected: "the JSON report of a run".into(),
        found: error.to_string(),
    })?;
    let display = match path.join(DISPLAY).exists() || !is_without_clouds(&report) {
        true => read_display(&path.join(DISPLAY), &folder.read(DISPLAY)?)?,
        false => Display::nothing(),
    };
    write_renderings(&mut folder, &report, &display)
}

fn is_without_clouds(report: &Value) -> bool {
    let without = ["sweep", "finetune", "comparison"].iter().any(|job| report["job"] == *job);
    without || report["tokens"]["count"] == 0
}

fn write_renderings(folder: &mut RunDir, report: &Value, display: &Display) -> Result<(), LabError> {
    let report = &drawn_tokens_only(report);
    for (name, svg) in render::figures(report, display) {
        folder.write(&format!("figures/{name}"), svg.as_bytes())?;
    }
    folder.write("report.md", render::markdown(report).as_bytes())?;
    folder.write("report.html", render::html(report, display).as_bytes())
}

/// The report with its lists of one entry a token cut down to the drawn tokens, where not all are drawn.
fn drawn_tokens_only(report: &Value) -> Value {
    let mut view = report.clone();
    let Some(drawn) = report["display_tokens"].as_array() else { return view };
    let drawn: Vec<usize> = drawn.iter().filter_map(|i| usize::try_from(i.as_u64()?).ok()).collect();
    for list in ["/clusters/labels", "/twin/clusters/labels", "/tokens/strings", "/tokens/special"] {
        if let Some(Value::Array(entries)) = view.pointer_mut(list) {
            *entries = drawn.iter().filter_map(|&i| entries.get(i).cloned()).collect();
        }
    }
    view
}

fn display_bytes(display: &Display) -> Vec<u8> {
    let saved = display.times.len();
    let mut metadata = BTreeMap::new();
    let mut tensors = vec![Tensor::new("times", &[saved], TensorData::F64(&display.times))];
    let clouds = [
        (NAMES_BASE, Some(&display.base)),
        (NAMES_TWIN, display.twin.as_ref()),
        (NAMES_SAMPLES, display.samples.as_ref()),
    ];
    for ((positions, attention), cloud) in clouds {
        let Some(cloud) = cloud else { continue };
        tensors.push(Tensor::new(positions, &[saved, cloud.count, cloud.dim], TensorData::F32(&cloud.positions)));
        if let Some(maps) = &cloud.attention {
            tensors.push(Tensor::new(attention, &[saved, maps.side, maps.side], TensorData::U8(&maps.levels)));
            metadata.insert("attention_rows".to_string(), maps.rows.join("\n"));
        }
    }
    safetensors_bytes(&tensors, &metadata)
}

const NAMES_BASE: (&str, &str) = ("base_positions", "base_attention");
const NAMES_TWIN: (&str, &str) = ("twin_positions", "twin_attention");
const NAMES_SAMPLES: (&str, &str) = ("samples_positions", "samples_attention");

fn read_display(file: &Path, bytes: &[u8]) -> Result<Display, LabError> {
    let tensors = parse_safetensors(file, bytes)?;
    let missing = |name: &str| LabError::MissingTensor {
        file: file.to_owned(),
        tensor: name.to_owned(),
        found: tensors.keys().cloned().collect(),
    };
    let times = tensors.get("times").ok_or_else(|| missing("times"))?.as_slice().to_vec();
    let rows = attention_rows(bytes);
    let cloud = |(positions, attention): (&str, &str)| -> Option<Result<Cloud, LabError>> {
        let array = tensors.get(positions)?;
        let [saved, count, dim] = array.shape()[..] else { return Some(Err(missing(positions))) };
        if saved != times.len() {
            return Some(Err(missing(positions)));
        }
        let positions = array.as_slice().iter().map(|x| *x as f32).collect();
        let attention = tensors.get(attention).and_then(|maps| read_maps(maps, saved, &rows));
        Some(Ok(Cloud { count, dim, positions, attention }))
    };
    let base = cloud(NAMES_BASE).unwrap_or_else(|| Err(missing(NAMES_BASE.0)))?;
    let twin = cloud(NAMES_TWIN).transpose()?;
    let samples = cloud(NAMES_SAMPLES).transpose()?;
    Ok(Display { times, base, twin, samples })
}

fn read_maps(maps: &Array, saved: usize, rows: &[String]) -> Option<AttentionMaps> {
    let [times, side, _] = maps.shape()[..] else { return None };
    (times == saved && rows.len() == side).then(|| AttentionMaps {
        side,
        levels: maps.as_slice().iter().map(|level| *level as u8).collect(),
        rows: rows.to_vec(),
    })
}

/// The labels of the attention maps, from the file's metadata.
fn attention_rows(bytes: &[u8]) -> Vec<String> {
    let labels = safetensors::SafeTensors::read_metadata(bytes).ok().and_then(|(_, header)| {
        let metadata = header.metadata().as_ref()?;
        metadata.get("attention_rows").map(|rows| rows.split('\n').map(str::to_owned).collect())
    });
    labels.unwrap_or_default()
}
