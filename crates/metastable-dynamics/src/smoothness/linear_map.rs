//! Linear maps known by their products with vectors, such as Jacobians.

use crate::field::{AttentionFlow, VectorField};
use crate::linalg::Matrix;

/// A linear map J: R^inputs → R^outputs and its transpose, as products. Must be deterministic to the bit.
pub trait LinearMap: Sync {
    /// The length of the vectors that J takes.
    fn inputs(&self) -> usize;

    /// The length of the vectors that J gives.
    fn outputs(&self) -> usize;

    /// Writes J x into `out`.
    fn apply(&self, x: &[f64], out: &mut [f64]);

    /// Writes Jᵀ y into `out`.
    fn apply_transposed(&self, y: &[f64], out: &mut [f64]);
}

impl LinearMap for Matrix {
    fn inputs(&self) -> usize {
        self.columns()
    }

    fn outputs(&self) -> usize {
        self.rows()
    }

    fn apply(&self, x: &[f64], out: &mut [f64]) {
        Self::apply(self, x, out);
    }

    fn apply_transposed(&self, y: &[f64], out: &mut [f64]) {
        out.fill(0.0);
        for (i, y) in y.iter().enumerate() {
            out.iter_mut().zip(self.row(i)).for_each(|(out, a)| *out += y * a);
        }
    }
}

/// The Jacobian of a flow's field at (t, state), by its exact products.
#[derive(Debug, Clone, Copy)]
pub struct FlowJacobian<'a> {
    /// The flow.
    pub flow: &'a AttentionFlow,
    /// The time.
    pub t: f64,
    /// The tokens, [n, d].
    pub state: &'a [f64],
}

impl LinearMap for FlowJacobian<'_> {
    fn inputs(&self) -> usize {
        self.flow.len()
    }

    fn outputs(&self) -> usize {
        self.flow.len()
    }

    fn apply(&self, x: &[f64], out: &mut [f64]) {
        self.flow.jvp(self.t, self.state, x, out);
    }

    fn apply_transposed(&self, y: &[f64], out: &mut [f64]) {
        self.flow.vjp(self.t, self.state, y, out);
    }
}

/// I + J: a map with its residual connection. Its norm is not 1 + ‖J‖.
#[derive(Debug, Clone, Copy)]
pub struct WithResidual<M>(pub M);

impl<M: LinearMap> LinearMap for WithResidual<M> {
    fn inputs(&self) -> usize {
        self.0.inputs()
    }

    fn outputs(&self) -> usize {
        self.0.outputs()
    }

    fn apply(&self, x: &[f64], out: &mut [f64]) {
        self.0.apply(x, out);
        out.iter_mut().zip(x).for_each(|(out, x)| *out += x);
    }

    fn apply_transposed(&self, y: &[f64], out: &mut [f64]) {
        self.0.apply_transposed(y, out);
        out.iter_mut().zip(y).for_each(|(out, y)| *out += y);
    }
}

/// The matrix of a map, one product a column: the oracle for small sizes. Memory O(inputs·outputs).
///
/// # Example
/// ```
/// use metastable_dynamics::Matrix;
/// use metastable_dynamics::smoothness::linear_map::{WithResidual, dense};
/// let rotation = Matrix::from_rows("J", &[[0.0, -1.0], [1.0, 0.0]]).unwrap();
/// assert_eq!(dense(&rotation), rotation);
/// // |I + J| = √2, not 2.
/// let norm = dense(&WithResidual(rotation)).operator_norm().unwrap();
/// assert!((norm - 2.0_f64.sqrt()).abs() < 1e-15);
/// ```
pub fn dense(map: &impl LinearMap) -> Matrix {
    let (rows, columns) = (map.outputs(), map.inputs());
    let mut entries = vec![0.0; rows * columns];
    let (mut unit, mut image) = (vec![0.0; columns], vec![0.0; rows]);
    for j in 0..columns {
        unit[j] = 1.0;
        map.apply(&unit, &mut image);
        unit[j] = 0.0;
        image.iter().enumerate().for_each(|(i, entry)| entries[i * columns + j] = *entry);
    }
    Matrix::from_fn(rows, columns, |i, j| entries[i * columns + j])
}
