//! Clouds in a ball where attention is as steep as we know how to make it: two points, three clusters.
//!
//! Both place many tokens where all of them watch the same one or two, so that one small move moves them all: this
//! is where the factor √n of the general bound is attained. Notation: A = beta Kᵀ Q, M = W V, softmax of dot scores.
//!
//! # References
//! The two-point construction is that of the code of Castin, Ablin, Peyré, 2312.14820 \[code\], its inequality
//! \[derived\]; three clusters \[derived\], not in the paper as far as we know.

use super::lanczos::{LanczosOptions, top_singular_triplet};
use crate::attention::{AttentionKernel, Mask, Normalization, Score};
use crate::error::DynamicsError;
use crate::head::Head;
use crate::linalg::{Matrix, dot, norm};
use crate::tokens::Tokens;

/// A cloud with a proven lower value of its constant.
#[derive(Debug, Clone, PartialEq)]
pub struct WorstCase {
    /// The cloud, in the ball of the radius asked for.
    pub tokens: Tokens,
    /// ‖D_X f‖_2 is at least this.
    pub lower: f64,
    /// The eigenvalue of A that it is built on.
    pub eigenvalue: f64,
}

/// The weight e^x / (e^x + many·e^y) of one of `ones` tokens that score x against many that score y, as x - y.
fn share(ones: f64, many: f64, advantage: f64) -> f64 {
    1.0 / (ones + many * (-advantage).exp())
}

/// (Σ_{i = first}^n share_i²)^{1/2} over the observers: all alike without a mask, one after the other with it.
fn observers(mask: Mask, first: usize, n: usize, weight: impl Fn(f64) -> f64) -> f64 {
    let seen = |i: usize| match mask {
        Mask::Full => (n + 1 - first) as f64,
        Mask::Causal => (i + 1 - first) as f64,
    };
    (first..=n).map(|i| weight(seen(i)).powi(2)).sum::<f64>().sqrt()
}

/// The lower value of two points on the eigenvalue `gamma` for ‖M ε‖ = 1 and tokens x_1 = α u, x_2 = … = x_n = β u:
/// every later token gives token 1 the weight p = 1/(1 + m e^{γ β (β - α)}), m the others that it sees, and moving
/// token 1 across u moves them all: (Σ_{i ≥ 2} p_i²)^{1/2}, p √(n - 1) without a mask \[derived\]. O(n).
pub fn two_point_lower(mask: Mask, [alpha, beta]: [f64; 2], gamma: f64, n: usize) -> f64 {
    observers(mask, 2, n, |seen| share(1.0, seen, gamma * beta * (alpha - beta)))
}

/// ‖D‖_2 of the two-point cloud for A symmetric, A u = γ u, V = I, d ≥ 2, no mask: in closed form \[derived\].
///
/// Across u and along u the Jacobian acts on (token 1, mean of the others) by 2 x 2 matrices; on differences of the
/// others by p (1 - p) (α - β)² γ. O(1).
///
/// # Example
/// ```
/// use metastable_dynamics::smoothness::worst_case::two_point_norm;
/// // R = 2, γ = -1, 128 tokens, theory's table [checked].
/// assert!((two_point_norm([-2.0, 2.0], -1.0, 128) - 14.370592).abs() < 5e-7);
/// ```
pub fn two_point_norm([alpha, beta]: [f64; 2], gamma: f64, n: usize) -> f64 {
    let (m, delta) = (n as f64 - 1.0, alpha - beta);
    let s = share(1.0, m, gamma * alpha * delta);
    let p = share(1.0, m, gamma * beta * delta);
    let (spread_s, spread_p, root) = (s * (1.0 - s) * delta * gamma, p * (1.0 - p) * delta * gamma, m.sqrt());
    if n == 1 {
        return 1.0;
    }
    let across = [s, (1.0 - s) / root, p * root, 1.0 - p];
    let along = [
        s + spread_s * (alpha + delta),
        ((1.0 - s) - spread_s * alpha) / root,
        root * (p + spread_p * beta),
        (1.0 - p) - spread_p * beta + spread_p * delta,
    ];
    let differences = if n > 2 { (spread_p * delta).abs() } else { 0.0 };
    two_by_two_norm(across).max(two_by_two_norm(along)).max(differences)
}

