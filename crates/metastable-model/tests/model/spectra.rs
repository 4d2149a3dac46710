//! Spectra of heads against LAPACK on dense products (scripts/golden/heads.py).

use std::path::PathBuf;

use metastable_dynamics::{Head, Matrix};
use metastable_model::{HeadSpectrum, Model, Weights};

use crate::golden::Golden;

fn golden() -> Golden {
    Golden::of(include_bytes!("../golden/heads.safetensors"))
}

/// The generator of the script: exact in both languages.
struct Generator(u32);

impl Generator {
    fn matrix(&mut self, rows: usize, columns: usize) -> Matrix {
        let entries = (0..rows * columns).map(|_| {
            self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(self.0) / 4_294_967_296.0 - 0.5
        });
        Matrix::new("entries", rows, columns, entries.collect()).unwrap()
    }
}

fn head(k: usize, d: usize, deficient: bool) -> Head {
    let mut generator = Generator(1);
    let query = generator.matrix(k, d);
    let kept = if deficient { k / 2 } else { k };
    let query = Matrix::from_fn(k, d, |i, j| if i < kept { query.at(i, j) } else { 0.0 });
    let (key, value) = (generator.matrix(k, d), generator.matrix(k, d));
    Head::new(query, key, value, Some(generator.matrix(d, k))).unwrap()
}

#[test]
fn spectra_of_random_heads_are_those_of_lapack_on_dense_products() {
    let golden = golden();
    for (name, k, d) in
        [("minilm", 32, 384), ("smollm2", 64, 576), ("tiny", 16, 64), ("wide", 7, 5), ("deficient", 32, 384)]
    {
        let found = HeadSpectrum::of(&head(k, d, name == "deficient")).unwrap();
        // Backward stable decompositions on both sides: some d roundings of the largest value.
        let near = |found: f64, exact: f64, size: f64| {
            assert!((found - exact).abs() < 1e-12 * size, "{name}: {found} {exact}");
        };
        let (qk, ov) = (golden.doubles(&format!("{name}.qk")), golden.doubles(&format!("{name}.ov")));
        found.qk_singular_values.iter().zip(&qk).for_each(|(s, exact)| near(*s, *exact, qk[0]));
        found.ov_singular_values.iter().zip(&ov).for_each(|(s, exact)| near(*s, *exact, ov[0]));
        let numbers = golden.doubles(&format!("{name}.numbers"));
        assert_eq!(found.qk_rank as f64, numbers[0], "{name}");
        let measured =
            [found.qk_stable_rank, found.qk_effective_rank, found.qk_symmetric_share.unwrap(), found.effective_beta];
        measured.iter().zip(&numbers[1..]).for_each(|(x, exact)| near(*x, *exact, 100.0 * exact));
        // Eigenvalues of a matrix that is not normal move by its condition times rounding; pairs are matched by nearness,
        // for those of equal modulus have no order.
        let eigenvalues = golden.doubles(&format!("{name}.eigenvalues"));
        assert_eq!(found.ov_eigenvalues.len(), k.min(d), "{name}");
        for exact in eigenvalues.chunks_exact(2) {
            let distance = |z: &(f64, f64)| (z.0 - exact[0]).hypot(z.1 - exact[1]);
            let nearest = found.ov_eigenvalues.iter().map(distance).fold(f64::INFINITY, f64::min);
            assert!(nearest < 1e-9 * ov[0], "{name}: {exact:?} is {nearest:e} from the nearest");
        }
    }
}

fn tiny_llama() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny-llama"))
}

#[test]
fn the_circuit_of_a_rotary_head_over_distances_is_the_dense_rotated_product() {
    let (golden, model) = (golden(), Model::open(&tiny_llama()).unwrap());
    for head in 0..4 {
        let exact = golden.doubles(&format!("rotary.{head}"));
        let found = model.query_key_by_distance(1, head, &[0, 1, 5, 40]).unwrap();
        for (point, exact) in found.iter().zip(exact.chunks_exact(3)) {
            let measured = [point.norm, point.frobenius, point.symmetric_share.unwrap()];
            for (found, exact) in measured.iter().zip(exact) {
                // Frequencies are f32 as in the reference: 40 places add up to angles of 40·2^-24.
                assert!((found - exact).abs() < 1e-5 * exact, "head {head}: {point:?} {exact}");
            }
        }
        // At distance 0 nothing turns: the circuit of the table.
        let spectrum = &model.spectra(1).unwrap()[head];
        assert!((found[0].norm - spectrum.qk_norm).abs() < 1e-12 * spectrum.qk_norm);
        let lazily = Weights::open(&tiny_llama()).unwrap().query_key_by_distance(1, head, &[0, 1, 5, 40]).unwrap();
        assert_eq!(lazily, found);
    }
}

#[test]
fn query_heads_of_one_group_share_keys_and_values_and_no_others() {
    let heads = Model::open(&tiny_llama()).unwrap().head_matrices(1).unwrap();
    let shares = |i: usize, j: usize| (heads[i].key() == heads[j].key(), heads[i].value() == heads[j].value());
    assert_eq!([shares(0, 1), shares(2, 3)], [(true, true); 2]);
    assert_eq!([shares(0, 2), shares(1, 3)], [(false, false); 2]);
    assert!(heads[0].query() != heads[1].query());
}

#[test]
fn distances_that_no_model_or_text_has_are_refused() {
    let model = Model::open(&tiny_llama()).unwrap();
    let message = model.query_key_by_distance(1, 0, &[128]).unwrap_err().to_string();
    assert!(message.contains("distances: expected numbers below 128 positions, found 128"), "{message}");
    assert!(model.query_key_by_distance(1, 4, &[1]).is_err() && model.query_key_by_distance(4, 0, &[1]).is_err());
    let gpt2 = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny-gpt2"));
    let message = Weights::open(&gpt2).unwrap().query_key_by_distance(0, 0, &[1]).unwrap_err().to_string();
    assert!(message.contains("distances: expected a model with rotary positions, found gpt2"), "{message}");
}
