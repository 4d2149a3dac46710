use super::*;
use crate::model::Input;
use crate::smoothness::{TokenSearch, WorstToken};
use crate::transformer::reverse::tests::fixture;

fn hidden(model: &Model) -> Hidden {
    model.forward(&Input::new(vec![5, 9, 6, 12, 7]).unwrap()).unwrap()
}

fn options(radius: f64) -> WorstOptions {
    WorstOptions { count: 8, radius: Some(radius), ascent_steps: 30, seed: 1 }
}

#[test]
fn what_is_proven_of_a_cloud_is_below_its_constant_and_that_below_the_bound_of_the_ball() {
    for name in ["llama-biases", "gpt2-narrow", "qwen3", "roberta", "distilbert"] {
        let model = fixture(name);
        for (layer, head, radius) in [(0, 0, 0.5), (1, 1, 3.0)] {
            let found = model.head_worst(&hidden(&model), (layer, head), &options(radius)).unwrap();
            let mut best = 0.0_f64;
            for cloud in [&found.two_points, &found.three_clusters].into_iter().flatten() {
                let proven = cloud.proven.unwrap();
                // Eigenvectors of nearly defective matrices are known to the root of eps.
                assert!(proven <= cloud.constant * (1.0 + 1e-6), "{name}: {proven} {}", cloud.constant);
                assert!(cloud.constant.ln() <= found.upper.ln + 1e-9, "{name}");
                assert!(cloud.in_model > 0.0 && cloud.tokens.len() == 8 * model.config().hidden, "{name}");
                for token in cloud.tokens.chunks_exact(model.config().hidden) {
                    let size = token.iter().map(|x| x * x).sum::<f64>().sqrt();
                    assert!(size <= radius * (1.0 + 1e-9), "{name}: {size}");
                }
                best = best.max(cloud.constant);
            }
            assert!(found.ascent.constant >= best * (1.0 - 1e-6), "{name}: {} {best}", found.ascent.constant);
            assert!(found.ascent.constant.ln() <= found.upper.ln + 1e-9 && found.ascent.proven.is_none(), "{name}");
            assert!(found.mean_field.is_some_and(|bound| bound.ln > f64::NEG_INFINITY), "{name}");
            assert!(found.large_radius_limit > 0.0, "{name}");
        }
    }
}

/// Without query biases, norms of queries and rotations the head of the layer is the head alone.
#[test]
fn a_head_without_biases_is_the_head_alone() {
    let mut model = fixture("gpt2-narrow");
    for block in &mut model.transformer_mut().blocks {
        let query = &mut block.attention.query;
        query.replace_bias(vec![0.0; query.outputs()]);
    }
    let found = model.head_worst(&hidden(&model), (1, 0), &options(2.0)).unwrap();
    for cloud in [found.two_points, found.three_clusters, Some(found.ascent)].into_iter().flatten() {
        // Both to a residual of 1e-6.
        assert!((cloud.in_model / cloud.constant - 1.0).abs() < 1e-6, "{} {}", cloud.in_model, cloud.constant);
    }
}

#[test]
fn the_vocabulary_is_searched_as_well_as_by_trying_every_token() {
    for name in ["llama-biases", "gpt2-narrow", "distilbert"] {
        let model = fixture(name);
        let ids: Vec<u32> = vec![5, 9, 6, 12, 7];
        let search = |candidates, rounds| -> WorstToken {
            let search = TokenSearch { position: 2, candidates, rounds, seed: 1 };
            model.worst_token(&Input::new(ids.clone()).unwrap(), 1, &search).unwrap()
        };
        let all = search(model.config().vocab, 1);
        assert_eq!((all.screened, all.computed), (model.config().vocab, model.config().vocab), "{name}");
        let exact = (0..all.screened as u32).map(|token| {
            let mut ids = ids.clone();
            ids[2] = token;
            let hidden = model.forward(&Input::new(ids).unwrap()).unwrap();
            let heads = model.layer_heads(&hidden, 0).unwrap();
            heads.constant(1, &crate::smoothness::single_precision_lanczos()).unwrap().triplet.value
        });
        let exact = exact.fold(0.0, f64::max);
        // Residuals of 1e-3 on both sides.
        assert!((all.after / exact - 1.0).abs() < 2e-3, "{name}: {} {exact}", all.after);
        let few = search(4, 2);
        assert!(few.after >= few.before && few.after <= all.after * (1.0 + 1e-3) && few.computed == 9, "{name}");
    }
}

#[test]
fn searches_that_cannot_be_made_are_refused() {
    let model = fixture("mistral-window");
    let refused =
        |place, options: WorstOptions| model.head_worst(&hidden(&model), place, &options).unwrap_err().to_string();
    assert!(refused((0, 99), options(1.0)).starts_with("head: expected a number below"));
    // The window is of seven tokens.
    let six = WorstOptions { count: 6, ..options(0.0) };
    assert_eq!(refused((0, 0), six), "radius: expected a positive number, found 0");
    let few = WorstOptions { count: 2, ..options(1.0) };
    assert_eq!(refused((0, 0), few), "tokens of a cloud: expected at least 3, found 2");
    let wide = WorstOptions { count: 1000, ..options(1.0) };
    assert!(refused((0, 0), wide).starts_with("tokens of a cloud: expected at most the 7 of the window"));
    let search = TokenSearch { position: 3, candidates: 1, rounds: 1, seed: 0 };
    let error = model.worst_token(&Input::new(vec![5, 6]).unwrap(), 0, &search).unwrap_err().to_string();
    assert_eq!(error, "position: expected a number below the 2 tokens of the text, found 3");
}
