//! The local Lipschitz constant of attention against the number of tokens: worst clouds, random weights, real text.
//!
//! ```text
//! cargo run --release -p metastable --example attention_smoothness -- FOLDER [MODEL TEXT LAYER...]
//! ```
//!
//! Writes `constants.csv` and `constants.svg` into FOLDER and prints fitted exponents with their 95 % intervals, next to
//! the n^{1/4} and √n of 2312.14820. Without a model: the two-point cloud (R = 3, A = -I), three clusters, and Gaussian
//! tokens under random heads; and steps and products of Lanczos beside those of the authors' rule. With one: the attention
//! of the chosen layers (all heads, residual not included) on prefixes of the text, one warm-started sweep for decoders,
//! one forward a prefix for encoders; and two-point clouds of their first heads.
#![allow(clippy::print_stdout)]

mod figure;
mod rules;

use std::path::Path;

use metastable::run_dir::write_file;
use metastable_dynamics::attention::{AttentionKernel, Mask};
use metastable_dynamics::smoothness::scaling::{PowerLaw, prefix_constants};
use metastable_dynamics::smoothness::worst_case::{three_cluster, two_points};
use metastable_dynamics::smoothness::{LanczosOptions, TwoSidedOptions, lipschitz};
use metastable_dynamics::{Head, Matrix, TokensRef, random};
use metastable_model::config::Mask as ModelMask;
use metastable_model::smoothness::{WorstOptions, single_precision_lanczos};
use metastable_model::{Hidden, Input, LayerPart, Model};

type Failure = Box<dyn std::error::Error>;

/// One curve: its name and the points (n, constant).
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (folder, rest) = arguments.split_first().ok_or("expected a folder to write to")?;
    let curves = match rest {
        [] => {
            rules::print()?;
            synthetic()?
        }
        [model, text, layers @ ..] => {
            let layers = layers.iter().map(|layer| layer.parse()).collect::<Result<Vec<usize>, _>>()?;
            real(Path::new(model), &std::fs::read_to_string(text)?, &layers)?
        }
        [_] => return Err("expected a text beside the model".into()),
    };
    println!("{:<34} {:>9} {:>9}   95 % interval", "curve", "exponent", "factor");
    for curve in &curves {
        if let Some(law) = PowerLaw::fit(&curve.points) {
            let [low, high] = law.interval;
            println!("{:<34} {:>9.3} {:>9.3}   [{low:.3}, {high:.3}]", curve.name, law.exponent, law.factor);
        }
    }
    let rows = curves.iter().flat_map(|curve| curve.points.iter().map(|(n, l)| format!("{},{n},{l}\n", curve.name)));
    let csv: String = std::iter::once("curve,n,constant\n".to_owned()).chain(rows).collect();
    std::fs::create_dir_all(folder)?;
    write_file(&Path::new(folder).join("constants.csv"), csv.as_bytes())?;
    write_file(&Path::new(folder).join("constants.svg"), figure::svg(&curves).as_bytes())?;
    Ok(())
}

/// Doubling, then halfway: 4, 6, 8, 12, …, `last`.
fn lengths(last: usize) -> Vec<usize> {
    let mut lengths: Vec<usize> = (2..20).flat_map(|k| [1 << k, 3 << (k - 1)]).filter(|n| *n <= last).collect();
    lengths.sort_unstable();
    lengths
}

