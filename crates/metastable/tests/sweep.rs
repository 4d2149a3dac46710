//! Ensembles and phase diagrams through the real job: the published rank histograms, phase diagrams on the sphere, and
//! what becomes of random Gaussians.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use metastable::sweep::report::{ColumnReport, SweepReport};
use metastable::sweep::{SweepRequest, run};
use metastable::{Existing, Unwatched};

/// The report of an example, changed by `--set`.
fn outcome(name: &str, overrides: &[&str]) -> SweepReport {
    let scratch = tempfile::tempdir().unwrap();
    let request = SweepRequest {
        config: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name).with_extension("toml"),
        overrides: overrides.iter().map(|text| (*text).to_owned()).collect(),
        seed: None,
        output: scratch.path().join("run"),
        existing: Existing::Refuse,
    };
    let report = run(&request, &mut Unwatched).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(report.points.failed, 0, "{name}: {:?}", report.failures);
    assert!(request.output.join("DONE").exists(), "{name}");
    report
}

fn column<'a>(report: &'a SweepReport, name: &str) -> &'a ColumnReport {
    report.columns.iter().find(|column| column.name == name).unwrap_or_else(|| panic!("no column {name}"))
}

/// How often each whole number or word of a column was found in a cell.
fn histogram(report: &SweepReport, name: &str, cell: usize) -> BTreeMap<String, usize> {
    let shares = column(report, name).shares.as_ref().unwrap();
    shares.iter().map(|share| (share.value.text(), share.hits[cell])).filter(|(_, hits)| *hits > 0).collect()
}

fn counts<const N: usize>(expected: [(&str, usize); N]) -> BTreeMap<String, usize> {
    expected.into_iter().map(|(value, count)| (value.to_owned(), count)).collect()
}

/// Cells of rank-histogram.toml are (scheme, d); theory section 4: the exact flow on the authors' draws, with their
/// stop rule and threshold [checked], and their own scheme [code].
#[test]
fn ranks_of_the_exact_flow_and_of_the_published_recipe_on_the_same_draws() {
    let report = outcome("rank-histogram", &[]);
    let exact = [counts([("2", 68), ("1", 32)]), counts([("2", 69), ("1", 31)]), counts([("3", 54), ("2", 46)])];
    for (cell, expected) in exact.iter().enumerate() {
        assert_eq!(histogram(&report, "rank", cell), *expected, "exact, d = {}", cell + 3);
        assert_eq!(histogram(&report, "end", cell), counts([("still", 100)]));
    }
    let published = [counts([("2", 49), ("1", 48), ("0", 3)]), counts([("2", 42), ("1", 47), ("0", 11)])];
    for (cell, expected) in published.iter().enumerate() {
        assert_eq!(histogram(&report, "rank", 3 + cell), *expected, "published, d = {}", cell + 3);
    }
    // The rank of the limit is ⌈d/2⌉ by theorem (2.3.4), whatever a threshold says.
    for (cell, rank) in ["2", "2", "3"].into_iter().enumerate() {
        assert_eq!(histogram(&report, "limit_rank", cell), counts([(rank, 100)]), "d = {}", cell + 3);
    }
}

/// The pairs of the authors' program, which draws anew for the three runs that do not converge [code].
#[test]
fn the_published_recipe_in_five_dimensions_with_its_repeated_draws() {
    let report = outcome("rank-histogram-published", &[]);
    assert_eq!(histogram(&report, "rank", 1), counts([("2", 54), ("3", 41), ("1", 5)]));
}
