//! Clouds and tokens that are worse for a head than the text: how large its constant can become.
//!
//! Constructions and ascent are for the head alone, without biases and rotations, in the coordinates that it sees; the
//! constant of the head as the layer has it, at the same cloud, stands beside.

use metastable_dynamics::attention::{AttentionKernel, Mask};
use metastable_dynamics::field::{AttentionFlow, ParticleFlow, Placement};
use metastable_dynamics::smoothness::a_priori::{APriori, LogBound, Norms};
use metastable_dynamics::smoothness::ascent::{AscentOptions, ascend};
use metastable_dynamics::smoothness::scaling::large_radius_limit;
use metastable_dynamics::smoothness::worst_case::{WorstCase, three_cluster, two_points};
use metastable_dynamics::smoothness::{FlowJacobian, LanczosOptions, top_singular_triplet};
use metastable_dynamics::{Head, Matrix, Tokens};

use crate::error::ModelError;
use crate::model::Model;
use crate::probe::Hidden;
use crate::transformer::reverse::circuits::Circuits;
use crate::transformer::reverse::single::SingleHead;

mod token;

pub use token::{TokenSearch, WorstToken};

/// What is searched.
#[derive(Debug, Clone, PartialEq)]
pub struct WorstOptions {
    /// Tokens of the clouds.
    pub count: usize,
    /// Radius of the ball; the root mean square of what the head's attention is applied to at the text if none.
    pub radius: Option<f64>,
    /// Steps that ascent tries.
    pub ascent_steps: usize,
    /// Seed of Lanczos.
    pub seed: u64,
}

/// A cloud in the ball.
#[derive(Debug, Clone, PartialEq)]
pub struct WorstCloud {
    /// The eigenvalue of A = KᵀQ/√k that a construction stands on; none for ascent.
    pub eigenvalue: Option<f64>,
    /// What theory proves of the constant; none for ascent.
    pub proven: Option<f64>,
    /// The constant of the head alone.
    pub constant: f64,
    /// The constant of the head of the layer: with biases, norms of queries and keys, and rotations.
    pub in_model: f64,
    /// The cloud, [n, d].
    pub tokens: Vec<f64>,
}

/// How large the constant of one head can become.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadWorst {
    /// R.
    pub radius: f64,
    /// Two points on an eigenvector; none without a real eigenvalue.
    pub two_points: Option<WorstCloud>,
    /// Three clusters; none without a real eigenvalue.
    pub three_clusters: Option<WorstCloud>,
    /// Where ascent ended that started at the worse of the two, or at the text.
    pub ascent: WorstCloud,
    /// A bound for all clouds of the ball, head alone; as a logarithm, for it may leave f64.
    pub upper: LogBound,
    /// The bound for any number of tokens.
    pub mean_field: Option<LogBound>,
    /// What the constant at the text's tokens, scaled by t, tends to as t → ∞, head alone.
    pub large_radius_limit: f64,
}

/// A head alone.
struct Alone<'a> {
    model: &'a Model,
    place: (usize, usize),
    /// U [d, r]: the coordinates that the head sees.
    basis: Matrix,
    head: Head,
    kernel: AttentionKernel,
    lanczos: LanczosOptions,
}

impl Model {
    /// Searches the ball for clouds at which head `head` of layer `layer` is steepest. O(ascent_steps·n·r·k).
    ///
    /// # Errors
    /// As [`Model::layer_jacobian`]; [`ModelError::Input`] if there is no such head, for a radius that is not positive,
    /// for fewer than three tokens, and for windows narrower than the cloud; [`ModelError::Mathematics`].
    pub fn head_worst(
        &self,
        hidden: &Hidden,
        (layer, head): (usize, usize),
        options: &WorstOptions,
    ) -> Result<HeadWorst, ModelError> {
        let stream = self.prefix(hidden, layer, hidden.count())?;
        if options.count < 3 {
            return Err(ModelError::input("tokens of a cloud", "at least 3", options.count));
        }
        let alone = Alone::new(self, (layer, head), options)?;
        let input = self.transformer().block(layer).attention_input(stream);
        let input: Vec<f64> = input.iter().map(|x| f64::from(*x)).collect();
        let mean_square = input.iter().map(|x| x * x).sum::<f64>() / hidden.count() as f64;
        let radius = options.radius.unwrap_or(mean_square.sqrt());
        if !(radius > 0.0 && radius.is_finite()) {
            return Err(ModelError::input("radius", "a positive number", radius));
        }
        let text = Tokens::new(alone.head.dim(), alone.seen(&input))?;
        let (n, kernel) = (options.count, &alone.kernel);
        let built = |case: Option<WorstCase>| case.map(|case| alone.cloud(&case)).transpose();
        let two_points = built(two_points(&alone.head, kernel, radius, n)?)?;
        let three_clusters = built(three_cluster(&alone.head, kernel, radius, n)?)?;
        let constructed = [&two_points, &three_clusters].into_iter().flatten();
        let start = constructed.max_by(|a, b| a.constant.total_cmp(&b.constant)).map(|cloud| alone.seen(&cloud.tokens));
        let start = start.unwrap_or_else(|| repeated(text.as_slice(), n * text.dim()));
        let ascent = alone.ascent(Tokens::new(alone.head.dim(), start)?, radius, options)?;
        let bounds = APriori::of(&Norms::of(&alone.head, kernel)?, kernel, n, radius)
            .ok_or_else(|| ModelError::input("kernel", "a kernel with a bound", "another"))?;
        Ok(HeadWorst {
            radius,
            two_points,
            three_clusters,
            ascent,
            upper: bounds.unified,
            mean_field: bounds.mean_field,
            large_radius_limit: large_radius_limit(&alone.head, kernel, text.view())?,
        })
    }
}

