//! Gradient structures: values, and velocities as gradients.

use super::*;
use crate::gaussian::energy::{
    sinkhorn_energy, softmax_energy, squared_distance_energy, twisted_energy, twisted_energy_rate,
};

/// The symmetric A_s of the notes, section 3.
fn logits() -> Matrix {
    matrix(&[[0.4, 0.1, -0.2], [0.1, -0.3, 0.15], [-0.2, 0.15, 0.2]])
}

/// Σ_0 of the master data, centred and scaled.
fn centred(scale: f64) -> Gaussian {
    Gaussian::centred(start().covariance().scaled(scale)).unwrap()
}

/// ∂F/∂Σ by central differences: moving Σ_ij and Σ_ji together by h moves F by 2h G_ij off the diagonal.
fn gradient(functional: &dyn Fn(&Gaussian) -> f64, gaussian: &Gaussian) -> Matrix {
    let h = 1e-5;
    let moved = |i: usize, j: usize, by: f64| {
        let sigma = gaussian.covariance();
        let hit = |a: usize, b: usize| (a, b) == (i, j) || (a, b) == (j, i);
        let covariance = Matrix::from_fn(3, 3, |a, b| sigma.at(a, b) + if hit(a, b) { by } else { 0.0 });
        functional(&Gaussian::centred(covariance).unwrap())
    };
    Matrix::from_fn(3, 3, |i, j| {
        let slope = (moved(i, j, h) - moved(i, j, -h)) / (2.0 * h);
        if i == j { slope } else { 0.5 * slope }
    })
}

/// Σ' of the flow against -2(GΣ + ΣG).
#[track_caller]
fn assert_descent(functional: &dyn Fn(&Gaussian) -> f64, flow: &GaussianFlow, gaussian: &Gaussian) {
    let product = gradient(functional, gaussian).multiply(gaussian.covariance());
    let expected = product.add_scaled(1.0, &product.transpose()).scaled(-2.0);
    let (_, found) = flow.moment_velocity(gaussian).unwrap();
    assert!(found.max_abs() > 0.01, "something moves");
    // Central differences with h = 1e-5: h² third derivatives = 1e-10, and rounding eps/h = 2e-11.
    assert_near(found.as_slice(), expected.as_slice(), 2e-9);
}

#[test]
fn centred_softmax_descends_its_energy() {
    let gaussian = centred(1.0);
    let flow = flow(with_logits(&logits(), &logits()), SOFTMAX, &gaussian);
    assert_descent(&|g| softmax_energy(&logits(), g).unwrap(), &flow, &gaussian);
}

#[test]
fn centred_l2_with_tied_weights_descends_its_energy() {
    let gaussian = centred(1.0);
    let keys = key().transpose().multiply(&key());
    let head = Head::new(key(), key(), keys.clone(), None).unwrap();
    assert_descent(&|g| squared_distance_energy(&keys, g).unwrap(), &flow(head, L2, &gaussian), &gaussian);
}

#[test]
fn sinkhorn_descends_the_entropic_cost() {
    let gaussian = centred(1.0);
    let (a, epsilon) = (logits(), 0.5);
    // Printed with ten digits.
    assert_near(&[sinkhorn_energy(&a, epsilon, &gaussian).unwrap()], &[-0.2620815293], 5e-11);
    let flow = flow(with_logits(&a, &a), sinkhorn(epsilon), &gaussian);
    assert_descent(&|g| sinkhorn_energy(&a, epsilon, g).unwrap() / (2.0 * epsilon), &flow, &gaussian);
}

#[test]
fn the_twisted_energy_grows_at_its_rate_and_is_infinite_for_wide_gaussians() {
    let gaussian = centred(0.5);
    let energy = |g: &Gaussian| twisted_energy(&logits(), g).unwrap();
    let rate = twisted_energy_rate(&logits(), &gaussian).unwrap().unwrap();
    // Printed with 13 digits.
    assert_near(&[energy(&gaussian).unwrap(), rate], &[0.5228909131783, 0.0126614891915], 1e-13);
    let flow = flow(with_logits(&logits(), &logits()), SOFTMAX, &gaussian);
    let h = 1e-3;
    let later = [h, 2.0 * h].map(|t| energy(&at(&flow, &gaussian, t)).unwrap());
    let slope = (-3.0 * energy(&gaussian).unwrap() + 4.0 * later[0] - later[1]) / (2.0 * h);
    // A one-sided difference of second order: h² times a third derivative of order one.
    assert_near(&[slope], &[rate], 1e-6);
    assert_eq!(energy(&centred(10.0)), None);
}

/// The exception of the notes, 2.3.4: V > 0, A = -QᵀQ with V neither scalar nor Q of rank one: the limit has the
/// proven rank, but need not be N(NᵀΣ_0⁻¹N)⁻¹Nᵀ; the least eigenvalue dies like a power of t all the same.
#[test]
fn limits_lie_above_what_the_kernel_keeps() {
    use crate::gaussian::Invariants;
    let value = matrix(&[[1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.2]]);
    for seed in 0..6_u64 {
        let draw = |stream: u64, rows: usize| {
            Matrix::new("m", rows, 4, crate::random::standard_normal(9 * seed + stream, rows, 4))
        };
        let factor = draw(1, 4).unwrap();
        let start = Gaussian::centred(factor.multiply(&factor.transpose())).unwrap();
        let flow = flow(repulsive(&draw(2, 2).unwrap(), &value), SOFTMAX, &start);
        let basis = Invariants::of(&flow).unwrap().kernel().unwrap().clone();
        let kept =
            basis.transpose().multiply(&start.covariance().inverse().unwrap()).multiply(&basis).inverse().unwrap();
        let kept = basis.multiply(&kept).multiply(&basis.transpose());
        let end = late(&flow, &start, 1e6);
        let gap = end.covariance().add_scaled(-1.0, &kept);
        let gap = gap.add_scaled(1.0, &gap.transpose()).scaled(0.5);
        let least = gap.symmetric_eigen().unwrap().0[0];
        // Σ(t) >= Σ_c for all t by the Schur complement of the conserved block; rounding of eigenvalues up to 10.
        assert!(least > -1e-8, "seed {seed}: {least:e}");
    }
}
