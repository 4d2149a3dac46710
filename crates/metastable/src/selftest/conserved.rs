//! What is conserved, solvable or monotone: theory section 6, items 2 to 7.

use metastable_dynamics::attention::statistics::{log_energy, weights};
use metastable_dynamics::attention::streaming::attend_relative;
use metastable_dynamics::attention::{AttentionKernel, Mask, Normalization, Projections, Score};
use metastable_dynamics::closed_form::tokens::{cross_ratio, free_token, free_token_on_sphere, without_scores};
use metastable_dynamics::field::{ParticleFlow, Placement, VectorField};
use metastable_dynamics::geometry::Euclidean;
use metastable_dynamics::{DynamicsError, Head, Matrix, TokensRef, random};

use super::world::{
    along, follow, in_space, largest_difference, largest_fall, least, most, on_sphere, precise, random_matrix,
    random_rotation, times, unnormalised, velocity, with_value,
};
use super::{Law, Measured};

pub(super) const LAWS: &[Law] = &[
    Law {
        name: "cross_ratios_are_conserved_at_beta_zero",
        source: "theory item 2: any sphere, any V",
        provenance: "derived",
        tolerance: 1e-10,
        because: "relative; solver tolerance 1e-12, tokens approach each other by a factor of about 10",
        measure: cross_ratios,
    },
    Law {
        name: "attention_without_scores_shifts_all_tokens_alike",
        source: "theory item 3: x_i(t) = x_i(0) + (e^{tV} - I) mean",
        provenance: "derived",
        tolerance: 1e-10,
        because: "relative to the largest coordinate; solver tolerance 1e-12",
        measure: no_scores,
    },
    Law {
        name: "one_token_and_consensus_move_by_the_exponential_of_v",
        source: "theory item 4: e^{tV} x, on the sphere normalised",
        provenance: "derived",
        tolerance: 1e-10,
        because: "relative to the largest coordinate; solver tolerance 1e-12",
        measure: consensus,
    },
    Law {
        name: "the_energy_grows_by_the_square_of_the_speed",
        source: "2312.10794 section 3: dE/dt = (1/n) sum |x_i'|² (USA), (1/n²) sum Z_i |x_i'|² (SA)",
        provenance: "text, lean",
        tolerance: 1e-8,
        because: "relative; five-point difference of step h = 2e-3: h^4 = 1.6e-11, and dense output at 1e-12 divided by h",
        measure: energy_identity,
    },
    Law {
        name: "the_energy_is_monotone_and_below_its_maximum",
        source: "2312.10794 section 3: E increases to at most e^beta/(2 beta); V = -I decreases it",
        provenance: "text, lean",
        tolerance: 1e-12,
        because: "relative violation; rounding of a sum of 81 exponentials",
        measure: energy_monotone,
    },
    Law {
        name: "partition_functions_lie_between_their_bounds",
        source: "theory item 6: e^{-beta} n <= Z_i <= e^beta n",
        provenance: "lean",
        tolerance: 1e-14,
        because: "relative violation; attained by antipodes and by consensus up to rounding",
        measure: partition_bounds,
    },
    Law {
        name: "the_least_projection_in_a_hemisphere_never_falls",
        source: "2312.10794: V = I, <x_i, w> > 0; 2402.15415v2 setting A = V PSD, w = u_1",
        provenance: "lean, derived",
        tolerance: 1e-10,
        because: "violation; solver tolerance 1e-12",
        measure: hemisphere,
    },
    Law {
        name: "doubly_stochastic_attention_moves_the_mean_by_the_exponential_of_v",
        source: "theory item 7, first half: mean(x(t)) = e^{tV} mean(x(0)); weights normalised here, by Sinkhorn's steps",
        provenance: "derived",
        tolerance: 1e-9,
        because: "relative; columns sum to one within 1e-13, solver tolerance 1e-12 over a time of 1",
        measure: doubly_stochastic_mean,
    },
    Law {
        name: "symmetric_weights_keep_the_mean_of_relative_attention",
        source: "theory item 7, second half: sum_ij P_ij (z_j - z_i) = 0 for symmetric unnormalised weights",
        provenance: "derived",
        tolerance: 1e-12,
        because: "conserved by every stage of the solver; rounding only",
        measure: symmetric_mean,
    },
];

