//! Where a head pulls tokens in the long run, and how far an adapter turns that direction.

use crate::error::DynamicsError;
use crate::head::Head;
use crate::linalg::{Matrix, dot, norm};
use crate::observe::stability::leading_drift;

/// The leading eigenvector of the symmetric part of W V, before and after an update Δ of that part.
///
/// With u the leading unit eigenvector, λ_1 - λ_2 its gap, a = uᵀΔu, b = PΔu and E = PΔP, P the projection beside u:
/// the inequality gap + a > 2|b| + ‖E‖ guarantees that tokens of a head with A = V symmetric positive still gather at
/// one direction, near the old one. Real heads are not symmetric: this is a statement about the symmetric part.
///
/// # References
/// "Understanding catastrophic forgetting in LoRA via mean-field attention dynamics" (arXiv 2402.15415v2), proposition
/// 3.3 \[2nd\], through [`leading_drift`]; the sharper tan 2θ <= 2|b|/(gap + a - ‖E‖), an equality in the plane, is \[derived, checked\].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LeadingDirection {
    /// λ_1 before.
    pub eigenvalue: f64,
    /// λ_1 - λ_2 before.
    pub gap: f64,
    /// uᵀΔu.
    pub a: f64,
    /// |PΔu|.
    pub b: f64,
    /// ‖PΔP‖.
    pub e: f64,
    /// Whether gap + a > 2|b| + ‖E‖.
    pub holds: bool,
    /// 2|b|/(gap + a - ‖E‖); none unless gap + a > ‖E‖.
    pub tan_double_angle_bound: Option<f64>,
    /// The angle between the leading eigenvectors before and after, in [0, π/2].
    pub angle: f64,
}

/// The leading direction of a head under an adapter; none if the symmetric part of W V has no positive eigenvalue.
///
/// Everything happens in the joint range of the factors, of dimension k <= 4·head_dim. O(d k² + k³).
///
/// # Errors
/// [`DynamicsError::Shape`] for heads of different dimensions; [`DynamicsError::Decomposition`].
pub fn leading_direction(base: &Head, adapted: &Head) -> Result<Option<LeadingDirection>, DynamicsError> {
    if base.dim() != adapted.dim() {
        return Err(DynamicsError::shape("adapted head", format!("dimension {}", base.dim()), adapted.dim()));
    }
    let basis = joint_range(base, adapted);
    let (before, after) = (symmetric_core(base, &basis), symmetric_core(adapted, &basis));
    let k = before.rows();
    let (values, vectors) = before.symmetric_eigen()?;
    let eigenvalue = values[k - 1];
    if eigenvalue <= 0.0 {
        return Ok(None);
    }
    let drift = leading_drift(&before, &after.add_scaled(-1.0, &before))?;
    let u: Vec<f64> = (0..k).map(|i| vectors.at(i, k - 1)).collect();
    Ok(Some(LeadingDirection {
        eigenvalue,
        gap: if drift.gap.is_finite() { drift.gap } else { eigenvalue },
        a: drift.along,
        b: drift.across,
        e: drift.rest,
        holds: drift.is_stable,
        tan_double_angle_bound: drift.tan_two_theta,
        angle: angle(&u, &after)?,
    }))
}

/// The angle between u and the leading eigenvector of a symmetric matrix; accurate where it is small.
fn angle(u: &[f64], after: &Matrix) -> Result<f64, DynamicsError> {
    let k = u.len();
    let vectors = after.symmetric_eigen()?.1;
    let v: Vec<f64> = (0..k).map(|i| vectors.at(i, k - 1)).collect();
    let along = dot(u, &v);
    let across: Vec<f64> = v.iter().zip(u).map(|(v, u)| v - along * u).collect();
    Ok(norm(&across).atan2(along.abs()))
}

/// An orthonormal basis [d, k] of the sum of the ranges of W, Vᵀ and their adapted twins.
fn joint_range(base: &Head, adapted: &Head) -> Matrix {
    let mut columns: Vec<Vec<f64>> = Vec::new();
    let mut add = |matrix: &Matrix| {
        let rows = (0..matrix.rows()).map(|i| matrix.row(i).to_vec());
        columns.extend(rows);
    };
    add(base.value());
    if adapted.value() != base.value() {
        add(adapted.value());
    }
    if let Some(output) = base.output() {
        add(&output.transpose());
    }
    if let Some(output) = adapted.output().filter(|output| Some(*output) != base.output()) {
        add(&output.transpose());
    }
    // A whole V without W maps into all of R^d.
    if base.output().is_none() {
        return Matrix::scaled_identity(base.dim(), 1.0);
    }
    Matrix::from_fn(base.dim(), columns.len(), |i, j| columns[j][i]).thin_qr().0
}

