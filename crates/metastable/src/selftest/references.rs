//! Reference values of kernels that have no Gaussian flow, of tokens on spheres, and of Sinkhorn's alternation: theory of
//! the PDE, sections 2.1 and 5.3.

use metastable_dynamics::attention::{AttentionKernel, Mask, Normalization, Score};
use metastable_dynamics::closed_form::noisy_sphere::{critical_beta, linear_threshold};
use metastable_dynamics::gaussian::closed_form::coupling::sweep_contraction;
use metastable_dynamics::gaussian::closed_form::open::{
    masked_field, probit_field, sigmoid_field, sigmoid_gain, sigmoid_kurtosis_rate,
};
use metastable_dynamics::linalg::dot;
use metastable_dynamics::{Head, TokensRef};

use super::equiangular::equiangular;
use super::world::on_sphere;
use super::{Law, Measured};

pub(super) const LAWS: &[Law] = &[
    Law {
        name: "equiangular_tokens_reach_their_reference_cosines",
        source: "theory 5.3: n = 4, beta = 2, rho = .1 at t = 1.5: .66487463041654 (SA), .99999981572283 (USA)",
        provenance: "lean, derived",
        tolerance: 1e-11,
        because: "printed with 14 digits; solver tolerance 1e-13 a step",
        measure: reference_cosines,
    },
    Law {
        name: "noise_keeps_tokens_uniform_up_to_its_reference_thresholds",
        source: "2606.05140, abstract: K_# = b^{d/2}/(2^{d/2} Gamma(d/2) I_{d/2}(b)); beta_* where I_{d/2+1}/I_{d/2} = 1/d",
        provenance: "2nd, derived",
        tolerance: 1e-11,
        because: "digits of the table",
        measure: noisy_thresholds,
    },
    Law {
        name: "kernels_without_closure_have_their_reference_fields_on_gaussians",
        source: "theory 5.3: sigmoid by Stein's lemma, probit, masked N(tau, s); kurtosis -0.3030639113 of the sigmoid",
        provenance: "derived",
        tolerance: 5e-11,
        because: "digits of the table",
        measure: open_fields,
    },
    Law {
        name: "sinkhorns_alternation_contracts_quadratic_potentials_by_r_to_the_fourth",
        source: "theory 2.1: F <- A'(1/S + G)^-1 A/eps^2 and back; r = 2s/(1 + sqrt(1 + 4s^2)); .1899046834 at s = 1.17",
        provenance: "derived",
        tolerance: 1e-8,
        because: "a central difference of step 1e-4",
        measure: contraction,
    },
];

fn reference_cosines() -> Measured {
    let plain = AttentionKernel::new(Score::Dot, Normalization::Exponential, Mask::Full, 2.0)?;
    let mut worst = 0.0_f64;
    for (kernel, expected) in [(AttentionKernel::softmax(2.0)?, 0.66487463041654), (plain, 0.99999981572283)] {
        let states = on_sphere(&Head::identity(4), kernel, &equiangular(4, 0.1), &[1.5])?;
        let tokens = TokensRef::new(4, &states[0]);
        worst = worst.max((dot(tokens.token(0), tokens.token(2)) - expected).abs());
    }
    Ok(worst)
}

fn noisy_thresholds() -> Measured {
    let table = [
        (2, 2.446918311289, 0.88470661884),
        (3, 1.8161545254359, 1.35914091423),
        (4, 1.5752571500921, 1.84165223925),
        (8, 1.2665530245211, 3.80570301099),
    ];
    let off = |(d, beta, threshold): (usize, f64, f64)| {
        (critical_beta(d) - beta).abs().max((linear_threshold(d, 1.0) - threshold).abs())
    };
    Ok(table.into_iter().map(off).fold(0.0, f64::max))
}

fn open_fields() -> Measured {
    let gains = [(0.25, 0.23604442243988), (1.0, 0.20662096414191), (4.0, 0.15142637740054), (25.0, 0.075144854427983)];
    let pairs = [
        (sigmoid_field([0.3, 0.7], 0.88, 1.0, 1.2), 0.32573604826739),
        (probit_field([0.3, 0.7], 0.88, 1.0, 1.2), 0.39300668216509),
        (sigmoid_kurtosis_rate(), -0.3030639113),
        (masked_field(0.7, 0.88, 1.0, 0.6, 1.2), 1.07067004084688),
    ];
    let gains = gains.map(|(w, gain)| (sigmoid_gain(w), gain));
    Ok(pairs.into_iter().chain(gains).map(|(found, expected)| (found - expected).abs()).fold(0.0, f64::max))
}

fn contraction() -> Measured {
    let mut worst = (sweep_contraction(1.17) - 0.1899046834).abs();
    for s in [0.3_f64, 1.17, 4.0] {
        let sweep = |g: f64| s * s / (1.0 + s * s / (1.0 + g));
        let (limit, h) = (0.5 * (1.0_f64.hypot(2.0 * s) - 1.0), 1e-4);
        let observed = (sweep(limit + h) - sweep(limit - h)) / (2.0 * h);
        worst = worst.max((observed - sweep_contraction(s)).abs());
    }
    Ok(worst)
}
