use super::*;
use crate::model::Input;
use crate::smoothness::LayerPart;
use crate::transformer::reverse::tests::fixture;

fn options() -> LanczosOptions {
    LanczosOptions { tolerance: 1e-4, max_steps: 60, ..LanczosOptions::default() }
}

fn hidden(model: &Model, n: u32) -> Hidden {
    let vocab = u32::try_from(model.config().vocab).unwrap();
    model.forward(&Input::new((0..n).map(|i| (1 + 31 * i * i + 7 * i) % (vocab - 5) + 4).collect()).unwrap()).unwrap()
}

#[test]
fn shares_of_heads_add_up_and_bounds_stand_on_both_sides() {
    for name in ["qwen3", "llama-biases", "gpt2-narrow", "roberta"] {
        let model = fixture(name);
        let heads = model.layer_heads(&hidden(&model, 11), 1).unwrap_or_else(|error| panic!("{name}: {error}"));
        for (head, found) in heads.constants(&options()).unwrap().iter().enumerate() {
            assert!(found.triplet.converged && found.triplet.value <= found.upper, "{name} {head}");
            let why = heads.explain(head, found).unwrap();
            let (total, size) =
                (why.paths.total(), why.paths.value.abs() + why.paths.query.abs() + why.paths.key.abs());
            // Products in f32.
            assert!(
                (total - found.triplet.value).abs() < 1e-4 * size,
                "{name} {head}: {total} {}",
                found.triplet.value
            );
            for energies in [&why.moved, &why.answering] {
                assert!((energies.iter().sum::<f64>() - 1.0).abs() < 1e-9 && energies.len() == 11, "{name}");
            }
            assert!(why.column_lower <= why.value_path_lower * (1.0 + 1e-9), "{name} {head}");
            assert!(why.value_path_lower <= found.triplet.value * (1.0 + 1e-4), "{name} {head}");
        }
        assert!(heads.constant(99, &options()).unwrap_err().to_string().contains("head: expected"));
    }
}

#[test]
fn shares_of_a_layer_add_up_over_heads_paths_and_tokens() {
    for name in ["qwen3", "mistral-window", "gpt2-narrow", "distilbert"] {
        let model = fixture(name);
        let hidden = hidden(&model, 9);
        let found = model.layer_constant(&hidden, 1, LayerPart::Attention, &options()).unwrap();
        let why = model.explain_layer(&hidden, 1, &found.triplet).unwrap();
        assert_eq!(why.heads.len(), model.config().heads);
        let total: f64 = why.heads.iter().map(|head| head.total()).sum();
        let size: f64 = why.heads.iter().map(|h| h.value.abs() + h.query.abs() + h.key.abs()).sum();
        assert!((total - found.triplet.value).abs() < 1e-4 * size, "{name}: {total} {}", found.triplet.value);
        assert!((why.moved.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{name}");
        let mut wrong = found.triplet.clone();
        wrong.left.pop();
        let error = model.explain_layer(&hidden, 1, &wrong).unwrap_err().to_string();
        assert!(error.starts_with("singular vectors: expected"), "{error}");
    }
}

#[test]
fn constants_of_heads_are_equal_to_the_bit_on_any_number_of_threads() {
    let model = fixture("llama-biases");
    let hidden = hidden(&model, 9);
    let heads = model.layer_heads(&hidden, 1).unwrap();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| heads.constants(&options()).unwrap())
    };
    assert_eq!(run(1), run(3));
}
