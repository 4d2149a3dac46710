//! What a block says about its own Jacobian: shares of heads and paths, slopes of norms and of the feed-forward part.

use super::{FrozenBlock, Heads, Real, Saved, Scene, Slot};
use crate::config::NormPlace;
use crate::product::{Destination, Strided, multiply};
use crate::transformer::reverse::real::activation;
use crate::transformer::reverse::spectral::spectral_norm_upper;

/// Upper bounds of the slopes of everything in a block that acts on single tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slopes {
    /// Whether norms stand before their sub-layers.
    pub(crate) is_before: bool,
    /// max_i ‖J_i‖ of the norm of attention, where it is applied.
    pub(crate) attention_norm: f64,
    /// Of the norm of the feed-forward part.
    pub(crate) feed_forward_norm: f64,
}

impl<T: Real> FrozenBlock<'_, T> {
    /// <y, J x> of attention alone as sums over heads of [value, query, key] shares. Three forward products.
    pub(crate) fn path_shares(&self, saved: &Saved<T>, x: &[T], y: &[T], scene: &Scene<'_, T>) -> Vec<[f64; 3]> {
        let shape = self.shape(scene);
        let (wide, k) = (shape.heads * shape.head_dim, shape.head_dim);
        let map = self.map(Slot::AttentionOutput);
        let n = y.len() / map.outputs;
        // Wᵀ y: what the messages of every head are paired with.
        let mut pulled = vec![T::default(); n * wide];
        let rows = Strided::new(y, n, map.outputs, map.outputs);
        multiply(T::ONE, rows, map.weight.matrix(), Destination::Overwrite, &mut pulled);
        let moved = self.moved_heads(saved, x, scene);
        let zeros = |like: &[T]| vec![T::default(); like.len()];
        let paths = [
            Heads { query: zeros(&moved.query), key: zeros(&moved.key), value: moved.value.clone() },
            Heads { query: moved.query.clone(), key: zeros(&moved.key), value: zeros(&moved.value) },
            Heads { query: zeros(&moved.query), key: moved.key.clone(), value: zeros(&moved.value) },
        ];
        let mut shares = vec![[0.0; 3]; shape.heads];
        for (path, moved) in paths.iter().enumerate() {
            let messages = shape.tangent(&saved.heads, moved, scene.sequences);
            for (message, pulled) in messages.chunks_exact(wide).zip(pulled.chunks_exact(wide)) {
                for ((share, m), p) in shares.iter_mut().zip(message.chunks_exact(k)).zip(pulled.chunks_exact(k)) {
                    share[path] += m.iter().zip(p).map(|(m, p)| m.to_f64() * p.to_f64()).sum::<f64>();
                }
            }
        }
        shares
    }

    /// Queries and keys before their norms, where they have norms.
    pub(crate) fn raw_projections<'s>(&self, saved: &'s Saved<T>) -> Option<&'s (Vec<T>, Vec<T>)> {
        saved.raw.as_ref()
    }

    /// The slopes of both norms where they are applied.
    pub(crate) fn slopes(&self, saved: &Saved<T>) -> Slopes {
        let is_before = self.place == NormPlace::Before;
        let end = saved.end.as_ref().unwrap_or(&saved.middle);
        Slopes {
            is_before,
            attention_norm: self.attention_norm.slope_upper(if is_before { &saved.x } else { &saved.middle }),
            feed_forward_norm: self.feed_forward_norm.slope_upper(if is_before { &saved.middle } else { end }),
        }
    }

    /// Slopes of the norms of queries and of keys at each token, for head `own` of `heads` each; 1 where there are none.
    pub(crate) fn projection_slopes(&self, saved: &Saved<T>, n: usize, places: [(usize, usize); 2]) -> [Vec<f64>; 2] {
        let raw = saved.raw.as_ref().map(|raw| [&raw.0, &raw.1]);
        let norms = [&self.query_norm, &self.key_norm];
        std::array::from_fn(|which| match (norms[which], raw) {
            (Some(norm), Some(raw)) => {
                let ((heads, own), k) = (places[which], self.heads[2]);
                let tokens = raw[which].chunks_exact(heads * k);
                tokens.map(|token| norm.slope_upper(&token[own * k..(own + 1) * k])).collect()
            }
            _ => vec![1.0; n],
        })
    }

    /// max_i ‖J_i‖ of the feed-forward part at its tokens, from above: its maps by their norms, what stands between by
    /// its largest entries. O(hidden²·intermediate).
    pub(crate) fn feed_forward_upper(&self, saved: &Saved<T>) -> f64 {
        let norm = |slot| {
            // Of W or of its transpose: they have one norm.
            let weight = &self.map(slot).weight;
            let [rows, columns] = weight.sides();
            spectral_norm_upper(&weight.values, rows, columns)
        };
        let (kind, width) = (self.activation, self.map(Slot::FeedForwardIn).outputs);
        let (into, out) = (norm(Slot::FeedForwardIn), norm(Slot::FeedForwardOut));
        let largest = |values: &mut dyn Iterator<Item = T>| values.fold(0.0_f64, |m, x| m.max(x.to_f64().abs()));
        let Some(gates) = &saved.gate else {
            let slope = largest(&mut saved.up.iter().map(|up| activation(kind, *up).1));
            return out * slope * into;
        };
        let through_gate = norm(Slot::FeedForwardGate);
        let of_token = |(up, gate): (&[T], &[T])| {
            let value = largest(&mut gate.iter().map(|gate| activation(kind, *gate).0));
            let slope = largest(&mut up.iter().zip(gate).map(|(up, gate)| *up * activation(kind, *gate).1));
            value * into + slope * through_gate
        };
        out * saved.up.chunks_exact(width).zip(gates.chunks_exact(width)).map(of_token).fold(0.0, f64::max)
    }
}
