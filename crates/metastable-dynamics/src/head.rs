//! One attention head, and the low-rank updates that LoRA adds to its matrices.

use crate::error::DynamicsError;
use crate::linalg::Matrix;

/// The matrices of one head: scores <Q x_i, K x_j>, messages W V x_j.
///
/// Shapes: `query`, `key` [k, d]; `value` [m, d]; `output` [d, m], or none for the identity (then m = d).
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    query: Matrix,
    key: Matrix,
    value: Matrix,
    output: Option<Matrix>,
}

/// Which matrix of a head an update changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Q.
    Query,
    /// K.
    Key,
    /// V.
    Value,
}

impl Head {
    /// Checks the shapes against each other.
    ///
    /// # Errors
    /// [`DynamicsError::Shape`] naming the matrix that does not fit.
    pub fn new(query: Matrix, key: Matrix, value: Matrix, output: Option<Matrix>) -> Result<Self, DynamicsError> {
        let d = query.columns();
        let want = |name: &str, matrix: &Matrix, rows: usize, columns: usize| {
            if matrix.rows() == rows && matrix.columns() == columns {
                return Ok(());
            }
            Err(DynamicsError::shape(name, format!("[{rows}, {columns}]"), matrix.shape()))
        };
        want("key", &key, query.rows(), d)?;
        match &output {
            Some(output) => {
                want("value", &value, value.rows(), d)?;
                want("output", output, d, value.rows())?;
            }
            None => want("value", &value, d, d)?,
        }
        Ok(Self { query, key, value, output })
    }

    /// Q = K = V = I: the standard head of the theory.
    pub fn identity(d: usize) -> Self {
        let identity = Matrix::scaled_identity(d, 1.0);
        Self { query: identity.clone(), key: identity.clone(), value: identity, output: None }
    }

    /// The token dimension d.
    pub fn dim(&self) -> usize {
        self.query.columns()
    }

    /// Q, [k, d].
    pub fn query(&self) -> &Matrix {
        &self.query
    }

    /// K, [k, d].
    pub fn key(&self) -> &Matrix {
        &self.key
    }

    /// V, [m, d].
    pub fn value(&self) -> &Matrix {
        &self.value
    }

    /// W, [d, m], if not the identity.
    pub fn output(&self) -> Option<&Matrix> {
        self.output.as_ref()
    }

    /// W V, [d, d]: what the head writes for a token it attends to.
    pub fn output_value(&self) -> Matrix {
        self.output.as_ref().map_or_else(|| self.value.clone(), |output| output.multiply(&self.value))
    }

    /// Qᵀ K, [d, d]: the bilinear form of the scores, <Q x, K y> = xᵀ (Qᵀ K) y.
    pub fn query_key(&self) -> Matrix {
        self.query.transpose().multiply(&self.key)
    }

    /// The head with `update` added to its `target` matrix.
    ///
    /// # Errors
    /// [`DynamicsError::Shape`] if the update does not fit.
    pub fn updated(&self, target: Target, update: &LowRankUpdate) -> Result<Self, DynamicsError> {
        let mut head = self.clone();
        let matrix = match target {
            Target::Query => &mut head.query,
            Target::Key => &mut head.key,
            Target::Value => &mut head.value,
        };
        if (update.delta.rows(), update.delta.columns()) != (matrix.rows(), matrix.columns()) {
            return Err(DynamicsError::shape("lora update", matrix.shape(), update.delta.shape()));
        }
        if !update.is_zero() {
            *matrix = matrix.add_scaled(1.0, &update.delta);
        }
        Ok(head)
    }
}

/// A LoRA update ΔW = scale·B A of rank at most r.
///
/// PEFT's letters: A [r, d_in], B [d_out, r], scale = alpha / r, or alpha / sqrt(r) for rsLoRA.
///
/// # Example
/// ```
/// use metastable_dynamics::{LowRankUpdate, Matrix};
/// let a = Matrix::from_rows("a", &[[0.0, 1.0]]).unwrap();
/// let b = Matrix::from_rows("b", &[[0.0], [-0.1]]).unwrap();
/// let update = LowRankUpdate::new(&a, &b, 2.0).unwrap();
/// assert_eq!(update.delta().at(1, 1), -0.2);
/// assert!(LowRankUpdate::new(&a, &a, 1.0).is_err());
/// ```
///
/// # References
/// E. Hu et al., "LoRA", 2021, section 4.1; D. Kalajdzievski, rsLoRA, 2023.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRankUpdate {
    delta: Matrix,
    rank: usize,
}

impl LowRankUpdate {
    /// scale·B A.
    ///
    /// # Errors
    /// [`DynamicsError::Shape`] unless B has as many columns as A has rows.
    pub fn new(a: &Matrix, b: &Matrix, scale: f64) -> Result<Self, DynamicsError> {
        if b.columns() != a.rows() {
            return Err(DynamicsError::shape(
                "lora b",
                format!("[d_out, {}] for a {}", a.rows(), a.shape()),
                b.shape(),
            ));
        }
        Ok(Self { delta: b.multiply(a).scaled(scale), rank: a.rows() })
    }

    /// A dense ΔW, nominal rank min(rows, columns).
    pub fn dense(delta: Matrix) -> Self {
        let rank = delta.rows().min(delta.columns());
        Self { delta, rank }
    }

    /// ΔW.
    pub fn delta(&self) -> &Matrix {
        &self.delta
    }

    /// The nominal rank r.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Whether ΔW is exactly zero; then it changes no bit.
    pub fn is_zero(&self) -> bool {
        self.delta.max_abs() == 0.0
    }

    /// The singular values of ΔW, largest first.
    ///
    /// # Errors
    /// [`DynamicsError::Decomposition`].
    pub fn singular_values(&self) -> Result<Vec<f64>, DynamicsError> {
        self.delta.singular_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lora_null_changes_no_bit() {
        let head = Head::identity(3);
        let a = Matrix::from_fn(2, 3, |i, j| 0.3 + i as f64 - 0.7 * j as f64);
        let b = Matrix::from_fn(3, 2, |_, _| 0.0);
        let update = LowRankUpdate::new(&a, &b, 16.0).unwrap();
        for target in [Target::Query, Target::Key, Target::Value] {
            assert_eq!(head.updated(target, &update).unwrap(), head);
        }
    }

    #[test]
    fn rank_of_the_update_is_at_most_r() {
        let a = Matrix::from_fn(2, 5, |i, j| ((3 * i + 7 * j + 1) as f64).sin());
        let b = Matrix::from_fn(5, 2, |i, j| ((5 * i + 2 * j) as f64).cos());
        let s = LowRankUpdate::new(&a, &b, 0.5).unwrap().singular_values().unwrap();
        assert!(s[1] > 1e-3 && s[2] < 1e-14 * s[0], "{s:?}");
    }

    #[test]
    fn a_key_of_another_width_is_named() {
        let identity = Matrix::scaled_identity(2, 1.0);
        let wide = Matrix::scaled_identity(3, 1.0);
        let error = Head::new(identity.clone(), wide, identity, None).unwrap_err();
        assert!(error.to_string().starts_with("key:"), "{error}");
    }
}
