//! The static figures of a run, as standalone SVG files.

mod curves;
mod gaussian;
mod inspect;
mod laws;
mod sweep;
mod trajectories;

use super::{Display, finetune};
use serde_json::Value;

/// Draws the figures that the report has data for, as pairs (file name, SVG text).
///
/// `trajectories.svg` (clouds and trails), `clusters.svg` (number of clusters), `energy.svg`, `distances.svg`
/// (measured distance against the proven envelope), `cosine.svg`, `laws.svg` (what theory says of the run, where it says
/// something); for `inspect` also `layers.svg` and `spectra.svg`; for Gaussians
/// `eigenvalues.svg`, `ellipses.svg` and, for d = 2, `cone.svg`; for `sweep` one `map-`, `curve-` or `histogram-` figure a column;
/// for `finetune`, one run or several in comparison, `loss.svg` and seven more, and `probe-` figures.
/// Axes are named with their symbols; captions state the configuration's title and seed. The same input gives the
/// same bytes. Cost O(S n).
pub fn figures(report: &Value, display: &Display) -> Vec<(String, String)> {
    // The points of a Gaussian run are covariances: they have a figure of their own.
    let trajectories = report["gaussian"].is_null();
    let drawn = [
        ("trajectories.svg", trajectories.then(|| trajectories::draw(report, display)).flatten()),
        ("clusters.svg", curves::clusters(report)),
        ("energy.svg", curves::energy(report)),
        ("distances.svg", curves::distances(report)),
        ("cosine.svg", curves::cosine(report)),
        ("laws.svg", laws::laws(report)),
        ("layers.svg", inspect::layers(report)),
        ("spectra.svg", inspect::spectra(report)),
        ("eigenvalues.svg", gaussian::eigenvalues(report)),
        ("ellipses.svg", gaussian::ellipses(report)),
        ("cone.svg", gaussian::cone(report, display)),
    ];
    let drawn = drawn.into_iter().filter_map(|(name, svg)| Some((name.to_owned(), svg?)));
    drawn.chain(sweep::draw(report)).chain(finetune::figures(report)).collect()
}
