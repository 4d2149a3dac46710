//! `metastable field`: one evaluation, no integration.

use std::process::Stdio;

use crate::util::{Ended, World, npy};

/// Reference fields of four tokens, of the transformer-PDE dossier of the theory notes, section 5.3 [checked]; the same
/// numbers as in `metastable-dynamics`.
const CONFIG: &str = "tokens.values = [[1.0, 0.0], [0.5, -0.5], [-0.25, 0.75], [-1.0, -0.5]]\ntime.end = 1.0\n\
    head = [{query = [[0.6, -0.4], [0.1, 0.5]], key = [[0.5, 0.2], [-0.3, 0.4]], value = [[0.3, -0.2], [0.4, 0.2]]}]\n";
const CASES: [(&[&str], [f64; 8]); 4] = [
    (
        &[],
        [
            0.067_649_047_102_95,
            0.079_995_943_761_74,
            0.081_586_020_319_11,
            0.082_405_718_065_73,
            -0.025_457_758_928_2,
            -0.062_449_617_189_18,
            0.024_097_620_123_09,
            -0.024_608_981_323_66,
        ],
    ),
    (
        &["kernel.score=\"squared_distance\""],
        [
            0.092_213_027_746_12,
            0.132_164_391_266_11,
            0.122_089_694_145_9,
            0.138_811_443_205_58,
            -0.073_279_911_021_74,
            -0.112_199_919_901_08,
            0.020_276_568_829_83,
            -0.047_244_061_487_87,
        ],
    ),
    (
        &["kernel.normalization=\"linear\""],
        [0.038234375, 0.07278125, 0.051828125, 0.07384375, -0.058625, -0.074375, -0.0055234375, -0.035328125],
    ),
    (
        &["kernel.mask=\"causal\""],
        [
            0.3,
            0.4,
            0.277_057_833_407_51,
            0.262_347_000_445_07,
            0.063_114_906_840_11,
            0.159_588_346_661_39,
            0.024_097_620_123_09,
            -0.024_608_981_323_66,
        ],
    ),
];

fn world() -> World {
    let world = World::new();
    world.write("run.toml", CONFIG);
    world
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn fields_are_those_of_the_reference() {
    for (overrides, expected) in CASES {
        let world = world();
        let mut arguments = vec!["field", "run.toml", "-o", "field.safetensors"];
        overrides.iter().for_each(|change| arguments.extend(["--set", change]));
        assert_eq!(world.succeed(&arguments).stdout, "field.safetensors\n", "stdout is data only");
        let tensors = world.tensors("field.safetensors");
        assert_eq!(tensors.keys().collect::<Vec<_>>(), ["field"]);
        assert_eq!(tensors["field"].shape, [4, 2]);
        for (found, expected) in tensors["field"].values().iter().zip(expected) {
            // The references are printed to 14 decimals.
            assert!((found - expected).abs() < 1e-14, "{overrides:?}: {found} {expected}");
        }
    }
}

#[test]
fn weights_are_stochastic_and_make_the_field() {
    let world = world();
    world.succeed(&["field", "run.toml", "-o", "f.safetensors", "--weights", "--set", "head.1.value=0.5"]);
    let tensors = world.tensors("f.safetensors");
    let (weights, field) = (&tensors["weights"], tensors["field"].values());
    assert_eq!(weights.shape, [2, 4, 4]);
    for row in weights.values().chunks_exact(4) {
        assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-15);
    }
    let tokens = [[1.0, 0.0], [0.5, -0.5], [-0.25, 0.75], [-1.0, -0.5]];
    let values = [[[0.3, -0.2], [0.4, 0.2]], [[0.5, 0.0], [0.0, 0.5]]];
    for i in 0..4 {
        for c in 0..2 {
            let head = |h: usize| -> f64 {
                (0..4).map(|j| weights.values()[h * 16 + i * 4 + j] * dot(&values[h][c], &tokens[j])).sum()
            };
            assert!((head(0) + head(1) - field[i * 2 + c]).abs() < 1e-15);
        }
    }
}

