//! A small world for tests of the program: a folder of its own and a way to run `metastable` in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A temporary folder in which `metastable` runs.
pub(crate) struct World {
    folder: tempfile::TempDir,
}

/// How a run of the program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Creates a file.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let file = self.path().join(name);
        fs::write(&file, content).unwrap();
        file
    }

    /// The names in the folder, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        names_in(self.path())
    }

    /// The program with arguments, not started yet; it sees no terminal and no setting of the tester's.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_metastable"));
        command.current_dir(self.path()).args(arguments).stdin(Stdio::null());
        for variable in ["NO_COLOR", "CLICOLOR_FORCE", "RUST_BACKTRACE", "METASTABLE_CHECKPOINT_SECONDS"] {
            command.env_remove(variable);
        }
        // Tests need no network; those of downloads ask a server of their own.
        command.env("HF_HUB_OFFLINE", "1");
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        Ended::from(self.command(arguments).output().unwrap())
    }

    /// Runs the program, which must succeed without a word on stderr; progress, which a slow machine would show, is off.
    pub(crate) fn succeed(&self, arguments: &[&str]) -> Ended {
        let mut arguments = arguments.to_vec();
        if !arguments.contains(&"--no-progress") {
            arguments.push("--no-progress");
        }
        let ended = self.run(&arguments);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{arguments:?}: {}", ended.stdout);
        ended
    }

    /// Runs the program, which must refuse with this code, one error line that says `expected`, and no trace.
    pub(crate) fn refuse(&self, arguments: &[&str], code: i32, expected: &str) {
        let before = self.names();
        let ended = self.run(arguments);
        let (lines, what) = (ended.stderr.lines().collect::<Vec<_>>(), format!("{arguments:?}: {ended:?}"));
        assert_eq!(ended.code, Some(code), "{what}");
        assert_eq!(ended.stdout, "", "{what}");
        assert!(lines[0].starts_with("error: ") && lines[0].contains(expected), "no `{expected}` in {what}");
        assert!(lines.len() == 1 || lines.len() == 2 && lines[1].starts_with("hint: "), "{what}");
        assert_eq!(self.names(), before, "{what}");
    }

    /// `report.json` of a run folder.
    pub(crate) fn report(&self, folder: &str) -> Value {
        serde_json::from_slice(&self.read(&format!("{folder}/report.json"))).unwrap()
    }

    /// The bytes of a file.
    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The tensors of a `.safetensors` file.
    pub(crate) fn tensors(&self, name: &str) -> BTreeMap<String, Tensor> {
        let bytes = self.read(name);
        let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
        let header: serde_json::Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let data = &bytes[8 + length..];
        let tensors = header.into_iter().filter(|(name, _)| name != "__metadata__");
        tensors.map(|(name, entry)| (name, Tensor::of(&entry, data))).collect()
    }

    /// Every file of a run folder, by its name.
    pub(crate) fn files(&self, folder: &str) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        collect(&self.path().join(folder), "", &mut files);
        files
    }

    /// Asserts that two run folders hold the same names and the same bytes.
    pub(crate) fn assert_same(&self, left: &str, right: &str) {
        let (left_files, right_files) = (self.files(left), self.files(right));
        let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&left_files), names(&right_files));
        for (name, bytes) in &left_files {
            assert!(*bytes == right_files[name], "{name} differs between {left} and {right}");
        }
    }
}

/// A tensor as a file holds it.
pub(crate) struct Tensor {
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<u8>,
}

impl Tensor {
    fn of(entry: &Value, data: &[u8]) -> Self {
        let numbers = |key: &str| {
            let list = entry[key].as_array().unwrap();
            list.iter().map(|number| usize::try_from(number.as_u64().unwrap()).unwrap()).collect::<Vec<_>>()
        };
        let offsets = numbers("data_offsets");
        let dtype = entry["dtype"].as_str().unwrap().to_owned();
        Self { dtype, shape: numbers("shape"), data: data[offsets[0]..offsets[1]].to_vec() }
    }

    /// The entries of an F64 tensor.
    pub(crate) fn values(&self) -> Vec<f64> {
        assert_eq!(self.dtype, "F64");
        self.data.as_chunks().0.iter().map(|entry| f64::from_le_bytes(*entry)).collect()
    }
}

fn collect(folder: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) {
    for name in names_in(folder) {
        let path = folder.join(&name);
        if path.is_dir() {
            collect(&path, &format!("{prefix}{name}/"), files);
        } else {
            files.insert(format!("{prefix}{name}"), fs::read(path).unwrap());
        }
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A path of the repository.
pub(crate) fn repository(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    root.join(path).to_str().unwrap().to_owned()
}

/// The bytes of a `.npy` file of f64 in C order.
pub(crate) fn npy(shape: &[usize], values: &[f64]) -> Vec<u8> {
    let sides: String = shape.iter().map(|side| format!("{side},")).collect();
    let header = format!("{{'descr': '<f8', 'fortran_order': False, 'shape': ({sides}), }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

/// A safetensors file of this header, well-formed or not.
pub(crate) fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

/// Says on stderr why a test had nothing to do; where CI=true that is a failure.
pub(crate) fn skip(why: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "skipped: {why}");
    // Past the capture of the test harness, which `eprintln!` would go into, so that people see it.
    let _ = std::io::Write::write_all(&mut std::io::stderr().lock(), format!("skipped: {why}\n").as_bytes());
}

/// Opens a page in a headless browser, which must find nothing to complain about.
pub(crate) fn check_page(page: &Path) {
    let ended = Ended::from(Command::new(repository("scripts/render-check")).arg(page).output().unwrap());
    match ended.code {
        Some(77) => skip("no headless browser for scripts/render-check"),
        _ => assert_eq!(ended.code, Some(0), "{ended:?}"),
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