/// The symmetric part of W V in a basis [d, k]: (M + Mᵀ)/2 with M = (QᵀW)(V Q). Where the basis does not fill R^d, one
/// direction of the rest stands for all of it: there both parts are 0.
fn symmetric_core(head: &Head, basis: &Matrix) -> Matrix {
    let value = head.value().multiply(basis);
    let core = match head.output() {
        Some(output) => basis.transpose().multiply(output).multiply(&value),
        None => basis.transpose().multiply(&value),
    };
    let k = core.rows();
    let side = k + usize::from(k < head.dim());
    Matrix::from_fn(side, side, |i, j| if i.max(j) < k { 0.5 * (core.at(i, j) + core.at(j, i)) } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;

    fn symmetric(seed: u64, d: usize, size: f64) -> Matrix {
        let noise = random::standard_normal(seed, d, d);
        Matrix::from_fn(d, d, |i, j| size * (noise[i * d + j] + noise[j * d + i]))
    }

    fn with_value(value: Matrix) -> Head {
        let identity = Matrix::scaled_identity(value.rows(), 1.0);
        Head::new(identity.clone(), identity, value, None).unwrap()
    }

    #[test]
    fn the_leading_direction_turns_by_no_more_than_the_bound() {
        let mut checked = 0;
        for seed in 0..200 {
            let d = 2 + (seed % 7) as usize;
            let base = symmetric(seed, d, 1.0).add_scaled(1.0, &Matrix::scaled_identity(d, 4.0));
            let adapted = base.add_scaled(1.0, &symmetric(1000 + seed, d, 0.1));
            let found = leading_direction(&with_value(base), &with_value(adapted)).unwrap();
            let Some(found) = found else { continue };
            if let Some(bound) = found.tan_double_angle_bound.filter(|_| found.angle < std::f64::consts::FRAC_PI_4) {
                let tangent = (2.0 * found.angle).tan();
                // Rounding of eigenvectors: eps over the relative gap.
                assert!(tangent <= bound * (1.0 + 1e-9) + 1e-12, "{seed}: {tangent} {bound}");
                if d == 2 {
                    // PΔP is then a number e, and the law with its sign is an equality; |e| makes it a bound.
                    assert!(tangent > 0.0);
                }
                checked += 1;
            }
        }
        assert!(checked > 100, "{checked}");
    }

    #[test]
    fn in_the_plane_the_bound_is_reached() {
        let base = Matrix::from_rows("v", &[[2.0, 0.0], [0.0, 1.0]]).unwrap();
        let adapted = Matrix::from_rows("v", &[[2.1, 0.3], [0.3, 1.2]]).unwrap();
        let found = leading_direction(&with_value(base), &with_value(adapted)).unwrap().unwrap();
        let expected = LeadingDirection {
            eigenvalue: 2.0,
            gap: 1.0,
            a: 0.1,
            b: 0.3,
            e: 0.2,
            holds: true,
            tan_double_angle_bound: Some(0.6 / 0.9),
            angle: 0.5 * (0.6_f64 / 0.9).atan(),
        };
        for (found, expected) in [
            (found.gap, expected.gap),
            (found.a, expected.a),
            (found.b, expected.b),
            (found.e, expected.e),
            (found.angle, expected.angle),
            (found.tan_double_angle_bound.unwrap(), 0.6 / 0.9),
        ] {
            assert!((found - expected).abs() < 1e-14, "{found} {expected}");
        }
        assert!(found.holds);
    }

    #[test]
    fn an_update_beside_the_leading_direction_does_not_turn_it() {
        let base = Matrix::from_fn(3, 3, |i, j| if i == j { [3.0, 1.0, 0.5][i] } else { 0.0 });
        let beside = Matrix::from_rows("v", &[[0.0, 0.0, 0.0], [0.0, 0.4, 0.2], [0.0, 0.2, -0.3]]).unwrap();
        let found = leading_direction(&with_value(base.clone()), &with_value(base.add_scaled(1.0, &beside)));
        let found = found.unwrap().unwrap();
        assert!(found.b < 1e-15 && found.angle < 1e-15 && found.holds);
        assert_eq!(found.tan_double_angle_bound.map(|bound| bound < 1e-14), Some(true));
    }

    #[test]
    fn thin_factors_give_what_the_dense_product_gives() {
        let (d, m) = (12, 2);
        let thin = |seed, rows, columns| {
            Matrix::new("thin", rows, columns, random::standard_normal(seed, rows, columns)).unwrap()
        };
        let (output, value, change) = (thin(1, d, m), thin(2, m, d), thin(3, m, d));
        let identity = Matrix::scaled_identity(d, 1.0);
        let head = |value: Matrix, output| Head::new(identity.clone(), identity.clone(), value, output).unwrap();
        let adapted = value.add_scaled(0.05, &change);
        let dense = |value: &Matrix| {
            let product = output.multiply(value);
            head(product.add_scaled(1.0, &product.transpose()).scaled(0.5), None)
        };
        let whole = leading_direction(&dense(&value), &dense(&adapted)).unwrap().unwrap();
        let found = leading_direction(&head(value, Some(output.clone())), &head(adapted, Some(output.clone())));
        let found = found.unwrap().unwrap();
        for (x, y) in [
            (found.gap, whole.gap),
            (found.a, whole.a),
            (found.b, whole.b),
            (found.e, whole.e),
            (found.angle, whole.angle),
        ] {
            assert!((x - y).abs() < 1e-12 * (1.0 + y.abs()), "{found:?} {whole:?}");
        }
    }
}