/// The first `length` numbers of x, x, x, ….
fn repeated(x: &[f64], length: usize) -> Vec<f64> {
    x.iter().copied().cycle().take(length).collect()
}

impl<'a> Alone<'a> {
    fn new(model: &'a Model, (layer, head): (usize, usize), options: &WorstOptions) -> Result<Self, ModelError> {
        let attention = &model.transformer().block(layer).attention;
        if head >= attention.heads {
            return Err(ModelError::input("head", format!("a number below {}", attention.heads), head));
        }
        let mask = match crate::transformer::attention::lookback(model.config().mask, layer) {
            None => Mask::Full,
            Some(lookback) if lookback >= options.count - 1 => Mask::Causal,
            Some(lookback) => {
                let expected = format!("at most the {} of the window", lookback + 1);
                return Err(ModelError::input("tokens of a cloud", expected, options.count));
            }
        };
        Ok(Self {
            model,
            place: (layer, head),
            basis: Circuits::basis(attention, head),
            head: Circuits::of(attention, head).head()?,
            kernel: AttentionKernel::softmax(1.0)?.masked(mask),
            lanczos: LanczosOptions { tolerance: 1e-6, seed: options.seed, ..LanczosOptions::default() },
        })
    }

    /// X U.
    fn seen(&self, tokens: &[f64]) -> Vec<f64> {
        mapped(&self.basis.transpose(), tokens)
    }

    fn flow(&self, count: usize) -> Result<AttentionFlow, ModelError> {
        let flow = ParticleFlow::new(vec![self.head.clone()], self.kernel, count, Placement::Ambient)?;
        Ok(AttentionFlow::Particle(flow))
    }

    fn cloud(&self, case: &WorstCase) -> Result<WorstCloud, ModelError> {
        let flow = self.flow(case.tokens.count())?;
        let map = FlowJacobian { flow: &flow, t: 0.0, state: case.tokens.as_slice() };
        let constant = top_singular_triplet(&map, &self.lanczos)?.value;
        self.finished(Some((case.eigenvalue, case.lower)), constant, &case.tokens)
    }

    fn ascent(&self, start: Tokens, radius: f64, options: &WorstOptions) -> Result<WorstCloud, ModelError> {
        let how = AscentOptions { max_steps: options.ascent_steps, seed: options.seed, ..AscentOptions::default() };
        let found = ascend(&self.flow(start.count())?, &start, radius, &how)?;
        self.finished(None, found.value, &found.tokens)
    }

    fn finished(&self, built: Option<(f64, f64)>, constant: f64, cloud: &Tokens) -> Result<WorstCloud, ModelError> {
        let tokens = mapped(&self.basis, cloud.as_slice());
        let (layer, head) = self.place;
        let real = SingleHead::<f64>::at(self.model.transformer(), layer, head, &tokens);
        let in_model = top_singular_triplet(&real, &self.lanczos)?.value;
        let (eigenvalue, proven) = built.unzip();
        Ok(WorstCloud { eigenvalue, proven, constant, in_model, tokens })
    }
}

/// M x for every token x.
fn mapped(matrix: &Matrix, tokens: &[f64]) -> Vec<f64> {
    let mut out = vec![0.0; tokens.len() / matrix.columns() * matrix.rows()];
    let pairs = tokens.chunks_exact(matrix.columns()).zip(out.chunks_exact_mut(matrix.rows()));
    pairs.for_each(|(token, out)| matrix.apply(token, out));
    out
}

#[cfg(test)]
mod tests;
