//! Initial tokens: from a file, inline, or drawn from a law.

use metastable_dynamics::{Matrix, Tokens, random};

use super::inputs::Inputs;
use super::law::numpy_stream;
use super::written::{Law, SimulateConfig, TokensConfig};
use crate::error::LabError;

/// The initial tokens of a config, before they are put on a sphere.
///
/// # Errors
/// [`LabError`] naming the key or file and what was expected.
pub fn tokens(config: &SimulateConfig, inputs: &mut Inputs) -> Result<Tokens, LabError> {
    let written = &config.tokens;
    match (&written.file, &written.values, written.law) {
        (Some(file), None, None) => {
            refuse_law_keys(written, inputs)?;
            let (path, array) = inputs.array(file, written.tensor.as_deref())?;
            array.into_tokens(&path)
        }
        (None, Some(rows), None) => {
            refuse_law_keys(written, inputs)?;
            Tokens::from_rows(rows).map_err(|source| inputs.refused("tokens.values", source))
        }
        (None, None, Some(law)) => draw(law, written, config.seed, inputs),
        _ => Err(inputs.wrong("tokens", "exactly one of file, values and law", "none or several of them")),
    }
}

fn refuse_law_keys(written: &TokensConfig, inputs: &Inputs) -> Result<(), LabError> {
    let keys = [
        ("n", written.n.is_some()),
        ("d", written.d.is_some()),
        ("low", written.low.is_some()),
        ("high", written.high.is_some()),
        ("mean", written.mean.is_some()),
        ("covariance", written.covariance.is_some()),
    ];
    match keys.iter().find(|(_, given)| *given) {
        Some((key, _)) => Err(inputs.wrong(&format!("tokens.{key}"), "this key only beside `law`", "no law")),
        None => Ok(()),
    }
}

fn draw(law: Law, written: &TokensConfig, seed: u64, inputs: &mut Inputs) -> Result<Tokens, LabError> {
    let size = |name: &str, value: Option<usize>| match value {
        Some(0) => Err(inputs.wrong(&format!("tokens.{name}"), "at least 1", 0)),
        Some(value) => Ok(value),
        None => Err(inputs.wrong(&format!("tokens.{name}"), "a number beside `law`", "none")),
    };
    let (n, d) = (size("n", written.n)?, size("d", written.d)?);
    if n.checked_mul(d).is_none_or(|values| values > MOST_VALUES) {
        return Err(inputs.wrong("tokens.n", format!("n·d of at most {MOST_VALUES}"), format!("n = {n}, d = {d}")));
    }
    let box_keys = written.low.is_some() || written.high.is_some();
    if box_keys && !matches!(law, Law::Uniform | Law::NumpyUniform) {
        return Err(inputs.wrong("tokens.low", "low and high only for law = \"uniform\"", format!("{law:?}")));
    }
    if (written.mean.is_some() || written.covariance.is_some()) && law != Law::Gaussian {
        let found = format!("{law:?}");
        return Err(inputs.wrong("tokens.mean", "mean and covariance only for law = \"gaussian\"", found));
    }
    let values = match law {
        Law::Uniform => {
            let (low, high) = box_ends(written, inputs)?;
            random::uniform(seed, n, d, low, high)
        }
        Law::NumpyUniform | Law::NumpyRandn => {
            let (low, high) = box_ends(written, inputs)?;
            let mut stream = numpy_stream(seed, None)
                .map_err(|refusal| inputs.wrong(refusal.key, refusal.expected, refusal.found))?;
            let is_normal = law == Law::NumpyRandn;
            (0..n * d).map(|_| if is_normal { stream.standard_normal() } else { stream.uniform(low, high) }).collect()
        }
        Law::Sphere => random::sphere(seed, n, d),
        Law::Orthonormal => {
            if n > d {
                return Err(inputs.wrong("tokens.n", format!("at most d = {d} orthonormal tokens"), n));
            }
            Matrix::from_fn(n, d, |i, j| f64::from(u8::from(i == j))).as_slice().to_vec()
        }
        Law::Gaussian => gaussian(written, seed, n, d, inputs)?,
    };
    Tokens::new(d, values).map_err(|source| inputs.refused("tokens", source))
}

fn box_ends(written: &TokensConfig, inputs: &Inputs) -> Result<(f64, f64), LabError> {
    let (low, high) = (written.low.unwrap_or(-1.0), written.high.unwrap_or(1.0));
    if !(low.is_finite() && high.is_finite() && low < high) {
        return Err(inputs.wrong("tokens.low", "finite low < high", format!("low = {low}, high = {high}")));
    }
    Ok((low, high))
}

/// A ceiling on the numbers of a cloud, and of all its saved states, that keeps a typing error from taking all memory:
/// 2^31 values are 16 GiB.
pub(super) const MOST_VALUES: usize = 1 << 31;

/// mean + U sqrt(S) U^T g with covariance U S U^T and standard normal g.
fn gaussian(written: &TokensConfig, seed: u64, n: usize, d: usize, inputs: &mut Inputs) -> Result<Vec<f64>, LabError> {
    let mean = written.mean.clone().unwrap_or_else(|| vec![0.0; d]);
    if mean.len() != d {
        return Err(inputs.wrong("tokens.mean", format!("{d} numbers"), mean.len()));
    }
    let mut values = random::standard_normal(seed, n, d);
    if let Some(covariance) = &written.covariance {
        let covariance = inputs.matrix("tokens.covariance", covariance, Some(d), d)?;
        let eigen = covariance.symmetric_eigen();
        let (eigenvalues, vectors) = eigen.map_err(|source| inputs.refused("tokens.covariance", source))?;
        if eigenvalues[0] < -1e-12 * covariance.max_abs() {
            let found = format!("an eigenvalue of {:e}", eigenvalues[0]);
            return Err(inputs.wrong("tokens.covariance", "a positive semidefinite matrix", found));
        }
        let root = Matrix::from_fn(d, d, |i, j| vectors.at(i, j) * eigenvalues[j].max(0.0).sqrt());
        let root = root.multiply(&vectors.transpose());
        let mut moved = vec![0.0; d];
        for token in values.chunks_exact_mut(d) {
            root.apply(token, &mut moved);
            token.copy_from_slice(&moved);
        }
    }
    for token in values.chunks_exact_mut(d) {
        token.iter_mut().zip(&mean).for_each(|(x, m)| *x += m);
    }
    Ok(values)
}
