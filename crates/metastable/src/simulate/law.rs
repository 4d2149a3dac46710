//! Matrices drawn at random: Q, K, V, covariances and adapters of an ensemble, each by its law and seed.

use metastable_dynamics::random::{self, numpy};
use metastable_dynamics::{DynamicsError, Matrix};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A random matrix: a law, a seed, and what is made of the draw G.
///
/// Two matrices with equal `law`, `seed`, `stream`, `draw` and `shape` are equal: `key = {law = "normal", stream = 1,
/// scale = -1.0}` beside `query = {law = "normal", stream = 1}` is K = -Q.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RandomMatrix {
    /// The law of the entries.
    pub law: MatrixLaw,
    /// Rows and columns of G; [d, d] by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<[usize; 2]>,
    /// The seed; the config's by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The stream of the house's generator; one of its own for every key by default. Not for NumPy's laws, which have
    /// one stream a seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<u64>,
    /// Which matrix of the stream: 0 is the first, each takes rows times columns numbers.
    #[serde(default)]
    pub draw: u64,
    /// Numbers of the stream to leave out before matrix 0.
    #[serde(default)]
    pub offset: u64,
    /// Lower end of uniform entries; -1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// Upper end of uniform entries; 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    /// What is made of G.
    #[serde(default)]
    pub form: MatrixForm,
    /// Multiplies the result.
    #[serde(default = "one")]
    pub scale: f64,
}

fn one() -> f64 {
    1.0
}

/// The law of independent entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MatrixLaw {
    /// Standard normal, from the house's counter-based generator.
    Normal,
    /// Uniform in [low, high), from the house's counter-based generator.
    Uniform,
    /// Standard normal, as `numpy.random.RandomState(seed).randn(rows, columns)` draws one matrix after the other.
    NumpyRandn,
    /// Uniform in [low, high), as `numpy.random.RandomState(seed).uniform(low, high, (rows, columns))` does.
    NumpyUniform,
}

/// What is made of a random matrix G.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MatrixForm {
    /// G.
    #[default]
    Plain,
    /// G Gᵀ, positive semidefinite.
    Outer,
    /// Gᵀ G, positive semidefinite.
    Inner,
    /// (G + Gᵀ)/2.
    Symmetric,
}

/// Draws and offsets beyond this are refused: NumPy's generator has to make every number before them.
const MOST_NUMBERS: u64 = 1 << 32;
/// A drawn matrix has at most so many entries.
const MOST_ENTRIES: usize = 1 << 24;

/// What is wrong with a law: the key below the matrix, what was expected and what was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// The key, such as "shape".
    pub key: &'static str,
    /// What fits.
    pub expected: String,
    /// What came.
    pub found: String,
}

impl RandomMatrix {
    /// The number of rows of the matrix that comes out, for tokens of dimension d.
    pub fn rows(&self, d: usize) -> usize {
        let [rows, columns] = self.shape.unwrap_or([d, d]);
        if self.form == MatrixForm::Inner { columns } else { rows }
    }

    /// The matrix, for tokens of dimension d; `name` is the key it stands at, `seed` the config's. O(numbers drawn).
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn draw(&self, name: &str, seed: u64, d: usize) -> Result<Matrix, Refusal> {
        let [rows, columns] = self.shape()?.unwrap_or([d, d]);
        let (seed, size) = (self.seed.unwrap_or(seed), rows * columns);
        let skipped = self.draw.checked_mul(size as u64).and_then(|numbers| numbers.checked_add(self.offset));
        let skipped = skipped.filter(|numbers| *numbers <= MOST_NUMBERS).ok_or_else(|| Refusal {
            key: "draw",
            expected: format!("at most {MOST_NUMBERS} numbers to leave out"),
            found: format!("draw {} of {size} numbers after {}", self.draw, self.offset),
        })?;
        let (low, high) = self.ends()?;
        let values = match self.law {
            MatrixLaw::Normal | MatrixLaw::Uniform => self.house_numbers(name, seed, skipped, size, (low, high)),
            MatrixLaw::NumpyRandn | MatrixLaw::NumpyUniform => {
                let mut stream = numpy_stream(seed, self.stream)?;
                let is_normal = self.law == MatrixLaw::NumpyRandn;
                let numbers = std::iter::repeat_with(|| {
                    if is_normal { stream.standard_normal() } else { stream.uniform(low, high) }
                });
                numbers.skip(skipped as usize).take(size).collect()
            }
        };
        let refused =
            |error: DynamicsError| Refusal { key: "law", expected: "a matrix".into(), found: error.to_string() };
        let drawn = Matrix::new(name, rows, columns, values).map_err(refused)?;
        self.formed(&drawn)
    }
}

