//! The name of a repository of the Hub, as a user writes it.

use std::fmt;
use std::path::{Component, Path, PathBuf};

/// `NAME` or `ORGANISATION/NAME`, with `@REVISION` if it is not `main`, and `/FILE` or `/FOLDER` inside it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HubName {
    /// `NAME` or `ORGANISATION/NAME`.
    pub repository: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// A file or folder of the repository, with `/` between its parts.
    pub inside: Option<String>,
}

impl HubName {
    /// Reads a name; nothing if it cannot be one, such as a path with `..`.
    ///
    /// # Example
    /// ```
    /// use metastable::hub::HubName;
    ///
    /// let name = HubName::parse("org/model@v1.0/model-Q4_0.gguf".as_ref()).unwrap();
    /// assert_eq!((name.repository.as_str(), name.revision.as_str()), ("org/model", "v1.0"));
    /// assert_eq!(name.inside.as_deref(), Some("model-Q4_0.gguf"));
    /// assert_eq!(HubName::parse("../model".as_ref()), None);
    /// ```
    pub fn parse(name: &Path) -> Option<Self> {
        let parts: Vec<&str> = name.to_str()?.split('/').collect();
        // The revision stands behind the last part of the repository's name.
        let at = parts.iter().take(2).position(|part| part.contains('@'));
        let length = at.map_or(parts.len().min(2), |index| index + 1);
        let (repository, inside) = parts.split_at(length);
        let repository = repository.join("/");
        let (repository, revision) = repository.split_once('@').unwrap_or((&repository, "main"));
        let all = repository.split('/').chain([revision]).chain(inside.iter().copied());
        let fits = all.into_iter().all(is_plain) && !repository.is_empty();
        let inside = (!inside.is_empty()).then(|| inside.join("/"));
        fits.then(|| Self { repository: repository.into(), revision: revision.into(), inside })
    }

    /// The name of its folder in a cache.
    pub(super) fn folder(&self) -> String {
        format!("models--{}", self.repository.replace('/', "--"))
    }

    /// The place of `inside` in a snapshot.
    pub(super) fn within(&self, snapshot: &Path) -> PathBuf {
        self.inside.as_ref().map_or_else(|| snapshot.into(), |inside| snapshot.join(inside))
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if self.revision != "main" {
            write!(f, "@{}", self.revision)?;
        }
        self.inside.as_ref().map_or(Ok(()), |inside| write!(f, "/{inside}"))
    }
}

/// A name that leads nowhere else: letters, digits and `-_.`, no `..`.
pub(super) fn is_plain(part: &str) -> bool {
    let is_name = matches!(Path::new(part).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
    is_name && part.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(name: &str) -> Option<(String, String, Option<String>)> {
        HubName::parse(Path::new(name)).map(|name| (name.repository, name.revision, name.inside))
    }

    #[test]
    fn names_have_a_repository_a_revision_and_a_place_inside() {
        let expect = |repository: &str, revision: &str, inside: Option<&str>| {
            Some((repository.into(), revision.into(), inside.map(str::to_owned)))
        };
        assert_eq!(parts("gpt2"), expect("gpt2", "main", None));
        assert_eq!(parts("org/name"), expect("org/name", "main", None));
        assert_eq!(parts("org/name@v1"), expect("org/name", "v1", None));
        assert_eq!(parts("gpt2@v1/sub/x.gguf"), expect("gpt2", "v1", Some("sub/x.gguf")));
        assert_eq!(parts("org/name/x.gguf"), expect("org/name", "main", Some("x.gguf")));
    }

    #[test]
    fn what_could_lead_elsewhere_is_no_name() {
        for name in
            ["", "/x", "x/", "../x", "x/..", "x/y/..", "x/y@..", "x/y@a/../b", "a b", "x/y@", "a\\b", "https://x/y"]
        {
            assert_eq!(parts(name), None, "{name}");
        }
    }

    #[test]
    fn a_name_reads_as_it_was_written() {
        for name in ["gpt2", "org/name@v1", "org/name/x.gguf", "org/name@v1/a/x.gguf"] {
            assert_eq!(HubName::parse(Path::new(name)).unwrap().to_string(), name);
        }
    }
}
