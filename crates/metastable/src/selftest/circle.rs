//! Ripples of equally spaced tokens on the circle: theory section 6, item 9.

use std::f64::consts::TAU;

use metastable_dynamics::Head;
use metastable_dynamics::attention::AttentionKernel;
use metastable_dynamics::closed_form::circle::{mode_growth, mode_growth_limit, most_unstable_mode};
use metastable_dynamics::closed_form::equiangular::Weights;
use metastable_dynamics::field::Placement;

use super::world::{unnormalised, velocity};
use super::{Law, Measured};

pub(super) const LAWS: &[Law] = &[
    Law {
        name: "ripples_on_the_circle_grow_at_the_linear_rate",
        source: "theory item 9: eigenvalues at n equispaced tokens, SA and USA",
        provenance: "derived",
        tolerance: 1e-6,
        because: "relative to the largest rate; central difference at amplitude 1e-4: (k beta 1e-4)² of next order",
        measure: ripples,
    },
    Law {
        name: "many_tokens_on_the_circle_ripple_by_bessel_functions",
        source: "theory item 9: k² I_k(b)/b, and divided by I_0(b) under softmax",
        provenance: "derived",
        tolerance: 1e-12,
        because: "relative to I_0; the sum over 64 tokens is the trapezoidal rule, exact to rounding",
        measure: bessel,
    },
    Law {
        name: "uniform_tokens_on_the_circle_select_the_most_unstable_mode",
        source: "2410.23228: argmax k² I_k(beta) = 1, 2, 3, 4, 6, 7, 11, 14 for beta = 1, 2, 4, 9, 16, 25, 64, 100",
        provenance: "text, derived",
        tolerance: 0.0,
        because: "integers",
        measure: mode_selection,
    },
];

/// The rate of the ripple cos(2 pi k m/n) read off the velocity at amplitudes ±1e-4.
fn measured_growth(kernel: AttentionKernel, n: usize, mode: usize) -> Measured {
    const AMPLITUDE: f64 = 1e-4;
    let ripple = |m: usize| (TAU * ((mode * m) % n) as f64 / n as f64).cos();
    let mut projected = [0.0; 2];
    for (sign, projected) in [1.0, -1.0].into_iter().zip(&mut projected) {
        let angles: Vec<f64> = (0..n).map(|m| TAU * m as f64 / n as f64 + sign * AMPLITUDE * ripple(m)).collect();
        let state: Vec<f64> = angles.iter().flat_map(|a| [a.cos(), a.sin()]).collect();
        let velocity = velocity(&Head::identity(2), kernel, Placement::Tangent, &state)?;
        for (m, (a, v)) in angles.iter().zip(velocity.chunks_exact(2)).enumerate() {
            *projected += ripple(m) * (a.cos() * v[1] - a.sin() * v[0]);
        }
    }
    let square: f64 = (0..n).map(|m| ripple(m).powi(2)).sum();
    Ok((projected[0] - projected[1]) / (2.0 * AMPLITUDE * square))
}

fn ripples() -> Measured {
    let mut worst = 0.0_f64;
    for (n, beta) in [(16, 1.0), (24, 4.0), (64, 9.0)] {
        for (weights, kernel) in
            [(Weights::Softmax, AttentionKernel::softmax(beta)?), (Weights::Unnormalised, unnormalised(beta)?)]
        {
            let rate = |mode: usize| mode_growth(weights, n, mode, beta);
            let scale = (1..n / 2).map(|mode| rate(mode).abs()).fold(0.0, f64::max);
            for mode in 1..7 {
                worst = worst.max((measured_growth(kernel, n, mode)? - rate(mode)).abs() / scale);
            }
        }
    }
    Ok(worst)
}

fn bessel() -> Measured {
    let mut worst = 0.0_f64;
    for beta in [1.0_f64, 4.0, 9.0] {
        for mode in 1..12 {
            for weights in [Weights::Softmax, Weights::Unnormalised] {
                let scale = if weights == Weights::Softmax { 1.0 } else { beta.exp() };
                let difference = mode_growth(weights, 64, mode, beta) - mode_growth_limit(weights, mode, beta);
                worst = worst.max(difference.abs() / scale);
            }
        }
    }
    Ok(worst)
}

fn mode_selection() -> Measured {
    let expected = [(1.0, 1), (2.0, 2), (4.0, 3), (9.0, 4), (16.0, 6), (25.0, 7), (64.0, 11), (100.0, 14)];
    Ok(expected.into_iter().filter(|(beta, mode)| most_unstable_mode(*beta) != *mode).count() as f64)
}