impl RandomMatrix {
    fn shape(&self) -> Result<Option<[usize; 2]>, Refusal> {
        let Some([rows, columns]) = self.shape else { return Ok(None) };
        let entries = rows.saturating_mul(columns);
        if entries == 0 || entries > MOST_ENTRIES {
            let expected = format!("rows and columns above 0, and at most {MOST_ENTRIES} entries");
            return Err(Refusal { key: "shape", expected, found: format!("[{rows}, {columns}]") });
        }
        Ok(self.shape)
    }

    /// The ends of a uniform law.
    fn ends(&self) -> Result<(f64, f64), Refusal> {
        let is_uniform = matches!(self.law, MatrixLaw::Uniform | MatrixLaw::NumpyUniform);
        if !is_uniform && (self.low.is_some() || self.high.is_some()) {
            let expected = "low and high only for a uniform law".into();
            return Err(Refusal { key: "low", expected, found: "a normal law".into() });
        }
        let (low, high) = (self.low.unwrap_or(-1.0), self.high.unwrap_or(1.0));
        if low.is_finite() && high.is_finite() && low < high {
            return Ok((low, high));
        }
        Err(Refusal { key: "low", expected: "finite low < high".into(), found: format!("low = {low}, high = {high}") })
    }

    fn house_numbers(&self, name: &str, seed: u64, skipped: u64, size: usize, ends: (f64, f64)) -> Vec<f64> {
        // Streams below 2^63 belong to tokens.
        let stream = 1 << 63 | self.stream.unwrap_or_else(|| digest_of(name)) & (u64::MAX >> 1);
        // At most `MOST_NUMBERS`, which fits.
        let skipped = skipped as usize;
        let drawn = match self.law {
            MatrixLaw::Uniform => random::uniforms(seed, stream, skipped + size),
            _ => random::normals(seed, stream, skipped + size),
        };
        let (low, high) = ends;
        let placed = |u: &f64| if self.law == MatrixLaw::Uniform { low + (high - low) * u } else { *u };
        drawn[skipped..].iter().map(placed).collect()
    }

    fn formed(&self, drawn: &Matrix) -> Result<Matrix, Refusal> {
        if !self.scale.is_finite() {
            return Err(Refusal { key: "scale", expected: "a finite number".into(), found: self.scale.to_string() });
        }
        let formed = match self.form {
            MatrixForm::Plain => drawn.clone(),
            MatrixForm::Outer => drawn.multiply(&drawn.transpose()),
            MatrixForm::Inner => drawn.transpose().multiply(drawn),
            MatrixForm::Symmetric if drawn.rows() != drawn.columns() => {
                let expected = "a square shape for form = \"symmetric\"".into();
                return Err(Refusal { key: "shape", expected, found: drawn.shape() });
            }
            MatrixForm::Symmetric => drawn.scaled(0.5).add_scaled(0.5, &drawn.transpose()),
        };
        Ok(if self.scale == 1.0 { formed } else { formed.scaled(self.scale) })
    }
}

/// NumPy's stream of a seed: 32 bits, and no streams beside it.
pub(super) fn numpy_stream(seed: u64, stream: Option<u64>) -> Result<numpy::RandomState, Refusal> {
    if let Some(stream) = stream {
        let expected = "no stream for NumPy's laws, which have one a seed".into();
        return Err(Refusal { key: "stream", expected, found: stream.to_string() });
    }
    let small = u32::try_from(seed).map_err(|_| Refusal {
        key: "seed",
        expected: format!("at most {} for NumPy's laws", u32::MAX),
        found: seed.to_string(),
    })?;
    Ok(numpy::RandomState::new(small))
}