fn cross_ratios() -> Measured {
    let start = random::sphere(2, 5, 3);
    let mut worst = 0.0_f64;
    for value in [Matrix::scaled_identity(3, 1.0), random_matrix(3, 3, 3, 0.8)] {
        let end = on_sphere(&with_value(value)?, AttentionKernel::softmax(0.0)?, &start, &[1.5])?;
        for tokens in [[0, 1, 2, 3], [1, 4, 3, 2]] {
            let before = cross_ratio(TokensRef::new(3, &start), tokens);
            worst = worst.max((cross_ratio(TokensRef::new(3, &end[0]), tokens) / before - 1.0).abs());
        }
    }
    Ok(worst)
}

fn no_scores() -> Measured {
    let value = random_matrix(4, 3, 3, 0.5);
    let zero = Matrix::scaled_identity(3, 0.0);
    let head = Head::new(zero.clone(), zero, value.clone(), None)?;
    let start = random::standard_normal(5, 6, 3);
    let end = in_space(&head, AttentionKernel::softmax(1.0)?, &start, &[2.0])?;
    let exact = without_scores(TokensRef::new(3, &start), &value, 2.0)?;
    let scale = most(&exact.as_slice().iter().map(|x| x.abs()).collect::<Vec<_>>());
    Ok(largest_difference(&end[0], exact.as_slice()) / scale)
}

fn consensus() -> Measured {
    let value = random_matrix(6, 3, 3, 0.7);
    let head = with_value(value.clone())?;
    let token = random::sphere(7, 1, 3);
    let mut worst = 0.0_f64;
    for copies in [1, 4] {
        let start = token.repeat(copies);
        let kernel = AttentionKernel::softmax(1.3)?;
        let exact = free_token(&token, &value, 2.0)?;
        let scale = most(&exact.iter().map(|x| x.abs()).collect::<Vec<_>>());
        let end = in_space(&head, kernel, &start, &[2.0])?;
        worst = worst.max(largest_difference(&end[0], &exact.repeat(copies)) / scale);
        let exact = free_token_on_sphere(&token, &value, 2.0)?;
        let end = on_sphere(&head, kernel, &start, &[2.0])?;
        worst = worst.max(largest_difference(&end[0], &exact.repeat(copies)));
    }
    Ok(worst)
}

/// E of a state, through the kernel's statistics.
fn energy(head: &Head, beta: f64, state: &[f64]) -> Measured {
    let count = state.len() / head.dim();
    let field = ParticleFlow::new(vec![head.clone()], AttentionKernel::softmax(beta)?, count, Placement::Tangent)?;
    Ok(log_energy(&field.projections(0, state)).map_or(f64::NAN, f64::exp))
}

/// Z_i = Σ_j e^{beta <x_i, x_j>}: n times the row sums of the unnormalised weights.
fn partition_functions(beta: f64, dim: usize, state: &[f64]) -> Result<Vec<f64>, DynamicsError> {
    let count = state.len() / dim;
    let kernel = unnormalised(beta)?;
    let field = ParticleFlow::new(vec![Head::identity(dim)], kernel, count, Placement::Tangent)?;
    let weights = weights(&field.projections(0, state), &kernel);
    Ok((0..count).map(|i| count as f64 * weights.row(i).iter().sum::<f64>()).collect())
}

fn energy_identity() -> Measured {
    const STEP: f64 = 2e-3;
    let (beta, n, dim) = (3.0, 7, 4);
    let start = random::sphere(8, n, dim);
    let mut worst = 0.0_f64;
    for sign in [1.0, -1.0] {
        let head = with_value(Matrix::scaled_identity(dim, sign))?;
        for (kernel, is_softmax) in [(AttentionKernel::softmax(beta)?, true), (unnormalised(beta)?, false)] {
            let around = [-2.0, -1.0, 0.0, 1.0, 2.0].map(|k| 0.2 + k * STEP);
            let states = on_sphere(&head, kernel, &start, &around)?;
            let e = states.iter().map(|s| energy(&head, beta, s)).collect::<Result<Vec<_>, _>>()?;
            let slope = (e[0] - 8.0 * e[1] + 8.0 * e[3] - e[4]) / (12.0 * STEP);
            let velocity = velocity(&head, kernel, Placement::Tangent, &states[2])?;
            let partition = partition_functions(beta, dim, &states[2])?;
            let squares = velocity.chunks_exact(dim).map(|v| v.iter().map(|c| c * c).sum::<f64>());
            let count = n as f64;
            let exact: f64 = squares
                .zip(&partition)
                .map(|(square, z)| square * if is_softmax { z / (count * count) } else { 1.0 / count })
                .sum();
            worst = worst.max((slope / (sign * exact) - 1.0).abs());
        }
    }
    Ok(worst)
}

