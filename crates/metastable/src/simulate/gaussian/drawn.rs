//! What the page draws of Gaussians: points in the cone of covariances (d = 2), and particles in the plane.

use metastable_dynamics::measure::Gaussian;

use super::engine::Member;
use super::meant::GaussianSimulation;
use super::particles::Draw;
use crate::observables::ClusterHistory;
use crate::render::{Cloud, Display};

/// Growth of the trace by which the cone would show nothing but the largest: then shapes Σ/tr Σ are drawn.
const MOST_GROWTH: f32 = 30.0;

/// How covariances become points.
const AS_THEY_ARE: &str = "(S11 - S22, 2 S12, S11 + S22): the positive semidefinite cone is z >= sqrt(x² + y²), \
                           rank one its surface";
const DIVIDED: &str = "(S11 - S22, 2 S12, S11 + S22) of S / tr S, in the unit disc at height 1, because traces grow \
                       beyond what one picture holds; rank one is the circle";

/// The drawn arrays, the cone's words, and the regimes of the points as labels.
#[derive(Debug)]
pub struct Drawn {
    /// For the page.
    pub display: Display,
    /// What a point of the cone is; none for d other than 2.
    pub cone: Option<&'static str>,
    /// One row of labels.
    pub history: ClusterHistory,
}

/// Draws the base path (and the twin's) with the family, and the shown particles.
pub fn drawn(
    simulation: &GaussianSimulation,
    base: &[Gaussian],
    twin: Option<&[Gaussian]>,
    labels: Vec<u64>,
    family: &[Member],
    shown: Option<&Draw>,
) -> Drawn {
    let dim = simulation.start.dim();
    let saved = family.iter().map(|m| m.covariances.len() / (dim * dim)).fold(base.len(), usize::max);
    let times = simulation.times[..saved].to_vec();
    let samples = shown.filter(|_| dim >= 2).map(|draw| samples(draw, dim, saved));
    let empty = Cloud { count: 0, dim: dim.min(3), positions: Vec::new(), attention: None };
    if dim != 2 {
        let twin = twin.map(|_| empty.clone());
        let display = Display { times, base: empty, twin, samples };
        return Drawn { display, cone: None, history: ClusterHistory::default() };
    }
    let entries = |path: &[Gaussian]| path.iter().flat_map(|g| g.covariance().as_slice().to_vec()).collect::<Vec<_>>();
    let mut paths = vec![entries(base)];
    paths.extend(family.iter().map(|member| member.covariances.clone()));
    let mut base = cone(&paths, saved);
    // The twin has the first start alone; its other points are the family's, which has no twin.
    let mut twin = twin.map(|path| cone(&[entries(path)], saved));
    let heights = |cloud: &Cloud| cloud.positions.iter().skip(2).step_by(3).copied().fold(0.0_f32, f32::max);
    let is_divided = heights(&base) > MOST_GROWTH;
    if is_divided {
        std::iter::once(&mut base).chain(&mut twin).for_each(divide);
    }
    let history = ClusterHistory { labels: vec![labels; usize::from(!family.is_empty())], events: Vec::new() };
    let display = Display { times, base, twin, samples };
    Drawn { display, cone: Some(if is_divided { DIVIDED } else { AS_THEY_ARE }), history }
}

/// Points of paths of covariances [S, 2, 2]; times that a path did not reach are not a number.
fn cone(paths: &[Vec<f64>], saved: usize) -> Cloud {
    let mut positions = Vec::with_capacity(3 * paths.len() * saved);
    for s in 0..saved {
        for path in paths {
            positions.extend(match path.get(4 * s..4 * s + 4) {
                Some(&[a, b, _, c]) => [(a - c) as f32, (2.0 * b) as f32, (a + c) as f32],
                _ => [f32::NAN; 3],
            });
        }
    }
    Cloud { count: paths.len(), dim: 3, positions, attention: None }
}

fn divide(cloud: &mut Cloud) {
    for point in cloud.positions.chunks_exact_mut(3) {
        let trace = point[2];
        point.iter_mut().for_each(|x| *x /= trace);
    }
}

/// The first two coordinates of the shown particles.
fn samples(draw: &Draw, dim: usize, saved: usize) -> Cloud {
    let reached = draw.means.len() / dim;
    let count = draw.positions.len() / (reached * dim).max(1);
    let mut positions: Vec<f32> = draw.positions.chunks_exact(dim).flat_map(|x| [x[0] as f32, x[1] as f32]).collect();
    positions.resize(saved * count * 2, f32::NAN);
    Cloud { count, dim: 2, positions, attention: None }
}
