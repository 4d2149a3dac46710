//! The T(eps) diagram against its closed form, the authors' table, and a NumPy run of the same Euler steps.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use metastable::arrays::read_array;
use metastable_dynamics::Tokens;
use metastable_dynamics::geometry::Euclidean;
use metastable_dynamics::linalg::squared_distance;
use metastable_dynamics::solver::{Advance, Method, SolverOptions, Stepper};

#[path = "../examples/phase_diagram/diagram.rs"]
#[allow(dead_code, reason = "titles and names are for the example's printing")]
mod diagram;
#[path = "../examples/phase_diagram/published.rs"]
#[allow(dead_code, reason = "notes are for the example's printing")]
mod published;

use diagram::{Diagram, RADIUS, Scheme, diagram, flow};
use published::{CLUSTERINGS, DEPARTURES, EPSILONS};

/// Made once by `benches/peers/phase_diagram.py`, numpy 2.4.6: explicit Euler, dt = 0.1, same radius, and theory's own
/// script gives the same [checked].
const NUMPY: [(f64, f64); 28] = [
    (4.7, 539.5),
    (4.7, 337.0),
    (4.7, 317.1),
    (4.7, 299.5),
    (4.7, 283.7),
    (4.7, 269.4),
    (4.7, 256.6),
    (4.7, 244.9),
    (4.7, 234.2),
    (4.7, 179.4),
    (4.7, 134.4),
    (4.7, 107.4),
    (4.6, 89.4),
    (4.6, 76.6),
    (4.6, 66.9),
    (4.6, 59.4),
    (4.6, 53.4),
    (4.5, 48.5),
    (4.5, 44.4),
    (4.5, 35.4),
    (4.3, 21.0),
    (4.3, 17.3),
    (4.2, 12.8),
    (4.1, 10.0),
    (4.1, 9.0),
    (4.0, 8.2),
    (4.0, 7.4),
    (4.0, 6.1),
];

fn tokens() -> Tokens {
    let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/tokens/seed-42.npy"));
    read_array(file, "tokens").unwrap().into_tokens(file).unwrap()
}

/// (cluster time, departure time) of every point.
fn times(diagram: &Diagram) -> Vec<(f64, f64)> {
    diagram.points.iter().map(|point| (point.cluster.value.unwrap(), point.departure.value.unwrap())).collect()
}

/// Grid times are k times 0.1, equal to one decimal up to rounding.
fn same(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

#[test]
fn euler_times_equal_those_of_numpy_at_every_point() {
    let found = times(&diagram(&tokens(), Scheme::Euler, &EPSILONS).unwrap());
    for (k, ((cluster, departure), expected)) in found.into_iter().zip(NUMPY).enumerate() {
        assert!(same(cluster, expected.0) && same(departure, expected.1), "{}: {cluster} {departure}", EPSILONS[k]);
    }
}

#[test]
fn the_authors_table_is_reproduced_but_for_its_two_defects_and_single_grid_steps() {
    let found = times(&diagram(&tokens(), Scheme::Euler, &EPSILONS).unwrap());
    let exact = found.iter().enumerate().filter(|(k, (c, d))| same(*c, CLUSTERINGS[*k]) && same(*d, DEPARTURES[*k]));
    assert_eq!(exact.count(), 20);
    for (k, (cluster, departure)) in found.iter().enumerate() {
        let is_defect = [0.001, 0.075].contains(&EPSILONS[k]);
        // One step of the grid, and rounding.
        let is_near = |found: f64, authors: f64| (found - authors).abs() < 0.1 + 1e-9;
        assert_eq!(is_near(*departure, DEPARTURES[k]), !is_defect, "{}: {departure}", EPSILONS[k]);
        assert_eq!(is_near(*cluster, CLUSTERINGS[k]), EPSILONS[k] != 0.075, "{}: {cluster}", EPSILONS[k]);
    }
}

/// The authors' metric: the distance to the nearest cluster, whichever it is.
fn distance_to_set(state: &[f64], centers: &[Vec<f64>]) -> f64 {
    let nearest = |x: &[f64]| centers.iter().map(|c| squared_distance(x, c)).fold(f64::INFINITY, f64::min);
    state.chunks_exact(2).map(nearest).fold(0.0, f64::max).sqrt()
}

/// At eps = 0.1 a token passes from one cluster to the other before all have come together. The authors' metric sees
/// everybody at some cluster from 5.2 to 5.7; by assignment the old clustering never forms.
#[test]
fn the_authors_last_point_is_the_one_of_a_tenth_and_blind_to_who_is_where() {
    let found = diagram(&tokens(), Scheme::Euler, &[0.1]).unwrap();
    assert_eq!((found.points[0].cluster.value, found.points[0].departure.value), (None, None));
    let flow = flow(20, 0.1).unwrap();
    let options = SolverOptions::fixed(Method::Euler, 0.1);
    let mut stepper = Stepper::new(&flow, &Euclidean, options, 0.0, tokens().into_vec()).unwrap();
    let mut near = Vec::new();
    while let Advance::Step(step) = stepper.advance(8.0) {
        if distance_to_set(step.end_state(), &found.clusters.centers) <= RADIUS {
            near.push(step.end());
        }
    }
    let stay = near.windows(2).take_while(|pair| pair[1] - pair[0] < 0.15).count();
    // The departure is the grid time after the last one that was near.
    assert!(same(near[0], CLUSTERINGS[27]) && same(near[stay] + 0.1, DEPARTURES[27]), "{near:?}");
}

#[test]
fn departures_follow_the_closed_form_as_the_adapter_vanishes() {
    for scheme in [Scheme::Exact, Scheme::Euler] {
        let small = EPSILONS.partition_point(|epsilon| *epsilon <= 0.01);
        let found = diagram(&tokens(), scheme, &EPSILONS[..small]).unwrap();
        for point in &found.points {
            // T = C / eps + O(1): the offset is between -0.6 and -0.5 for every small eps, Euler's rounded up to the grid.
            let offset = point.departure.value.unwrap() - scheme.constant() / point.epsilon;
            assert!((-0.7..-0.4).contains(&offset), "{scheme:?} {}: {offset}", point.epsilon);
        }
    }
}

#[test]
fn the_clusters_of_the_base_run_are_the_published_ones() {
    // RK4 with dt = 0.01 and Euler with dt = 0.1, the theory's oracle file.
    let cases = [
        (Scheme::Exact, [[-0.7366202224935509, 0.7091691679446823], [-0.325938749565582, -0.38627217461450686]]),
        (Scheme::Euler, [[-0.7087083020382267, 0.6766706489982803], [-0.30417261545382906, -0.3522184205097708]]),
    ];
    for (scheme, expected) in cases {
        let found = diagram(&tokens(), scheme, &[]).unwrap();
        for (center, expected) in found.clusters.centers.iter().zip(expected) {
            let error = center.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            // RK4's own error at dt = 0.01 is of the order 1e-10; gaps inside a cluster are 1e-13.
            assert!(error < 1e-9, "{scheme:?}: {error}");
        }
        assert_eq!(found.clusters.count(), 2);
    }
}

#[test]
fn the_diagram_is_equal_to_the_bit_on_any_number_of_threads() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| diagram(&tokens(), Scheme::Exact, &EPSILONS).unwrap())
    };
    assert_eq!(run(1), run(3));
}
