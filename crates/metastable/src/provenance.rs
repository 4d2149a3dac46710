//! Where a result comes from: program, commit, seed, machine, inputs.
//!
//! Only what the numbers may depend on is recorded, so that reports are equal to the bit between runs, folders and
//! thread counts: no clock, no host name, no number of threads, no path but those the user gave.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::LabError;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit this program was built from, with "-dirty" if the sources differed from it; "unknown" where the build
/// saw no repository.
pub const COMMIT: &str = env!("METASTABLE_COMMIT");

/// Where a result comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Provenance {
    /// Always "metastable".
    pub program: String,
    /// The version of the program.
    pub version: String,
    /// The commit the program was built from.
    pub commit: String,
    /// The seed of all random numbers.
    pub seed: u64,
    /// The number type of the computation: "f64" or "f32".
    pub dtype: String,
    /// The machine, as far as results depend on it.
    pub machine: Machine,
    /// The SHA-256 of every input file, by its path as the user gave it.
    pub inputs: BTreeMap<String, String>,
}

impl Provenance {
    /// The provenance of a result of this build on this machine, without input files yet.
    pub fn new(seed: u64, dtype: &str) -> Self {
        Self {
            program: "metastable".into(),
            version: VERSION.into(),
            commit: COMMIT.into(),
            seed,
            dtype: dtype.into(),
            machine: Machine::this(),
            inputs: BTreeMap::new(),
        }
    }

    /// Adds an input file: read from `file`, recorded under the path the user gave. O(size), constant memory.
    ///
    /// # Errors
    /// [`LabError::Read`].
    pub fn add_input(&mut self, as_given: &str, file: &Path) -> Result<(), LabError> {
        self.inputs.insert(as_given.to_owned(), sha256_of_file(file)?);
        Ok(())
    }
}

/// A machine, as far as results depend on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Machine {
    /// The processor family, such as "x86_64".
    pub arch: String,
    /// The operating system, such as "linux" (its mathematical library computes `exp`).
    pub os: String,
    /// The instruction sets that change rounding: fused multiply-add and vector widths.
    pub cpu_features: Vec<String>,
}

impl Machine {
    /// This machine.
    pub fn this() -> Self {
        Self {
            arch: std::env::consts::ARCH.into(),
            os: std::env::consts::OS.into(),
            cpu_features: cpu_features().into_iter().map(str::to_owned).collect(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<&'static str> {
    let known = [
        ("avx2", std::is_x86_feature_detected!("avx2")),
        ("avx512f", std::is_x86_feature_detected!("avx512f")),
        ("fma", std::is_x86_feature_detected!("fma")),
    ];
    known.into_iter().filter_map(|(name, present)| present.then_some(name)).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> Vec<&'static str> {
    Vec::new()
}

/// The SHA-256 of bytes, in lower-case hexadecimal.
///
/// # Example
/// ```
/// use metastable::provenance::sha256_hex;
/// assert!(sha256_hex(b"").starts_with("e3b0c44298fc1c14"));
/// ```
pub fn sha256_hex(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// The SHA-256 of a file, in lower-case hexadecimal. O(size), constant memory.
///
/// # Errors
/// [`LabError::Read`].
pub fn sha256_of_file(file: &Path) -> Result<String, LabError> {
    digest_of_file(file).map_err(|source| LabError::Read { file: file.to_owned(), source })
}

fn digest_of_file(file: &Path) -> io::Result<String> {
    let mut reader = File::open(file)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hexadecimal(&hasher.finalize())),
            Ok(length) => hasher.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// One line that changes whenever the results would: the digest of the resolved configuration, the program's version
/// and commit, and the input files. For [`crate::RunDir::begin`].
pub fn fingerprint(resolved_config: &str, provenance: &Provenance) -> String {
    let mut hasher = Sha256::new();
    let mut part = |text: &str| {
        // Lengths keep ("ab", "c") apart from ("a", "bc").
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    };
    for text in [VERSION, COMMIT, resolved_config, &provenance.seed.to_string(), &provenance.dtype] {
        part(text);
    }
    for (name, digest) in &provenance.inputs {
        part(name);
        part(digest);
    }
    hexadecimal(&hasher.finalize())[..16].to_owned()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_and_its_bytes_have_one_digest() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x");
        let bytes: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
        std::fs::write(&file, &bytes).unwrap();
        assert_eq!(sha256_of_file(&file).unwrap(), sha256_hex(&bytes));
        // FIPS 180-2, appendix B.1.
        assert_eq!(sha256_hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn the_fingerprint_follows_everything_that_results_follow() {
        let base = Provenance::new(1, "f64");
        let mut input = base.clone();
        input.inputs.insert("x0.npy".into(), "00".into());
        let prints = [
            fingerprint("a", &base),
            fingerprint("b", &base),
            fingerprint("a", &Provenance::new(2, "f64")),
            fingerprint("a", &Provenance::new(1, "f32")),
            fingerprint("a", &input),
        ];
        let distinct: std::collections::BTreeSet<_> = prints.iter().collect();
        assert_eq!(distinct.len(), prints.len());
        assert_eq!(prints[0], fingerprint("a", &base.clone()));
    }

    #[test]
    fn the_build_knows_a_commit_or_says_that_it_does_not() {
        let hash = COMMIT.strip_suffix("-dirty").unwrap_or(COMMIT);
        assert!(COMMIT == "unknown" || (hash.len() >= 40 && hash.bytes().all(|b| b.is_ascii_hexdigit())), "{COMMIT}");
    }
}
