//! Starts of a family: covariances of trace 1 in the plane.

use metastable_dynamics::Matrix;
use metastable_dynamics::measure::Gaussian;

use super::written::GridConfig;
use crate::error::LabError;
use crate::simulate::inputs::Inputs;

/// A page draws no more.
const MOST_POINTS: usize = 200;

/// The covariances [[(1 + x)/2, y/2], [y/2, (1 - x)/2]] of a grid of (x, y) that lie in the unit disc, row by row.
///
/// # Errors
/// [`LabError`] for another dimension than 2, or a grid without points.
pub fn starts(grid: Option<GridConfig>, d: usize, inputs: &Inputs) -> Result<Vec<Gaussian>, LabError> {
    let Some(GridConfig { points, reach }) = grid else { return Ok(Vec::new()) };
    if d != 2 {
        return Err(inputs.wrong(
            "gaussian.grid",
            "d = 2, where the covariances fill a cone in space",
            format!("d = {d}"),
        ));
    }
    if !(2..=MOST_POINTS).contains(&points) {
        return Err(inputs.wrong(
            "gaussian.grid.points",
            format!("between 2 and {MOST_POINTS} points on a side"),
            points,
        ));
    }
    if !(reach > 0.0 && reach <= 1.0) {
        return Err(inputs.wrong("gaussian.grid.reach", "a number in (0, 1]", reach));
    }
    let at = |k: usize| reach * (2.0 * k as f64 / (points - 1) as f64 - 1.0);
    let places = (0..points).flat_map(|i| (0..points).map(move |j| (at(i), at(j))));
    let covariances = places.filter(|(x, y)| x * x + y * y <= 1.0);
    let gaussian = |(x, y): (f64, f64)| {
        let entries = [0.5 * (1.0 + x), 0.5 * y, 0.5 * y, 0.5 * (1.0 - x)];
        Gaussian::centred(Matrix::from_fn(2, 2, |i, j| entries[2 * i + j]))
    };
    Ok(covariances.map(gaussian).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of starts that the published pictures have [code]: 100, 276, 1184 and 648.
    #[test]
    fn grids_have_as_many_starts_as_the_published_pictures() {
        let inputs = Inputs::new("run.toml".as_ref());
        for (points, reach, count) in [(10, 0.5, 100), (20, 1.0, 276), (40, 1.0, 1184), (30, 1.0, 648)] {
            let family = starts(Some(GridConfig { points, reach }), 2, &inputs).unwrap();
            assert_eq!(family.len(), count, "{points} points");
            assert!(family.iter().all(|start| (start.trace() - 1.0).abs() < 1e-14));
        }
    }
}
