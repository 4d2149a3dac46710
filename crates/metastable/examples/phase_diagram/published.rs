//! The authors' table: arrays typed into cell 4 of their notebook `Transformers_Phase_diagramm.ipynb` [code].
//!
//! Explicit Euler, dt = 0.1, seed 42, T = 400. The variable names there are swapped; here they are not.

/// eps of every point.
pub(crate) const EPSILONS: [f64; 28] = [
    0.001, 0.0016, 0.0017, 0.0018, 0.0019, 0.002, 0.0021, 0.0022, 0.0023, 0.003, 0.004, 0.005, 0.006, 0.007, 0.008,
    0.009, 0.01, 0.011, 0.012, 0.015, 0.025, 0.03, 0.04, 0.05, 0.055, 0.06, 0.065, 0.075,
];

/// The authors' departure times.
pub(crate) const DEPARTURES: [f64; 28] = [
    356.1, 337.0, 317.1, 299.5, 283.8, 269.4, 256.6, 244.9, 234.2, 179.4, 134.4, 107.4, 89.4, 76.6, 66.9, 59.4, 53.4,
    48.5, 44.4, 35.5, 21.0, 17.3, 12.8, 10.0, 9.0, 8.2, 7.4, 5.7,
];

/// The authors' cluster times.
pub(crate) const CLUSTERINGS: [f64; 28] = [
    4.7, 4.7, 4.7, 4.7, 4.7, 4.7, 4.7, 4.7, 4.7, 4.7, 4.7, 4.6, 4.6, 4.6, 4.6, 4.6, 4.6, 4.5, 4.5, 4.4, 4.4, 4.4, 4.2,
    4.2, 4.1, 4.0, 4.0, 5.2,
];

/// What is known about a point of the table, by its place.
pub(crate) fn note(point: usize) -> &'static str {
    match point {
        0 => "the authors' e^{2t} overflows at t = 354.9",
        27 => "the authors' values belong to eps = 0.1",
        _ => "",
    }
}
