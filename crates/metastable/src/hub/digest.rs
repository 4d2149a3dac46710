//! The hashes by which the Hub names contents: SHA-256 of large files, Git's SHA-1 of small ones.

use std::fmt::Write as _;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// A hash that a server announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Announced {
    /// SHA-256 of the content, 64 hexadecimal digits.
    Sha256(String),
    /// Git's name of the content, 40 digits: SHA-1 of "blob", its length and it.
    GitBlob(String),
    /// Something that says nothing about the content.
    Opaque,
}

impl Announced {
    /// What an entity tag (without quotes) says about the content.
    pub(super) fn of_tag(tag: &str) -> Self {
        let is_hexadecimal = tag.chars().all(|digit| digit.is_ascii_digit() || ('a'..='f').contains(&digit));
        match tag.len() {
            64 if is_hexadecimal => Self::Sha256(tag.into()),
            40 if is_hexadecimal => Self::GitBlob(tag.into()),
            _ => Self::Opaque,
        }
    }
}

/// Hashes a content as it arrives.
pub(super) enum Hasher {
    Sha256(Sha256, String),
    GitBlob(Sha1, String),
    Opaque,
}

impl Hasher {
    /// Begins; Git's hash needs the length first.
    pub(super) fn begin(announced: &Announced, length: u64) -> Self {
        match announced {
            Announced::Sha256(expected) => Self::Sha256(Sha256::new(), expected.clone()),
            Announced::GitBlob(expected) => {
                let mut hasher = Sha1::new();
                hasher.update(format!("blob {length}\0"));
                Self::GitBlob(hasher, expected.clone())
            }
            Announced::Opaque => Self::Opaque,
        }
    }

    /// Takes the next bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher, _) => hasher.update(bytes),
            Self::GitBlob(hasher, _) => hasher.update(bytes),
            Self::Opaque => {}
        }
    }

    /// The expected and the found hash, if they differ.
    pub(super) fn difference(self) -> Option<(String, String)> {
        let (name, expected, found) = match self {
            Self::Sha256(hasher, expected) => ("sha256", expected, hexadecimal(&hasher.finalize())),
            Self::GitBlob(hasher, expected) => ("git hash", expected, hexadecimal(&hasher.finalize())),
            Self::Opaque => return None,
        };
        (expected != found).then(|| (format!("{name} {expected}"), found))
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String grows");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_git_and_sha256sum() {
        // `printf hello | git hash-object --stdin` and `printf hello | sha256sum` [checked].
        let hashes = [
            "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0",
            "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
        ];
        for hash in hashes {
            let mut hasher = Hasher::begin(&Announced::of_tag(hash), 5);
            hasher.update(b"hel");
            hasher.update(b"lo");
            assert_eq!(hasher.difference(), None);
            let mut hasher = Hasher::begin(&Announced::of_tag(hash), 5);
            hasher.update(b"hallo");
            assert!(hasher.difference().unwrap().0.contains(hash));
        }
    }

    #[test]
    fn other_tags_announce_nothing() {
        for tag in ["", "abc", "W/1", "B6FC4C620B67D95F953A5C1C1230AAAB5DB5A1B0"] {
            assert_eq!(Announced::of_tag(tag), Announced::Opaque, "{tag}");
        }
    }
}
