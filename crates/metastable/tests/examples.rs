//! Every example is valid, runs, and ends as its comments say.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use metastable::simulate::forms::MatrixConfig;
use metastable::simulate::report::SimulateReport;
use metastable::simulate::{SimulateRequest, load, run};
use metastable::{Existing, Unwatched};
use metastable_dynamics::linalg::{dot, norm};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

fn outcome(name: &str) -> SimulateReport {
    let scratch = tempfile::tempdir().unwrap();
    let request = SimulateRequest {
        config: folder().join(name).with_extension("toml"),
        overrides: Vec::new(),
        seed: None,
        output: scratch.path().join("run"),
        existing: Existing::Refuse,
    };
    let report = run(&request, &mut Unwatched).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(request.output.join("DONE").exists(), "{name}");
    println!("{name}: {:#?}", report.header.summary);
    report
}

#[test]
fn every_example_is_valid_and_says_what_it_shows() {
    let files: Vec<PathBuf> = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let configs: Vec<&PathBuf> = files.iter().filter(|file| file.extension().is_some_and(|e| e == "toml")).collect();
    assert!(configs.len() >= 15, "{configs:?}");
    for config in configs {
        load(config, &[], None).unwrap_or_else(|error| panic!("{}: {error}", config.display()));
        let text = std::fs::read_to_string(config).unwrap();
        let comments: Vec<&str> = text.lines().take_while(|line| line.starts_with('#')).collect();
        assert!(comments.len() >= 4, "{}: a head of comments", config.display());
    }
}

#[test]
fn the_cascade_example_merges_as_predicted() {
    let report = outcome("cascade");
    assert_eq!(report.clusters.count, 5);
    let twin = report.twin.unwrap();
    assert_eq!(twin.clusters.count, 2);
    let events = twin.cascade.unwrap().events;
    let predicted = [(0.3465, 20.6), (1.6792, 87.8), (2.0581, 106.6)];
    assert_eq!(events.len(), predicted.len());
    for (event, (slow_time, merge)) in events.iter().zip(predicted) {
        // The digits given by the theory; the simulation is late by o(1), 0.15 at this eps.
        assert!((event.slow_time - slow_time).abs() < 6e-5, "{event:?}");
        assert!((event.merge_time - merge).abs() < 0.06, "{event:?}");
        assert!((event.simulated_merge_time.unwrap() - event.merge_time).abs() < 0.25, "{event:?}");
    }
}

#[test]
fn the_euler_example_reproduces_a_point_of_the_published_diagram() {
    let twin = outcome("euler-as-published").twin.unwrap();
    // The authors see times on their grid of 0.1; here the crossing is located inside the step before.
    let arrival = twin.cluster_time.value.unwrap();
    assert!((4.5..=4.6).contains(&arrival), "{arrival}");
    let departure = twin.departure_time.value.unwrap();
    assert!((53.3..=53.4).contains(&departure), "{departure}");
}

#[test]
fn the_paper_trajectories_example_collapses_from_five_clusters_to_two() {
    let report = outcome("paper-trajectories");
    let twin = report.twin.unwrap();
    assert_eq!((report.clusters.count, twin.clusters.count), (5, 2));
    // At eps = 0.1 the first cluster is released before the last token has gathered.
    assert_eq!(twin.cluster_time.value, None);
    assert_eq!(twin.cascade.unwrap().events.len(), 3);
}

#[test]
fn the_circle_example_ends_in_one_cluster_after_a_long_wait_in_two() {
    let report = outcome("circle-metastability");
    assert_eq!(report.clusters.count, 1);
    let at = |t: f64| report.series.t.iter().position(|s| (s - t).abs() < 1e-9).unwrap();
    let counts = &report.series.n_clusters;
    for t in [10.0, 100.0, 360.0] {
        assert_eq!(counts[at(t)], Some(2.0), "t = {t}");
    }
    assert_eq!(counts[at(370.0)], Some(1.0));
}

#[test]
fn examples_on_the_sphere_end_in_one_cluster() {
    for name in ["sphere-collapse", "unnormalised", "causal"] {
        assert_eq!(outcome(name).clusters.count, 1, "{name}");
    }
}

#[test]
fn rank_one_attention_ends_in_two_clusters() {
    assert_eq!(outcome("rank-one-attention").clusters.count, 2);
}

/// The leading left eigenvector of the first head's V (positive entries), by power iteration.
fn leading_left_eigenvector(report: &SimulateReport) -> Vec<f64> {
    let MatrixConfig::Rows(value) = &report.config.head[0].value else { panic!("inline rows") };
    let mut phi = vec![1.0; value.len()];
    for _ in 0..500 {
        let image: Vec<f64> = (0..phi.len()).map(|j| value.iter().zip(&phi).map(|(row, p)| row[j] * p).sum()).collect();
        let length = norm(&image);
        phi = image.iter().map(|v| v / length).collect();
    }
    phi
}

#[test]
fn the_hyperplane_examples_end_on_at_most_three_hyperplanes() {
    for name in ["hyperplanes-2d", "hyperplanes-3d", "hyperplanes-3d-negative", "codimension-k"] {
        let report = outcome(name);
        assert_eq!(report.stop.time, report.config.time.end, "{name}");
        let phi = leading_left_eigenvector(&report);
        let mut levels: Vec<f64> = report.clusters.centers.iter().map(|center| dot(center, &phi)).collect();
        levels.sort_by(f64::total_cmp);
        // Starts lie in a box of side 2; what is left to travel at the end is about e^{-12}.
        levels.dedup_by(|a, b| (*a - *b).abs() < 1e-3);
        assert!(levels.len() <= 3, "{name}: {levels:?}");
    }
}

#[test]
fn the_polytope_examples_end_at_self_dominant_points() {
    for name in ["polytope", "hyperplane-polytope"] {
        let report = outcome(name);
        assert_eq!(report.stop.time, report.config.time.end, "{name}");
        // In the eigenspace of the eigenvalue 1: the first two coordinates.
        let ends: Vec<&[f64]> = report.clusters.centers.iter().map(|center| &center[..2]).collect();
        let scale = ends.iter().map(|z| dot(z, z)).fold(0.0, f64::max);
        for z in &ends {
            for w in &ends {
                // About e^{-10} = 5e-5 of the way is left, relative to the square of the polygon's size.
                assert!(dot(z, w) <= dot(z, z) + 5e-4 * scale, "{name}: {z:?} {w:?}");
            }
        }
    }
}