/// The spectral norm of [[a, b], [c, d]].
fn two_by_two_norm([a, b, c, d]: [f64; 4]) -> f64 {
    0.5 * ((a + d).hypot(c - b) + (a - d).hypot(b + c))
}

/// x_1 = α u, x_2 = … = x_n = β u.
///
/// # Errors
/// [`DynamicsError`] as [`Tokens::new`].
pub fn two_point_cloud(direction: &[f64], [alpha, beta]: [f64; 2], n: usize) -> Result<Tokens, DynamicsError> {
    let token = |i: usize| direction.iter().map(move |u| if i == 0 { alpha * u } else { beta * u });
    Tokens::new(direction.len(), (0..n).flat_map(token).collect())
}

/// x_1 = first, x_2 = second, x_3 = … = x_n = many.
fn three_clusters(first: &[f64], second: &[f64], many: &[f64], n: usize) -> Result<Tokens, DynamicsError> {
    let mut values = [first, second].concat();
    (2..n).for_each(|_| values.extend(many));
    Tokens::new(first.len(), values)
}

/// The two-point cloud of the authors' code in the ball of `radius`, from the head's own eigenpairs.
///
/// With γ_1 ≥ … ≥ γ_δ the real eigenvalues of A: α, β = -R, R on γ_δ if -γ_δ ≥ γ_1/8, else R, R/2 on γ_1. `None` if A has
/// no real eigenvalue other than 0, for fewer than two tokens, and for kernels other than softmax of dot scores.
///
/// # Errors
/// [`DynamicsError::Decomposition`]; as [`Tokens::new`] for a radius beyond f64.
pub fn two_points(
    head: &Head,
    kernel: &AttentionKernel,
    radius: f64,
    n: usize,
) -> Result<Option<WorstCase>, DynamicsError> {
    let Some((a, lowest, highest)) = real_spectrum(head, kernel, n)? else { return Ok(None) };
    let (eigenvalue, places) =
        if -lowest >= highest / 8.0 { (lowest, [-radius, radius]) } else { (highest, [radius, 0.5 * radius]) };
    let u = eigenvector(&a, eigenvalue)?;
    let moved = largest_image(&head.output_value(), &u)?.1;
    let lower = moved * two_point_lower(kernel.mask(), places, eigenvalue, n);
    Ok(Some(WorstCase { tokens: two_point_cloud(&u, places, n)?, lower, eigenvalue }))
}

/// Three clusters in the ball of `radius`: two tokens apart along u, all others at an eigenvector v that scores both
/// alike, so that a move along v tips the balance of all of them. Carries the factor γ R² that two points lack.
///
/// On a negative eigenvalue -γ: x_{1,2} = ±R u, x_i = R v, u ⊥ v; ‖D‖ ≥ √2 γ R² (Σ_{i≥3} p_i²)^{1/2} |M u|,
/// p_i = 1/(2 + m e^{-γ R²}) with m the tokens of the third cluster that i sees. On a positive one γ:
/// x_{1,2} = (R/√2)(v ± u), x_i = (R/(2√2)) v; γ R²/4 and e^{-γ R²/8} in place of γ R² and e^{-γ R²} \[derived\]. The
/// branch with the larger value is taken. `None` as [`two_points`], for d = 1 and for fewer than three tokens.
///
/// # Errors
/// As [`two_points`].
pub fn three_cluster(
    head: &Head,
    kernel: &AttentionKernel,
    radius: f64,
    n: usize,
) -> Result<Option<WorstCase>, DynamicsError> {
    let Some((a, lowest, highest)) = real_spectrum(head, kernel, n)? else { return Ok(None) };
    if head.dim() < 2 || n < 3 {
        return Ok(None);
    }
    let strength = |gamma: f64| three_cluster_lower(kernel.mask(), radius, gamma, n);
    let eigenvalue = if strength(lowest) >= strength(highest) { lowest } else { highest };
    let v = eigenvector(&a, eigenvalue)?;
    let (u, moved) = largest_image(&head.output_value(), &v)?;
    let place = |along_v: f64, along_u: f64| -> Vec<f64> {
        v.iter().zip(&u).map(|(v, u)| radius * (along_v * v + along_u * u)).collect()
    };
    let half = std::f64::consts::FRAC_1_SQRT_2;
    let tokens = if eigenvalue < 0.0 {
        three_clusters(&place(0.0, 1.0), &place(0.0, -1.0), &place(1.0, 0.0), n)?
    } else {
        three_clusters(&place(half, half), &place(half, -half), &place(0.5 * half, 0.0), n)?
    };
    Ok(Some(WorstCase { tokens, lower: moved * strength(eigenvalue), eigenvalue }))
}

