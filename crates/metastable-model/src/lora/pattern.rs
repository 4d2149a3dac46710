//! Names as PEFT matches them: `rank_pattern`, `alpha_pattern`, `target_modules`.
//!
//! PEFT's patterns are Python regular expressions, look-around included, hence `fancy-regex`; its bounded backtracking
//! keeps a hostile pattern from running for ever.

use fancy_regex::{Regex, RegexBuilder};

/// Steps of backtracking before a pattern counts as hostile; real ones take a few dozen.
const BACKTRACK_LIMIT: usize = 100_000;

/// A compiled pattern with the text it came from.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    pub(crate) text: String,
    regex: Regex,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Pattern {
    /// `(.*\.)?(text)$` from the start of a path: a key of `rank_pattern`.
    pub(crate) fn of_key(text: &str) -> Result<Self, String> {
        Self::compile(text, &format!(r"^(?:.*\.)?(?:{text})$"))
    }

    /// `text` over the whole path: a regular expression of `target_modules`.
    pub(crate) fn whole(text: &str) -> Result<Self, String> {
        Self::compile(text, &format!("^(?:{text})$"))
    }

    fn compile(text: &str, expression: &str) -> Result<Self, String> {
        let regex = RegexBuilder::new(expression).backtrack_limit(BACKTRACK_LIMIT).build();
        Ok(Self { text: text.into(), regex: regex.map_err(|error| error.to_string())? })
    }

    /// Whether the pattern matches `path`; a pattern that runs into the limit does not.
    pub(crate) fn matches(&self, path: &str) -> bool {
        self.regex.is_match(path).unwrap_or(false)
    }
}

/// Which modules a configuration names.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Targets {
    /// Nothing said.
    Unsaid,
    /// `all-linear`.
    AllLinear,
    /// The last parts of paths.
    Suffixes(Vec<String>),
    /// A regular expression over whole paths.
    Expression(Pattern),
}

impl Targets {
    /// Whether the module at `path` is named.
    pub(crate) fn contain(&self, path: &str) -> bool {
        match self {
            Self::Unsaid | Self::AllLinear => true,
            Self::Suffixes(suffixes) => suffixes.iter().any(|suffix| ends_with(path, suffix)),
            Self::Expression(pattern) => pattern.matches(path),
        }
    }
}

/// Whether `path` is `suffix`, or ends with it after a dot.
pub(crate) fn ends_with(path: &str, suffix: &str) -> bool {
    path.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_match_whole_parts_of_a_path() {
        let key = Pattern::of_key("q_proj").unwrap();
        assert!(key.matches("model.layers.0.q_proj") && key.matches("q_proj"));
        assert!(!key.matches("model.layers.0.qq_proj") && !key.matches("q_proj.x"));
        let layers = Pattern::of_key(r"layers\.(0|1)\.self_attn\.v_proj").unwrap();
        assert!(layers.matches("model.layers.1.self_attn.v_proj"));
        assert!(!layers.matches("model.layers.11.self_attn.v_proj"));
    }

    #[test]
    fn python_look_around_is_understood_and_hostile_patterns_end() {
        let not_last = Pattern::whole(r"model\.layers\.(?!31)\d+\.self_attn\.q_proj").unwrap();
        assert!(not_last.matches("model.layers.30.self_attn.q_proj"));
        assert!(!not_last.matches("model.layers.31.self_attn.q_proj"));
        let hostile = Pattern::whole(r"(?:(?=a)(a+)+)+\1b").unwrap();
        assert!(!hostile.matches(&"a".repeat(60)));
        assert!(Pattern::whole("(").is_err());
    }
}
