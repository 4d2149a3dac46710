//! Where tokens end on the sphere.

use metastable_dynamics::attention::AttentionKernel;
use metastable_dynamics::closed_form::drift::critical_time;
use metastable_dynamics::linalg::dot;
use metastable_dynamics::observe::cloud::diameter;
use metastable_dynamics::{Head, Matrix, TokensRef, random};

use super::world::{on_sphere, unnormalised, with_value};
use super::{Law, Measured};

pub(super) const LAWS: &[Law] = &[
    Law {
        name: "all_tokens_on_the_sphere_gather_at_one_point",
        source: "2312.10794: single cluster, d >= 3, n = 64, beta = 1, T = 15",
        provenance: "text, lean",
        tolerance: 1e-3,
        because: "the diameter closes at rate e^{-t} once all tokens share a hemisphere, here from t = 8 or so on",
        measure: single_cluster,
    },
    Law {
        name: "a_collapsed_cloud_leaves_under_an_adapter_at_the_critical_time",
        source: "theory 2.2, sphere: tan theta(t) = tan theta_0 e^{-eps (mu_1 - mu_2) t}; beside 2402.15415v2 Theorem 4.6",
        provenance: "derived",
        tolerance: 1e-9,
        because: "solver tolerance 1e-12 over 50 time units",
        measure: depth_transition,
    },
];

fn single_cluster() -> Measured {
    let start = random::sphere(40, 64, 3);
    let mut worst = 0.0_f64;
    for kernel in [AttentionKernel::softmax(1.0)?, unnormalised(1.0)?] {
        let end = on_sphere(&Head::identity(3), kernel, &start, &[15.0])?;
        worst = worst.max(diameter(TokensRef::new(3, &end[0])));
    }
    Ok(worst)
}

fn depth_transition() -> Measured {
    let (theta, delta, epsilon) = (1.1_f64, 0.4, 0.02);
    // M = diag(1, -0.5, 0): u_1 = e_1, and the start lies in the plane of e_1 and e_2.
    let value =
        Matrix::from_rows("value", &[[1.0 + epsilon, 0.0, 0.0], [0.0, 1.0 - 0.5 * epsilon, 0.0], [0.0, 0.0, 1.0]])?;
    let token = [theta.cos(), theta.sin(), 0.0];
    let time = critical_time(theta, delta, 1.5 * epsilon);
    let end = on_sphere(&with_value(value)?, AttentionKernel::softmax(1.0)?, &token.repeat(5), &[time])?;
    let angle = dot(&end[0][..3], &token).clamp(-1.0, 1.0).acos();
    Ok((angle - delta).abs())
}
