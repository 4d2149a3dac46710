//! The token of the real vocabulary that makes a head steepest in the place of one token of the text.
//!
//! In the first layer a token enters a head through its own row alone. All tokens are screened by one product each with
//! the singular vectors of the best cloud so far, ‖J_w v‖ and ‖J_wᵀ u‖, which are below ‖J_w‖; the constants of the most
//! promising ones are computed, and the screening is repeated with the best of them. A lower value of the maximum.

use std::sync::Arc;

use metastable_dynamics::smoothness::{LanczosOptions, LinearMap, SingularTriplet, top_singular_triplet};
use rayon::prelude::*;

use crate::error::ModelError;
use crate::model::{Input, Model};
use crate::smoothness::single_precision_lanczos;
use crate::transformer::reverse::circuits::Circuits;
use crate::transformer::reverse::single::{Maps, SingleHead, Turns, projections};

/// How the vocabulary is searched.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenSearch {
    /// The place whose token is exchanged, from 0.
    pub position: usize,
    /// Tokens whose constant is computed, each round.
    pub candidates: usize,
    /// Screenings.
    pub rounds: usize,
    /// Seed of Lanczos.
    pub seed: u64,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WorstToken {
    /// The constant of the head at the text.
    pub before: f64,
    /// The id of the token.
    pub token: u32,
    /// The constant with that token in the place of the text's own.
    pub after: f64,
    /// Tokens of the vocabulary that were screened.
    pub screened: usize,
    /// Tokens whose constant was computed.
    pub computed: usize,
}

/// Tokens whose rows are projected at a time.
const BLOCK: usize = 512;

/// The text with one free place.
struct Place<'a> {
    model: &'a Model,
    maps: Arc<Maps<f32>>,
    turns: Option<Arc<Turns<f32>>>,
    position: usize,
    /// Queries, keys and values of the text, [n, k].
    text: [Vec<f32>; 3],
    /// Of every token of the vocabulary in the free place, [vocab, k].
    vocabulary: [Vec<f32>; 3],
    lanczos: LanczosOptions,
}

impl Model {
    /// Searches the vocabulary for the token that makes head `head` of the first layer steepest at `search.position`.
    /// O(vocab·(d k + n k (n + r))).
    ///
    /// # Errors
    /// [`ModelError::Input`] if there is no such head or position, for padding, and for ids outside the vocabulary;
    /// [`ModelError::Mathematics`].
    pub fn worst_token(&self, input: &Input, head: usize, search: &TokenSearch) -> Result<WorstToken, ModelError> {
        let ids = input.ids();
        let heads = self.config().heads;
        if head >= heads {
            return Err(ModelError::input("head", format!("a number below {heads}"), head));
        }
        if search.position >= ids.len() {
            let expected = format!("a number below the {} tokens of the text", ids.len());
            return Err(ModelError::input("position", expected, search.position));
        }
        // Checks ids and length, too.
        let hidden = self.forward(input)?;
        self.prefix(&hidden, 0, ids.len())?;
        let place = Place::new(self, ids, head, search);
        let own = ids[search.position];
        let mut best = (own, place.pair(own)?);
        let (before, mut computed) = (best.1.value, vec![own]);
        for _ in 0..search.rounds.max(1) {
            let mut ranked = place.screened(&best.1);
            ranked.retain(|(token, _)| !computed.contains(token));
            ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            ranked.truncate(search.candidates.max(1));
            let pairs: Vec<_> = ranked.par_iter().map(|(token, _)| place.pair(*token)).collect();
            for ((token, _), pair) in ranked.iter().zip(pairs) {
                computed.push(*token);
                let pair = pair?;
                if pair.value > best.1.value {
                    best = (*token, pair);
                }
            }
        }
        let (token, pair) = best;
        let (screened, computed) = (self.config().vocab, computed.len());
        Ok(WorstToken { before, token, after: pair.value, screened, computed })
    }
}

impl<'a> Place<'a> {
    fn new(model: &'a Model, ids: &[u32], head: usize, search: &TokenSearch) -> Self {
        let transformer = model.transformer();
        let block = transformer.block(0);
        let (n, d, position) = (ids.len(), model.config().hidden, search.position);
        let wide = |x: Vec<f32>| -> Vec<f64> { x.into_iter().map(f64::from).collect() };
        let text = wide(block.attention_input(&transformer.embedding.apply(ids)));
        let vocab = u32::try_from(model.config().vocab).unwrap_or(u32::MAX);
        let all: Vec<u32> = (0..vocab).collect();
        let blocks: Vec<[Vec<f32>; 3]> = all
            .par_chunks(BLOCK)
            .map(|tokens| {
                let row = |token: &u32| {
                    let mut ids = ids.to_vec();
                    ids[position] = *token;
                    transformer.embedding.apply(&ids)[position * d..(position + 1) * d].to_vec()
                };
                let rows: Vec<f32> = tokens.iter().flat_map(row).collect();
                projections(&block.attention, head, &wide(block.attention_input(&rows)))
            })
            .collect();
        let joined = |which: usize| blocks.iter().flat_map(|block| block[which].iter().copied()).collect();
        Self {
            model,
            maps: Arc::new(Maps::of(&Circuits::of(&block.attention, head))),
            turns: transformer.rotation(n).map(|rotation| Arc::new(Turns::of(&[rotation]))),
            position,
            text: projections(&block.attention, head, &text),
            vocabulary: std::array::from_fn(joined),
            lanczos: LanczosOptions { seed: search.seed, ..single_precision_lanczos() },
        }
    }

    /// The Jacobian with `token` in the free place.
    fn map(&self, token: u32) -> SingleHead<'_, f32> {
        let mut exchanged = self.text.clone();
        let k = self.model.config().head_dim;
        for (own, all) in exchanged.iter_mut().zip(&self.vocabulary) {
            let row = &all[token as usize * k..(token as usize + 1) * k];
            own[self.position * k..(self.position + 1) * k].copy_from_slice(row);
        }
        SingleHead::of_projections(self.model.transformer(), 0, &self.maps, self.turns.clone(), exchanged)
    }

    fn pair(&self, token: u32) -> Result<SingularTriplet, ModelError> {
        Ok(top_singular_triplet(&self.map(token), &self.lanczos)?)
    }

    /// A lower value of the constant of every token, by the singular vectors of one.
    fn screened(&self, best: &SingularTriplet) -> Vec<(u32, f64)> {
        let vocab = u32::try_from(self.model.config().vocab).unwrap_or(u32::MAX);
        let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
        (0..vocab)
            .into_par_iter()
            .map(|token| {
                let map = self.map(token);
                let (mut image, mut back) = (vec![0.0; map.outputs()], vec![0.0; map.inputs()]);
                map.apply(&best.right, &mut image);
                map.apply_transposed(&best.left, &mut back);
                (token, length(&image).max(length(&back)))
            })
            .collect()
    }
}