#[test]
fn jacobian_products_are_adjoint_and_follow_the_finite_difference() {
    let world = world();
    let (e, g): (Vec<f64>, Vec<f64>) =
        (0..8).map(|i| (f64::from(i) * 0.37 - 1.0, 1.0 - f64::from(i * i) * 0.03)).unzip();
    world.write("e.npy", npy(&[4, 2], &e));
    world.write("g.npy", npy(&[4, 2], &g));
    for coordinates in ["plain", "rescaled"] {
        let set = format!("space.coordinates=\"{coordinates}\"");
        let arguments =
            ["field", "run.toml", "-o", "f.safetensors", "--direction", "e.npy", "--cotangent", "g.npy", "--set", &set];
        world.succeed(&arguments);
        let tensors = world.tensors("f.safetensors");
        assert_eq!(tensors.keys().collect::<Vec<_>>(), ["field", "jvp", "vjp"]);
        let (jvp, vjp) = (tensors["jvp"].values(), tensors["vjp"].values());
        assert_eq!((&tensors["jvp"].shape, &tensors["vjp"].shape), (&vec![4, 2], &vec![4, 2]));
        // <J E, G> = <E, Jᵀ G>, up to rounding of sums of eight products near 1.
        assert!((dot(&jvp, &g) - dot(&e, &vjp)).abs() < 1e-14, "{coordinates}");
        // Central difference at h = 1e-5: truncation near h² = 1e-10, rounding near 1e-16 / h = 1e-11.
        let h = 1e-5;
        let at = |sign: f64| {
            let tokens = [1.0, 0.0, 0.5, -0.5, -0.25, 0.75, -1.0, -0.5];
            let moved: Vec<f64> = tokens.iter().zip(&e).map(|(x, e)| x + sign * h * e).collect();
            world.write("x.npy", npy(&[4, 2], &moved));
            world.succeed(&[
                "field",
                "run.toml",
                "-o",
                "x.safetensors",
                "--set",
                &set,
                "--set",
                "tokens={file=\"x.npy\"}",
            ]);
            world.tensors("x.safetensors")["field"].values()
        };
        for ((up, down), jvp) in at(1.0).iter().zip(at(-1.0)).zip(jvp) {
            assert!(((up - down) / (2.0 * h) - jvp).abs() < 1e-8, "{coordinates}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_is_written() {
    let world = world();
    world.write("three.npy", npy(&[3, 2], &[0.0; 6]));
    world.write("nan.npy", npy(&[4, 2], &[f64::NAN; 8]));
    let field = |more: &[&'static str]| -> Vec<&'static str> {
        ["field", "run.toml", "-o", "f.safetensors"].iter().chain(more).copied().collect()
    };
    world.refuse(
        &field(&["--direction", "three.npy"]),
        4,
        "three.npy: expected shape [4, 2], as the tokens, found shape [3, 2]",
    );
    world.refuse(&field(&["--cotangent", "nan.npy"]), 4, "nan.npy: tokens: entry 0 is NaN");
    world.refuse(&field(&["--direction", "absent.npy"]), 4, "absent.npy: cannot be read: no such file");
    world.refuse(
        &["field", "run.toml", "-o", "f.npy"],
        2,
        "--output: expected a file ending in .safetensors, found f.npy",
    );
    world.refuse(&["field", "run.toml", "-o", "absent/f.safetensors"], 1, "absent/f.safetensors: cannot be written");
}

#[test]
fn a_reader_that_stops_reading_is_no_error() {
    let world = world();
    for arguments in
        [&["field", "run.toml", "-o", "f.safetensors"][..], &["schema"], &["simulate", "run.toml", "--dry-run"]]
    {
        let mut child = world.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let ended = Ended::from(child.wait_with_output().unwrap());
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn single_precision_is_seven_digits_of_the_same_run_and_is_reported() {
    let world = world();
    let run = |precision: &str| {
        let set = format!("precision=\"{precision}\"");
        world.succeed(&["simulate", "run.toml", "-o", precision, "--set", &set, "--set", "time.save=2"]);
        let report: serde_json::Value = serde_json::from_slice(&world.files(precision)["report.json"]).unwrap();
        let tokens = world.tensors(&format!("{precision}/trajectory.safetensors"))["tokens"].values();
        (report, tokens)
    };
    let ((double_report, double), (report, single)) = (run("f64"), run("f32"));
    assert_eq!([&double_report["provenance"]["dtype"], &report["provenance"]["dtype"]], ["f64", "f32"]);
    assert!(report["warnings"].to_string().contains("single precision"), "{}", report["warnings"]);
    let worst = double.iter().zip(&single).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
    // Tolerances of 1e-5 and 1e-6 a step over a few steps of tokens of size one; and some digit was rounded.
    assert!(worst > 1e-10 && worst < 1e-4, "{worst:e}");
}