fn energy_monotone() -> Measured {
    let (beta, dim) = (3.0_f64, 3);
    let start = random::sphere(9, 9, dim);
    let highest = beta.exp() / (2.0 * beta);
    let mut worst = 0.0_f64;
    for sign in [1.0, -1.0] {
        let head = with_value(Matrix::scaled_identity(dim, sign))?;
        for kernel in [AttentionKernel::softmax(beta)?, unnormalised(beta)?] {
            let states = on_sphere(&head, kernel, &start, &times(4.0, 41))?;
            let energies = states.iter().map(|s| energy(&head, beta, s)).collect::<Result<Vec<_>, _>>()?;
            let signed: Vec<f64> = energies.iter().map(|e| sign * e).collect();
            let moved = (energies[40] / energies[0] - 1.0).abs();
            // A flow at rest would be monotone too.
            if moved < 0.05 {
                return Ok(f64::INFINITY);
            }
            worst = worst.max(largest_fall(&signed) / highest).max(most(&energies) / highest - 1.0);
        }
    }
    Ok(worst)
}

fn partition_bounds() -> Measured {
    let mut worst = 0.0_f64;
    for beta in [0.5_f64, 4.0] {
        let clouds = [random::sphere(11, 8, 3), [0.0, 0.6, 0.8].repeat(8), vec![0.6, 0.8, -0.6, -0.8]];
        for (state, dim) in clouds.iter().zip([3, 3, 2]) {
            let n = (state.len() / dim) as f64;
            for z in partition_functions(beta, dim, state)? {
                worst = worst.max(z / (n * beta.exp()) - 1.0).max(n * (-beta).exp() / z - 1.0);
            }
        }
    }
    Ok(worst)
}

fn hemisphere() -> Measured {
    let mut worst = 0.0_f64;
    // Any Q and K with V = I.
    let w = [0.0, 0.0, 1.0];
    let raised: Vec<f64> = random::sphere(12, 10, 3).chunks_exact(3).flat_map(|x| [x[0], x[1], x[2].abs()]).collect();
    let head =
        Head::new(random_matrix(13, 3, 3, 1.0), random_matrix(14, 3, 3, 1.0), Matrix::scaled_identity(3, 1.0), None)?;
    let states = on_sphere(&head, AttentionKernel::softmax(1.0)?, &raised, &times(6.0, 61))?;
    let lowest: Vec<f64> = states.iter().map(|s| least(&along(s, &w))).collect();
    worst = worst.max(largest_fall(&lowest));
    // A = QᵀK = V PSD, w its leading eigenvector: the cloud also converges to it.
    let rotation = random_rotation(15, 4)?;
    let spectrum = [0.1, 0.5, 1.0, 2.0];
    let scaled = Matrix::from_fn(4, 4, |i, j| rotation.at(i, j) * spectrum[j]);
    let value = scaled.multiply(&rotation.transpose());
    let leading: Vec<f64> = (0..4).map(|i| rotation.at(i, 3)).collect();
    let head = Head::new(Matrix::scaled_identity(4, 1.0), value.clone(), value, None)?;
    let mut start = random::sphere(16, 8, 4);
    for token in start.chunks_exact_mut(4) {
        let side = metastable_dynamics::linalg::dot(token, &leading).signum();
        token.iter_mut().for_each(|x| *x *= side);
    }
    let states = on_sphere(&head, AttentionKernel::softmax(1.0)?, &start, &times(40.0, 81))?;
    let lowest: Vec<f64> = states.iter().map(|s| least(&along(s, &leading))).collect();
    // The slowest direction closes at e^{-2 t}: nothing is left at t = 40.
    Ok(worst.max(largest_fall(&lowest)).max(1.0 - lowest[80]))
}

/// z_i' = Σ_j P_ij (z_j - z_i) with weights of any kernel.
struct RelativeFlow {
    kernel: AttentionKernel,
    dim: usize,
    count: usize,
}

impl VectorField for RelativeFlow {
    fn len(&self) -> usize {
        self.dim * self.count
    }

    fn block_len(&self) -> usize {
        self.dim
    }

    fn evaluate(&self, _t: f64, state: &[f64], velocity: &mut [f64]) {
        let identity = Matrix::scaled_identity(self.dim, 1.0);
        let mut projections = Projections::zeros(self.count, self.dim, self.dim);
        projections.fill(&self.kernel, 1.0, state, [&identity, &identity, &identity]);
        attend_relative(&projections, &self.kernel, velocity);
    }
}