/// The 64-bit FNV-1a digest of a name, which gives every key of a config a stream of its own.
fn digest_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |digest, byte| (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn law(law: MatrixLaw) -> RandomMatrix {
        let (form, shape) = (MatrixForm::Plain, Some([1, 3]));
        let (seed, stream, low, high) = (None, None, None, None);
        RandomMatrix { law, shape, seed, stream, draw: 0, offset: 0, low, high, form, scale: 1.0 }
    }

    /// `numpy.random.seed(40); [numpy.random.randn(1, 3) for _ in range(100)]`, then `randn(2, 4)`: the matrices Q of the
    /// published rank histograms (scripts/golden/numpy_legacy.py).
    #[test]
    fn the_draws_of_numpy_follow_each_other_in_one_stream() {
        let first = RandomMatrix { seed: Some(40), ..law(MatrixLaw::NumpyRandn) };
        let second = RandomMatrix { draw: 1, ..first.clone() };
        let all = RandomMatrix { shape: Some([2, 3]), ..first.clone() };
        let rows = all.draw("q", 0, 3).unwrap();
        assert_eq!(first.draw("q", 0, 3).unwrap().as_slice(), rows.row(0));
        assert_eq!(second.draw("q", 0, 3).unwrap().as_slice(), rows.row(1));
        let after = RandomMatrix { shape: Some([2, 4]), offset: 3, ..first };
        assert_eq!(after.draw("q", 0, 4).unwrap().as_slice()[..3], *rows.row(1));
    }

    #[test]
    fn every_key_has_a_stream_of_its_own_unless_the_config_names_one() {
        let plain = law(MatrixLaw::Normal);
        let query = plain.draw("head[0].query", 1, 3).unwrap();
        assert_ne!(query, plain.draw("head[0].key", 1, 3).unwrap());
        assert_ne!(query, plain.draw("head[0].query", 2, 3).unwrap());
        let shared = RandomMatrix { stream: Some(5), ..plain };
        let opposite = RandomMatrix { scale: -1.0, ..shared.clone() };
        let query = shared.draw("head[0].query", 1, 3).unwrap();
        assert_eq!(query.scaled(-1.0), opposite.draw("head[0].key", 1, 3).unwrap());
    }

    #[test]
    fn products_of_a_draw_are_symmetric() {
        for form in [MatrixForm::Outer, MatrixForm::Inner, MatrixForm::Symmetric] {
            let square = RandomMatrix { shape: None, form, ..law(MatrixLaw::Uniform) };
            // Sums of the same products in the same order.
            assert_eq!(square.draw("v", 3, 5).unwrap().asymmetry(), 0.0, "{form:?}");
        }
        let wide = RandomMatrix { form: MatrixForm::Inner, ..law(MatrixLaw::Normal) };
        assert_eq!((wide.rows(3), wide.draw("v", 1, 3).unwrap().shape()), (3, "[3, 3]".to_string()));
    }

    #[test]
    fn what_a_law_cannot_be_is_said_with_its_key() {
        let key = |matrix: RandomMatrix| matrix.draw("q", u64::from(u32::MAX) + 1, 3).unwrap_err().key;
        let (normal, uniform) = (law(MatrixLaw::Normal), law(MatrixLaw::Uniform));
        assert_eq!(key(law(MatrixLaw::NumpyRandn)), "seed");
        assert_eq!(key(RandomMatrix { seed: Some(1), stream: Some(2), ..law(MatrixLaw::NumpyUniform) }), "stream");
        assert_eq!(key(RandomMatrix { shape: Some([0, 3]), ..normal.clone() }), "shape");
        assert_eq!(key(RandomMatrix { shape: Some([usize::MAX, 2]), ..normal.clone() }), "shape");
        assert_eq!(key(RandomMatrix { form: MatrixForm::Symmetric, ..normal.clone() }), "shape");
        assert_eq!(key(RandomMatrix { low: Some(0.0), ..normal.clone() }), "low");
        assert_eq!(key(RandomMatrix { low: Some(2.0), ..uniform }), "low");
        assert_eq!(key(RandomMatrix { draw: u64::MAX, ..normal.clone() }), "draw");
        assert_eq!(key(RandomMatrix { scale: f64::NAN, ..normal }), "scale");
    }
}