/// The lower value of three clusters on the eigenvalue `gamma` of either sign, for |M u| = 1. O(n).
pub fn three_cluster_lower(mask: Mask, radius: f64, gamma: f64, n: usize) -> f64 {
    let square = gamma.abs() * radius * radius;
    let (stretch, advantage) = if gamma < 0.0 { (square, square) } else { (square / 4.0, square / 8.0) };
    // Without a mask all n - 2 others are seen; `observers` counts from the third token on.
    std::f64::consts::SQRT_2 * stretch * observers(mask, 3, n, |seen| share(2.0, seen, advantage))
}

/// A with its lowest and highest real eigenvalue.
fn real_spectrum(head: &Head, kernel: &AttentionKernel, n: usize) -> Result<Option<(Matrix, f64, f64)>, DynamicsError> {
    if (kernel.score(), kernel.normalization()) != (Score::Dot, Normalization::Softmax) || n < 2 {
        return Ok(None);
    }
    let a = head.query_key().transpose().scaled(kernel.beta());
    let scale = a.max_abs();
    // Real up to the rounding of a pair that nearly meets.
    let real = a.eigenvalues()?.into_iter().filter(|(_, im)| im.abs() <= 1e-10 * scale).map(|(re, _)| re);
    let (lowest, highest) = real.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), re| (l.min(re), h.max(re)));
    let useful = lowest.is_finite() && lowest.abs().max(highest.abs()) > 1e-14 * scale;
    Ok(useful.then_some((a, lowest, highest)))
}

/// A unit eigenvector of a real eigenvalue: the direction that A - λ I shrinks most.
fn eigenvector(a: &Matrix, eigenvalue: f64) -> Result<Vec<f64>, DynamicsError> {
    let d = a.rows();
    let shifted = a.add_scaled(-eigenvalue, &Matrix::scaled_identity(d, 1.0));
    let scale = shifted.max_abs().max(f64::MIN_POSITIVE);
    let shifted = shifted.scaled(1.0 / scale);
    let gram = shifted.transpose().multiply(&shifted);
    let gram = Matrix::from_fn(d, d, |i, j| 0.5 * (gram.at(i, j) + gram.at(j, i)));
    let (_, vectors) = gram.symmetric_eigen()?;
    Ok((0..d).map(|i| vectors.at(i, 0)).collect())
}

/// The unit vector across `axis` that M stretches most, and how much.
fn largest_image(image: &Matrix, axis: &[f64]) -> Result<(Vec<f64>, f64), DynamicsError> {
    let along: Vec<f64> = (0..image.rows()).map(|i| dot(image.row(i), axis)).collect();
    let across = Matrix::from_fn(image.rows(), image.columns(), |i, j| image.at(i, j) - along[i] * axis[j]);
    let mut top = top_singular_triplet(&across, &LanczosOptions::default())?.right;
    let own = dot(&top, axis);
    top.iter_mut().zip(axis).for_each(|(x, axis)| *x -= own * axis);
    let length = norm(&top);
    if length < 1e-8 {
        // One dimension has nothing across, and M may vanish there.
        return Ok((top, 0.0));
    }
    top.iter_mut().for_each(|x| *x /= length);
    let mut moved = vec![0.0; image.rows()];
    image.apply(&top, &mut moved);
    Ok((top, norm(&moved)))
}