fn symmetric_mean() -> Measured {
    let (n, dim) = (9, 3);
    let start = random::uniform(17, n, dim, 0.0, 1.0);
    let mean = |state: &[f64]| TokensRef::new(dim, state).mean();
    let mut worst = 0.0_f64;
    for normalization in [Normalization::Exponential, Normalization::Linear, Normalization::Sigmoid { bias: -0.3 }] {
        let kernel = AttentionKernel::new(Score::Dot, normalization, Mask::Full, 0.8)?;
        let end = follow(&RelativeFlow { kernel, dim, count: n }, &Euclidean, precise(), &start, &[2.0])?;
        // Tokens must have moved for a conserved mean to say anything.
        if largest_difference(&end[0], &start) < 0.1 {
            return Ok(f64::INFINITY);
        }
        worst = worst.max(largest_difference(&mean(&end[0]), &mean(&start)));
    }
    Ok(worst)
}

/// x_i' = Σ_j P_ij V x_j with P the doubly stochastic scaling of e^{<x_i, x_j>}; dense, for small clouds.
struct DoublyStochasticFlow {
    kernel: AttentionKernel,
    value: Matrix,
    count: usize,
}

impl DoublyStochasticFlow {
    /// Rows and columns of the exponential weights are normalised in turn until the columns sum to one within 1e-13
    /// after a row step; at most 10 000 rounds.
    fn weights(&self, state: &[f64]) -> Vec<f64> {
        let (n, d) = (self.count, self.value.rows());
        let identity = Matrix::scaled_identity(d, 1.0);
        let mut projections = Projections::zeros(n, d, d);
        projections.fill(&self.kernel, 1.0, state, [&identity, &identity, &identity]);
        let mut p = weights(&projections, &self.kernel).as_slice().to_vec();
        for _ in 0..10_000 {
            for row in p.chunks_exact_mut(n) {
                let sum: f64 = row.iter().sum();
                row.iter_mut().for_each(|w| *w /= sum);
            }
            let columns: Vec<f64> = (0..n).map(|j| (0..n).map(|i| p[i * n + j]).sum()).collect();
            if columns.iter().all(|sum| (sum - 1.0).abs() < 1e-13) {
                break;
            }
            p.iter_mut().enumerate().for_each(|(k, w)| *w /= columns[k % n]);
        }
        p
    }
}

impl VectorField for DoublyStochasticFlow {
    fn len(&self) -> usize {
        self.value.rows() * self.count
    }

    fn block_len(&self) -> usize {
        self.value.rows()
    }

    fn evaluate(&self, _t: f64, state: &[f64], velocity: &mut [f64]) {
        let d = self.value.rows();
        let p = self.weights(state);
        let mut message = vec![0.0; d];
        for (row, out) in p.chunks_exact(self.count).zip(velocity.chunks_exact_mut(d)) {
            message.fill(0.0);
            for (w, token) in row.iter().zip(state.chunks_exact(d)) {
                message.iter_mut().zip(token).for_each(|(m, x)| *m += w * x);
            }
            self.value.apply(&message, out);
        }
    }
}

fn doubly_stochastic_mean() -> Measured {
    let (n, dim) = (7, 3);
    let start = random::standard_normal(19, n, dim);
    let value = random_matrix(20, dim, dim, 0.6);
    let kernel = AttentionKernel::new(Score::Dot, Normalization::Exponential, Mask::Full, 0.3)?;
    let flow = DoublyStochasticFlow { kernel, value: value.clone(), count: n };
    let end = follow(&flow, &Euclidean, precise(), &start, &[1.0])?;
    let mut expected = vec![0.0; dim];
    value.exp()?.apply(&TokensRef::new(dim, &start).mean(), &mut expected);
    let size = expected.iter().fold(f64::MIN_POSITIVE, |m, x| m.max(x.abs()));
    // The plain softmax flow must miss the law, or it would say nothing about double stochasticity.
    let softmax = in_space(
        &Head::new(identity(dim), identity(dim), value, None)?,
        AttentionKernel::softmax(0.3)?,
        &start,
        &[0.0, 1.0],
    )?;
    let missed = largest_difference(&TokensRef::new(dim, &softmax[1]).mean(), &expected) / size;
    if missed < 1e-3 {
        return Ok(f64::INFINITY);
    }
    Ok(largest_difference(&TokensRef::new(dim, &end[0]).mean(), &expected) / size)
}

fn identity(d: usize) -> Matrix {
    Matrix::scaled_identity(d, 1.0)
}
