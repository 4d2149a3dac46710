//! Jacobian products of attention at one text, on the fused kernels of `metastable_dynamics`: log-sums and messages are
//! kept from the point, so that no product makes a maximum or a row of weights again.

use metastable_dynamics::attention::fused::Rows;
use metastable_dynamics::attention::{AttentionKernel, Mask};
use rayon::prelude::*;

use super::{Heads, Real, Shape};
use crate::transformer::reverse::head_products::HeadProducts;

/// All heads of a layer at one text.
pub(crate) struct PointProducts<T: Real> {
    shape: Shape,
    heads: Vec<T::HeadProducts>,
}

impl<T: Real> PointProducts<T> {
    /// None where a window hides tokens that a causal mask would show. One forward of all heads; O(n·width) memory.
    pub(crate) fn at(shape: Shape, heads: &Heads<T>) -> Option<Self> {
        let n = heads.query.len() / shape.wide();
        let mask = match shape.lookback {
            None => Mask::Full,
            Some(lookback) if lookback >= n.saturating_sub(1) => Mask::Causal,
            Some(_) => return None,
        };
        let kernel = AttentionKernel::softmax(1.0 / (shape.head_dim as f64).sqrt()).ok()?.masked(mask);
        let head = |head: usize| T::HeadProducts::at(shape.head_rows(heads, head), &kernel);
        let heads: Option<Vec<_>> = (0..shape.heads).into_par_iter().map(head).collect();
        Some(Self { shape, heads: heads? })
    }

    /// The derivative of the joined messages along `direction`, [n, heads·head_dim].
    pub(crate) fn tangent(&self, direction: &Heads<T>) -> Vec<T> {
        let shape = &self.shape;
        let head = |(head, products): (usize, &T::HeadProducts)| products.tangent(shape.head_rows(direction, head));
        let by_head: Vec<Vec<T>> = self.heads.par_iter().enumerate().map(head).collect();
        let mut joined = vec![T::default(); direction.query.len()];
        for (head, messages) in by_head.iter().enumerate() {
            let n = messages.len() / shape.head_dim;
            shape.scatter(&mut joined, shape.wide(), &(0..n), head, messages);
        }
        joined
    }

    /// The cotangents of queries, keys and values for a cotangent `d` [n, heads·head_dim] of the joined messages; sums
    /// over the heads of a group in order.
    pub(crate) fn backward(&self, d: &[T]) -> Heads<T> {
        let shape = &self.shape;
        let head = |(head, products): (usize, &T::HeadProducts)| {
            products.cotangents(Rows::part(d, shape.wide(), head * shape.head_dim, shape.head_dim))
        };
        let by_head: Vec<[Vec<T>; 3]> = self.heads.par_iter().enumerate().map(head).collect();
        let n = d.len() / shape.wide();
        let zeros = |width: usize| vec![T::default(); n * width];
        let mut joined = Heads { query: zeros(shape.wide()), key: zeros(shape.narrow()), value: zeros(shape.narrow()) };
        let groups = by_head.chunks(shape.group_size()).enumerate();
        for (group, found) in groups {
            for (k, [query, ..]) in found.iter().enumerate() {
                shape.scatter(&mut joined.query, shape.wide(), &(0..n), group * shape.group_size() + k, query);
            }
            let sum = |part: usize| {
                let mut sum = found[0][part].clone();
                for other in &found[1..] {
                    sum.iter_mut().zip(&other[part]).for_each(|(sum, x)| *sum += *x);
                }
                sum
            };
            shape.scatter(&mut joined.key, shape.narrow(), &(0..n), group, &sum(1));
            shape.scatter(&mut joined.value, shape.narrow(), &(0..n), group, &sum(2));
        }
        joined
    }
}

impl Shape {
    /// Queries, keys and values of a query head.
    fn head_rows<'a, T>(&self, heads: &'a Heads<T>, head: usize) -> [Rows<'a, T>; 3] {
        let (own, shared) = (head * self.head_dim, head / self.group_size() * self.head_dim);
        [
            Rows::part(&heads.query, self.wide(), own, self.head_dim),
            Rows::part(&heads.key, self.narrow(), shared, self.head_dim),
            Rows::part(&heads.value, self.narrow(), shared, self.head_dim),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The way of matrix products and whole rows of weights, which training takes, is the oracle.
    fn products_agree<T: Real + std::fmt::Debug>(lookback: Option<usize>, tolerance: f64) {
        let (n, shape) = (90, Shape { heads: 6, kv_heads: 2, head_dim: 20, lookback });
        let numbers = |seed: usize, width: usize| -> Vec<T> {
            let entry = |i: usize| ((i * i + 31 * i + 7 * seed) * 7919 % 2003) as f64 / 1001.0 - 1.0;
            (0..n * width).map(|i| T::from_f64(entry(i + 97 * seed))).collect()
        };
        let heads =
            |seed: usize| Heads { query: numbers(seed, 120), key: numbers(seed + 1, 40), value: numbers(seed + 2, 40) };
        let (point, direction, cotangent) = (heads(0), heads(10), numbers(20, 120));
        let products = PointProducts::at(shape, &point).unwrap();
        let sequences = std::array::from_fn::<_, 1, _>(|_| 0..n);
        let back = products.backward(&cotangent);
        let expected = shape.backward(&point, &sequences, &cotangent);
        let pairs = [
            (products.tangent(&direction), shape.tangent(&point, &direction, &sequences)),
            (back.query, expected.query),
            (back.key, expected.key),
            (back.value, expected.value),
        ];
        for (part, (found, expected)) in pairs.iter().enumerate() {
            let largest = expected.iter().map(|x| x.to_f64().abs()).fold(0.0, f64::max);
            for (found, expected) in found.iter().zip(expected) {
                let error = (found.to_f64() - expected.to_f64()).abs();
                assert!(
                    error <= tolerance * largest,
                    "part {part}: {}, expected {}",
                    found.to_f64(),
                    expected.to_f64()
                );
            }
        }
    }

    #[test]
    fn products_agree_with_those_of_whole_rows() {
        // Sums of some hundred roundings, relative to the largest entry.
        for lookback in [None, Some(usize::MAX), Some(89)] {
            products_agree::<f32>(lookback, 1e-5);
            products_agree::<f64>(lookback, 1e-13);
        }
    }

    #[test]
    fn a_window_shorter_than_the_text_has_no_fused_products() {
        let shape = Shape { heads: 1, kv_heads: 1, head_dim: 2, lookback: Some(3) };
        let zeros = vec![0.0_f32; 10];
        let heads = Heads { query: zeros.clone(), key: zeros.clone(), value: zeros };
        assert!(PointProducts::at(shape, &heads).is_none());
    }
}
