//! What the reports of all jobs have in common.

use serde::Serialize;

use crate::provenance::Provenance;

/// The head of every `report.json`: what this is, where it comes from, and how its clouds are drawn.
#[derive(Debug, Clone, Serialize)]
pub struct Header {
    /// The version of this layout.
    pub schema: u32,
    /// "simulate" or "inspect".
    pub job: &'static str,
    /// The config's title, or the model and the length of the text.
    pub title: String,
    /// What happened, in sentences.
    pub summary: Vec<String>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// Program, seed, machine and inputs.
    pub provenance: Provenance,
    /// What the saved states are indexed by.
    pub axis: Axis,
    /// Number and dimension of the tokens.
    pub tokens: TokensSummary,
    /// How d > 3 was projected for display, if it was.
    pub projection: Option<String>,
    /// Which tokens are drawn, and have their labels in `cluster_history`; all if absent (up to 2000 tokens).
    pub display_tokens: Option<Vec<usize>>,
    /// How attention maps were made, if they were.
    pub attention: Option<AttentionNote>,
}

/// What saved states are indexed by.
#[derive(Debug, Clone, Serialize)]
pub struct Axis {
    /// "time" or "layer".
    pub name: &'static str,
    /// "t" or "layer".
    pub symbol: &'static str,
}

/// Number, dimension and, for text, strings of the tokens.
#[derive(Debug, Clone, Serialize)]
pub struct TokensSummary {
    /// n.
    pub count: usize,
    /// d.
    pub dim: usize,
    /// The strings, for text.
    pub strings: Option<Vec<String>>,
    /// Which are special, for text.
    pub special: Option<Vec<bool>>,
}

/// How attention maps were made.
#[derive(Debug, Clone, Serialize)]
pub struct AttentionNote {
    /// A level is round(255·weight^gamma).
    pub gamma: f64,
    /// Which head, and whether tokens were grouped.
    pub note: String,
}

/// A number for sentences: so many decimals, or in powers of ten where these would hide it or it would hide the
/// sentence, outside [1e-3, 1e6).
pub fn shown(x: f64, decimals: usize) -> String {
    if x == 0.0 || (1e-3..1e6).contains(&x.abs()) { format!("{x:.decimals$}") } else { format!("{x:.decimals$e}") }
}

/// Clusters at one time.
#[derive(Debug, Clone, Serialize)]
pub struct ClusterSummary {
    /// How many.
    pub count: usize,
    /// The linking radius.
    pub radius: f64,
    /// Cluster of each token.
    pub labels: Vec<usize>,
    /// Mean of each cluster.
    pub centers: Vec<Vec<f64>>,
    /// Tokens in each cluster.
    pub sizes: Vec<usize>,
    /// The member of each cluster that most tokens follow under the first head; none if nobody follows any.
    pub leaders: Vec<Option<usize>>,
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn numbers_of_any_size_are_short() {
        let found = [0.0, 1.23456, -999_999.0, 1e6, 4.4915e200, -2.5e-4].map(|x| shown(x, 2));
        assert_eq!(found, ["0.00", "1.23", "-999999.00", "1.00e6", "4.49e200", "-2.50e-4"]);
    }
}
