//! Input files that are missing, broken or hostile: one line that names the file, code 4, nothing written.

use crate::util::{World, npy, safetensors};

const TOKENS: &str = "[tokens]\nfile = \"FILE\"\n[time]\nend = 0.1\nsave = 2\n";

fn world_with(file: &str, bytes: &[u8]) -> World {
    let world = World::new();
    world.write("run.toml", TOKENS.replace("FILE", file));
    world.write(file, bytes);
    world
}

/// Refuses a file of tokens.
fn refused(file: &str, bytes: &[u8], expected: &str) {
    world_with(file, bytes).refuse(&["simulate", "run.toml", "-o", "run"], 4, expected);
}

fn header(descr: &str, shape: &str) -> Vec<u8> {
    let text = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(u16::try_from(text.len()).unwrap().to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

#[test]
fn good_files_run() {
    let pair = npy(&[1, 2], &[1.0, 2.0]);
    world_with("x.npy", &pair).succeed(&["simulate", "run.toml", "-o", "run"]);
    let header = r#"{"tokens":{"dtype":"F64","shape":[1,2],"data_offsets":[0,16]}}"#;
    let file = safetensors(header, &pair[pair.len() - 16..]);
    world_with("x.safetensors", &file).succeed(&["simulate", "run.toml", "-o", "run"]);
}

#[test]
fn files_that_are_not_there_are_named() {
    let world = World::new();
    world.write("run.toml", TOKENS.replace("FILE", "absent.npy"));
    world.refuse(&["simulate", "run.toml", "-o", "run"], 4, "absent.npy: cannot be read: no such file");
    world.refuse(&["simulate", "absent.toml", "-o", "run"], 4, "absent.toml: cannot be read: no such file");
    world.refuse(&["field", "absent.toml", "-o", "x.safetensors"], 4, "absent.toml: cannot be read: no such file");
    world.refuse(&["simulate", "run.yam", "-o", "run"], 2, "expected a configuration ending in .toml");
    std::fs::create_dir(world.path().join("folder.npy")).unwrap();
    world.write("run.toml", TOKENS.replace("FILE", "folder.npy"));
    world.refuse(&["simulate", "run.toml", "-o", "run"], 4, "folder.npy: expected a regular file, found a folder");
}

#[test]
fn numbers_that_are_not_finite_and_shapes_that_are_no_cloud_are_refused() {
    refused(
        "x.npy",
        &npy(&[2, 2], &[1.0, f64::NAN, 0.0, 1.0]),
        "x.npy: tokens: entry 1 is NaN, expected finite numbers",
    );
    refused("x.npy", &npy(&[1, 1], &[f64::INFINITY]), "x.npy: tokens: entry 0 is inf");
    refused("x.npy", &npy(&[2], &[1.0, 2.0]), "x.npy: expected an array of shape [rows, columns], found shape [2]");
    refused("x.npy", &npy(&[0, 2], &[]), "x.npy: tokens: expected shape [n, d] with n >= 1 and d >= 1");
    refused("x.npy", &npy(&[2, 0], &[]), "x.npy: tokens: expected shape [n, d] with n >= 1 and d >= 1");
    refused("x.csv", b"1,2\n", "x.csv: expected a file ending in .npy or .safetensors");
}

#[test]
fn matrices_of_the_wrong_shape_name_file_key_expected_and_found() {
    let world = World::new();
    world.write("v.npy", npy(&[3, 3], &[0.0; 9]));
    world.write("run.toml", "tokens.values = [[1.0, 2.0]]\ntime.end = 1.0\nhead = [{value = \"v.npy\"}]\n");
    world.refuse(
        &["simulate", "run.toml", "-o", "run"],
        4,
        "v.npy: expected shape [r, 2] for `head[0].value`, found [3, 3]",
    );
    world.write(
        "run.toml",
        "tokens.values = [[1.0, 2.0]]\ntime.end = 1.0\nlora = {target = \"value\", delta = \"v.npy\"}\n",
    );
    world.refuse(
        &["simulate", "run.toml", "-o", "run"],
        4,
        "v.npy: expected shape [2, 2] for `lora[0].delta`, found [3, 3]",
    );
}

#[test]
fn broken_and_hostile_npy_files_are_refused() {
    let good = npy(&[2, 2], &[1.0; 4]);
    refused("x.npy", &good[..good.len() - 3], "x.npy: expected 32 bytes of data for shape [2, 2], found 29 bytes");
    refused("x.npy", &good[..20], "x.npy: expected a header of");
    refused("x.npy", b"", "x.npy: expected an .npy file, found no NumPy header");
    let objects = [header("'|O'", "(1, 1)"), b"\x80\x04cos\nsystem\n".to_vec()].concat();
    refused("x.npy", &objects, "x.npy: expected real numbers");
    let huge = header("'<f8'", "(1000000000000, 1000000000000)");
    refused("x.npy", &huge, "x.npy: expected a shape that fits the file");
    let large = header("'<f8'", "(1000000000, 2)");
    refused("x.npy", &large, "x.npy: expected 16000000000 bytes of data");
}

#[test]
fn broken_and_hostile_safetensors_files_are_refused() {
    let broken = "x.safetensors: expected a complete .safetensors file, found a broken one";
    let good = r#"{"a":{"dtype":"F64","shape":[1,2],"data_offsets":[0,16]}}"#;
    refused("x.safetensors", b"", broken);
    refused("x.safetensors", &(1_u64 << 62).to_le_bytes(), broken);
    refused("x.safetensors", &safetensors(good, &[0; 15]), broken);
    refused("x.safetensors", &safetensors(good, &[0; 17]), broken);
    let pair = |second: &str| {
        format!(
            r#"{{"a":{{"dtype":"F64","shape":[1,1],"data_offsets":[0,8]}},"b":{{"dtype":"F64","shape":[1,1],"data_offsets":{second}}}}}"#
        )
    };
    refused("x.safetensors", &safetensors(&pair("[4,12]"), &[0; 12]), broken);
    refused("x.safetensors", &safetensors(&pair("[16,24]"), &[0; 24]), broken);
    let several = safetensors(&pair("[8,16]"), &[0; 16]);
    refused("x.safetensors", &several, "x.safetensors: expected a tensor ``, found `a`, `b`");
}