fn synthetic() -> Result<Vec<Curve>, Failure> {
    let identity = Matrix::scaled_identity(4, 1.0);
    let opposed = Head::new(identity.scaled(-1.0), identity.clone(), identity, None)?;
    let mut curves = Vec::new();
    for (mask, word) in [(Mask::Full, "full"), (Mask::Causal, "causal")] {
        let kernel = AttentionKernel::softmax(1.0)?.masked(mask);
        let options = TwoSidedOptions { dense_limit: 0, certificate_limit: 0, ..Default::default() };
        let mut points = [Vec::new(), Vec::new()];
        for n in lengths(512) {
            let cases = [two_points(&opposed, &kernel, 3.0, n)?, three_cluster(&opposed, &kernel, 3.0, n)?];
            for (case, points) in cases.into_iter().zip(&mut points) {
                let case = case.ok_or("A = -I has an eigenvalue")?;
                let found = lipschitz(std::slice::from_ref(&opposed), &kernel, case.tokens.view(), &options)?;
                points.push((n as f64, found.lower()));
            }
        }
        let [two, three] = points;
        curves.push(Curve { name: format!("two points, R = 3, {word}"), points: two });
        curves.push(Curve { name: format!("three clusters, R = 3, {word}"), points: three });
        curves.push(Curve { name: format!("random heads, {word}"), points: random_heads(&kernel)? });
    }
    Ok(curves)
}

/// Four heads of width 8 in R^32 with entries N(0, 1/32), standard normal tokens: the initialisation of a layer.
fn random_heads(kernel: &AttentionKernel) -> Result<Vec<(f64, f64)>, Failure> {
    let draw = |seed, rows, columns| {
        let entries = random::standard_normal(seed, rows, columns);
        Matrix::new("random", rows, columns, entries).map(|m| m.scaled(1.0 / 32.0_f64.sqrt()))
    };
    let head = |seed| {
        Head::new(draw(seed, 8, 32)?, draw(seed + 1, 8, 32)?, draw(seed + 2, 8, 32)?, Some(draw(seed + 3, 32, 8)?))
    };
    let heads = (0..4).map(|h| head(10 * h + 1)).collect::<Result<Vec<_>, _>>()?;
    let tokens = random::standard_normal(99, 512, 32);
    let options = LanczosOptions { tolerance: 1e-6, ..Default::default() };
    let found = prefix_constants(&heads, kernel, TokensRef::new(32, &tokens), &lengths(512), &options)?;
    Ok(found.iter().map(|prefix| (prefix.count as f64, prefix.value)).collect())
}

fn real(model: &Path, text: &str, layers: &[usize]) -> Result<Vec<Curve>, Failure> {
    let model = Model::open(model)?;
    let limit = model.config().positions.min(256);
    let encoded = model.text()?.encode_at_most(text, limit)?;
    let lengths: Vec<usize> = lengths(encoded.ids.len());
    let options = single_precision_lanczos();
    let mut curves: Vec<Curve> =
        layers.iter().map(|layer| Curve { name: format!("layer {layer}"), points: Vec::new() }).collect();
    if matches!(model.config().mask, ModelMask::Full) {
        for &n in &lengths {
            let hidden = model.forward(&Input::new(encoded.ids[..n].to_vec())?)?;
            for (layer, curve) in layers.iter().zip(&mut curves) {
                let found = model.layer_constant(&hidden, *layer, LayerPart::Attention, &options)?;
                curve.points.push((n as f64, found.triplet.value));
            }
        }
    } else {
        let hidden = model.forward(&Input::from(&encoded))?;
        for (layer, curve) in layers.iter().zip(&mut curves) {
            let found = model.layer_sweep(&hidden, *layer, LayerPart::Attention, &lengths, &options)?;
            curve.points = found.iter().map(|prefix| (prefix.count as f64, prefix.value)).collect();
        }
    }
    let hidden = model.forward(&Input::from(&encoded))?;
    for layer in layers {
        curves.push(adversarial(&model, &hidden, *layer, &lengths)?);
    }
    Ok(curves)
}

/// Two points on an eigenvector of the layer's first head, as far out as the text: the head alone.
fn adversarial(model: &Model, hidden: &Hidden, layer: usize, lengths: &[usize]) -> Result<Curve, Failure> {
    let mut points = Vec::new();
    for &count in lengths {
        let options = WorstOptions { count, radius: None, ascent_steps: 0, seed: 0 };
        let found = model.head_worst(hidden, (layer, 0), &options)?;
        points.extend(found.two_points.map(|cloud| (count as f64, cloud.constant)));
    }
    Ok(Curve { name: format!("layer {layer} head 0, two points"), points })
}
