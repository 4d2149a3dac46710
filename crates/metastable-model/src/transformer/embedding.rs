//! From ids to the first cloud of tokens.

use super::norm::Norm;
use crate::checkpoint::Tensors;
use crate::config::{Config, NormPlace, Position};
use crate::error::ModelError;
use crate::linear::{Constant, Linear};
use crate::names::Parameter;

/// x_i = P·norm(token[id_i] + position[i] + segment[0]), with what the family has of these.
#[derive(Debug, Clone)]
pub(crate) struct Embedding {
    /// The table of tokens; as a map it gives the scores of a tied output.
    pub(crate) token: Linear,
    position: Option<Vec<f32>>,
    padding: Option<u32>,
    segment: Option<Vec<f32>>,
    pub(crate) norm: Option<Norm>,
    pub(crate) projection: Option<Linear>,
}

impl Embedding {
    /// Loads the tables, the norm of families that normalise after their blocks, and ALBERT's projection.
    ///
    /// # Errors
    /// [`ModelError::Tensor`].
    pub(crate) fn load(tensors: &Tensors<'_>, config: &Config) -> Result<Self, ModelError> {
        let width = config.embedding;
        let table = |parameter, rows: usize| match rows {
            0 => Ok(None),
            _ => tensors.take(parameter, &[rows, width]).map(Some),
        };
        // A single text is segment 0; the other rows are checked with the first and let go.
        let mut segment = table(Parameter::SegmentEmbedding, config.segments)?;
        segment.iter_mut().for_each(|rows| rows.truncate(width));
        let norm = match config.norm_place {
            NormPlace::After => {
                Some(Norm::load(tensors, Parameter::EmbeddingNorm, width, (config.norm, config.norm_epsilon))?)
            }
            NormPlace::Before => None,
        };
        let projection = match config.family {
            crate::config::Family::Albert => {
                let shape = [config.hidden, width];
                Some(Linear::load_as(tensors, Parameter::EmbeddingProjection, shape, Constant::With)?)
            }
            _ => None,
        };
        Ok(Self {
            token: Linear::load_as(tensors, |_| Parameter::TokenEmbedding, [config.vocab, width], Constant::Without)?,
            position: table(Parameter::PositionEmbedding, config.position_rows())?,
            padding: match config.position {
                Position::Learned { padding } => padding,
                _ => None,
            },
            segment,
            norm,
            projection,
        })
    }

    /// The cloud of a text, [n, hidden]; trusts that ids and positions exist.
    pub(crate) fn apply(&self, ids: &[u32]) -> Vec<f32> {
        let width = self.token.inputs();
        let mut tokens = Vec::with_capacity(ids.len() * width);
        for (id, row) in ids.iter().zip(self.rows(ids)) {
            let start = tokens.len();
            tokens.extend_from_slice(&self.token.row(*id as usize));
            let token = &mut tokens[start..];
            if let Some(segment) = &self.segment {
                token.iter_mut().zip(segment).for_each(|(x, s)| *x += s);
            }
            if let Some(position) = &self.position {
                token.iter_mut().zip(&position[row * width..]).for_each(|(x, p)| *x += p);
            }
        }
        if let Some(norm) = &self.norm {
            norm.apply(&mut tokens);
        }
        match &self.projection {
            Some(projection) => projection.map(&tokens),
            None => tokens,
        }
    }

    /// The row of the position table of every token.
    fn rows(&self, ids: &[u32]) -> Vec<usize> {
        let Some(padding) = self.padding else { return (0..ids.len()).collect() };
        let mut seen = padding as usize;
        let row = |id: &u32| {
            if *id == padding {
                return padding as usize;
            }
            seen += 1;
            seen
        };
        ids.iter().map(row).collect()
    }
}
