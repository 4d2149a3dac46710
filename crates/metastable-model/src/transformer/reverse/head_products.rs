//! What the reverse pass asks of the fused Jacobian products of `metastable_dynamics`, for f32 and f64 alike.

use metastable_dynamics::attention::AttentionKernel;
use metastable_dynamics::attention::fused::{HeadJacobian, Real, Rows};

/// One head's Jacobian products.
pub(crate) trait HeadProducts<T>: Sized + Send + Sync {
    /// At queries, keys and values [n, head_dim].
    fn at(rows: [Rows<'_, T>; 3], kernel: &AttentionKernel) -> Option<Self>;
    /// The change of messages [n, head_dim] along tangents of queries, keys and values.
    fn tangent(&self, rows: [Rows<'_, T>; 3]) -> Vec<T>;
    /// The cotangents of queries, keys and values.
    fn cotangents(&self, rows: Rows<'_, T>) -> [Vec<T>; 3];
}

impl<T: Real> HeadProducts<T> for HeadJacobian<T> {
    fn at([queries, keys, values]: [Rows<'_, T>; 3], kernel: &AttentionKernel) -> Option<Self> {
        Self::new(queries, keys, values, kernel)
    }

    fn tangent(&self, [queries, keys, values]: [Rows<'_, T>; 3]) -> Vec<T> {
        self.jvp(queries, keys, values)
    }

    fn cotangents(&self, rows: Rows<'_, T>) -> [Vec<T>; 3] {
        let found = self.vjp(rows);
        [found.queries, found.keys, found.values]
    }
}
