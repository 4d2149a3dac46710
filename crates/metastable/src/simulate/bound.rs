//! Which proven envelope holds for a twin, and its values.

use metastable_dynamics::attention::{Normalization, Score};
use metastable_dynamics::linalg::norm;
use metastable_dynamics::observe::stability::{
    Envelope, OperatorNorms, euclidean_envelope, rescaled_envelope, sphere_envelope,
};

use super::meant::Simulation;
use super::written::{Coordinates, GeometryName};
use crate::error::LabError;

/// The envelope of max_i |x_i - x~_i| at given times, or why there is none.
#[derive(Debug, Clone)]
pub enum Bound {
    /// Proven for this twin.
    Proven {
        /// "S1", "S2" or "S2 rescaled".
        name: &'static str,
        /// Where it comes from.
        source: &'static str,
        /// Its values.
        values: Vec<Envelope>,
    },
    /// Not proven for this twin.
    None(String),
}

/// The envelope of this twin at `times`.
///
/// # Errors
/// [`LabError::Dynamics`] if a decomposition fails.
pub fn bound(simulation: &Simulation, times: &[f64]) -> Result<Bound, LabError> {
    let kernel = &simulation.kernel;
    let (Some([adapted]), [base]) = (simulation.adapted.as_deref(), &simulation.heads[..]) else {
        return Ok(Bound::None("the envelopes are proven for one head".into()));
    };
    if kernel.score() != Score::Dot || kernel.normalization() != Normalization::Softmax {
        return Ok(Bound::None("the envelopes are proven for softmax attention of scalar products".into()));
    }
    if !simulation.has_constant_pure_attention() {
        let reason = "the envelopes are proven for attention of constant weights alone, in R^d or post-LN";
        return Ok(Bound::None(reason.into()));
    }
    if simulation.config.time.layers.is_some() {
        return Ok(Bound::None("the envelopes are proven in continuous time".into()));
    }
    let radius = simulation.tokens.view().iter().map(norm).fold(0.0, f64::max);
    let norms = OperatorNorms::between(base, adapted, kernel.beta(), radius)?;
    let at_each = |envelope: &dyn Fn(f64) -> Envelope| times.iter().map(|t| envelope(*t)).collect::<Vec<_>>();
    let config = &simulation.config.space;
    Ok(match (config.geometry, config.coordinates) {
        (GeometryName::Sphere, _) => Bound::Proven {
            name: "S1",
            source: "stability on the sphere, explicit constants [derived]; stands in for Prop 1 of 2402.15415v1",
            values: at_each(&|t| sphere_envelope(&norms, t)),
        },
        (GeometryName::Euclidean, Coordinates::Plain) => Bound::Proven {
            name: "S2",
            source: "stability in R^d, explicit constants [derived]; stands in for Prop 1 of 2402.15415v1",
            values: at_each(&|t| euclidean_envelope(&norms, t)),
        },
        (GeometryName::Euclidean, Coordinates::Rescaled) => {
            let (value, adapted) = (base.output_value(), adapted.output_value());
            let values = times.iter().map(|t| rescaled_envelope(&value, &adapted, &norms, *t));
            Bound::Proven {
                name: "S2 rescaled",
                source: "S2 carried to rescaled coordinates [derived]",
                values: values.collect::<Result<_, _>>()?,
            }
        }
    })
}
