//! Heads taken out of a checkpoint against the forward pass they come from.

use metastable_model::Input;

use crate::world::{Noise, SMALL, World, naive_softmax};

#[test]
fn attention_weights_are_the_softmax_of_the_heads_scores() {
    let mut world = World::new(SMALL);
    world.fill("query.bias", 0.0);
    world.fill("key.bias", 0.0);
    let model = world.open().unwrap();
    let keep: Vec<bool> = (0..70).map(|i| i != 4).collect();
    let hidden = model.forward(&Input::padded(Noise(2).ids(70, SMALL.vocab), keep.clone()).unwrap()).unwrap();
    for layer in 0..3 {
        let rows: Vec<Vec<f64>> =
            hidden.level(layer).chunks_exact(21).map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect();
        for (h, head) in model.head_matrices(layer).unwrap().iter().enumerate() {
            let weights = model.attention_weights(&hidden, layer, h).unwrap();
            let project = |matrix: &metastable_dynamics::Matrix, x: &[f64]| {
                let mut y = vec![0.0; 7];
                matrix.apply(x, &mut y);
                y
            };
            let keys: Vec<Vec<f64>> = rows.iter().map(|x| project(head.key(), x)).collect();
            for (i, x) in rows.iter().enumerate() {
                // naive_softmax divides by sqrt(7) once more: the head's query carries that factor already.
                let query: Vec<f64> = project(head.query(), x).iter().map(|q| q * 7.0_f64.sqrt()).collect();
                let exact = naive_softmax(&query, keys.iter().map(Vec::as_slice), &keep);
                for (j, exact) in exact.iter().enumerate() {
                    // A weight is at most 1; scores up to 30 rounded to f32 change it by 30·2^-23.
                    assert!((weights.at(i, j) - exact).abs() < 4e-6, "{layer} {h} {i} {j}");
                    assert!(keep[j] || weights.at(i, j) == 0.0);
                }
            }
        }
    }
}

#[test]
fn values_and_outputs_of_the_heads_add_up_to_the_joint_maps() {
    let world = World::new(SMALL);
    let heads = world.open().unwrap().head_matrices(1).unwrap();
    let weight = |name: &str| &world.tensors[&format!("encoder.layer.1.attention.{name}.weight")].1;
    let (value, output) = (weight("self.value"), weight("output.dense"));
    for i in 0..21 {
        for j in 0..21 {
            let joint: f64 = (0..21).map(|k| f64::from(output[21 * i + k]) * f64::from(value[21 * k + j])).sum();
            let by_heads: f64 = heads.iter().map(|head| head.output_value().at(i, j)).sum();
            assert!((joint - by_heads).abs() < 1e-13, "{i} {j}");
        }
    }
}

#[test]
fn layers_and_heads_that_do_not_exist_are_named() {
    let model = World::new(SMALL).open().unwrap();
    let hidden = model.forward(&Input::new(vec![1, 2]).unwrap()).unwrap();
    let message = model.attention_weights(&hidden, 3, 0).unwrap_err().to_string();
    assert!(message.contains("layer: expected a number below 3, found 3"), "{message}");
    let message = model.attention_weights(&hidden, 0, 5).unwrap_err().to_string();
    assert!(message.contains("head: expected a number below 3, found 5"), "{message}");
    assert!(model.head_matrices(9).is_err() && model.spectra(3).is_err());
    assert_eq!(model.spectra(2).unwrap().len(), 3);
}
