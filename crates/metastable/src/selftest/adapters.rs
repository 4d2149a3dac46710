//! What a LoRA update can and cannot do: theory sections 2.1, 2.4, 2.5 and section 6, items 14 and 16.

use metastable_dynamics::attention::AttentionKernel;
use metastable_dynamics::field::{ParticleFlow, Placement};
use metastable_dynamics::geometry::{Euclidean, Spheres};
use metastable_dynamics::head::Target;
use metastable_dynamics::linalg::{dot, norm};
use metastable_dynamics::measure::transport::paired;
use metastable_dynamics::observe::stability::{OperatorNorms, euclidean_envelope, leading_drift, sphere_envelope};
use metastable_dynamics::{DynamicsError, Head, LowRankUpdate, Matrix, TokensRef, random};

use super::world::{
    along, follow, in_space, largest_difference, on_sphere, precise, random_matrix, random_rotation, times, with_value,
};
use super::{Law, Measured};

pub(super) const LAWS: &[Law] = &[
    Law {
        name: "the_sphere_envelope_s1_holds",
        source: "theory S1, standing in for 2402.15415v1 Proposition 1",
        provenance: "derived",
        tolerance: 1.0,
        because: "ratio actual/bound over 24 random cases",
        measure: || envelopes(24, true),
    },
    Law {
        name: "the_euclidean_envelope_s2_holds",
        source: "theory S2, standing in for 2402.15415v1 Proposition 1",
        provenance: "derived",
        tolerance: 1.0,
        because: "ratio actual/bound over 24 random cases",
        measure: || envelopes(24, false),
    },
    Law {
        name: "the_leading_direction_turns_by_at_most_the_tan_two_theta_bound",
        source: "theory 2.5: tan 2 theta <= 2|b|/(gap + a - |E|); Davis, Kahan 1970",
        provenance: "derived",
        tolerance: 1.0 + 1e-7,
        because: "ratio actual/bound over 300 random cases; equality in the plane, where rounding of small angles shows",
        measure: tan_two_theta,
    },
    Law {
        name: "an_adapter_orthogonal_to_the_prompts_changes_nothing",
        source: "theory 2.4, a reading of 2402.15415v1 Proposition 4",
        provenance: "guess, derived",
        tolerance: 1e-11,
        because: "two solves at 1e-12 whose fields differ by rounding",
        measure: orthogonal_adapter,
    },
    Law {
        name: "a_null_adapter_changes_no_bit",
        source: "theory item 16: B = 0",
        provenance: "derived",
        tolerance: 0.0,
        because: "bitwise",
        measure: null_adapter,
    },
    Law {
        name: "merged_and_unmerged_adapters_move_tokens_alike",
        source: "theory item 16: V + (alpha/r) B A against a second head (A, then (alpha/r) B)",
        provenance: "derived",
        tolerance: 1e-10,
        because: "two solves at 1e-12 of fields that differ by rounding",
        measure: merged,
    },
    Law {
        name: "an_update_has_at_most_its_nominal_rank",
        source: "theory item 16: rank(Delta) <= r",
        provenance: "derived",
        tolerance: 1e-14,
        because: "the first singular value beyond r, relative to the largest",
        measure: update_rank,
    },
];

/// The worst ratio actual/bound over random pairs of heads.
fn envelopes(cases: u64, sphere: bool) -> Measured {
    let mut worst = 0.0_f64;
    for case in 0..cases {
        let seed = 1000 + 10 * case;
        let (d, n) = (2 + (case % 4) as usize, 3 + (case % 7) as usize);
        let size = 10.0_f64.powi(-((case % 4) as i32));
        let logits = random_matrix(seed, d, d, if sphere { 0.5 } else { 0.25 });
        let value = random_matrix(seed + 1, d, d, 0.35);
        let identity = Matrix::scaled_identity(d, 1.0);
        let base = Head::new(identity, logits, value, None)?;
        let update = |s: u64| LowRankUpdate::new(&random_matrix(s, 1, d, 1.0), &random_matrix(s + 1, d, 1, 0.3), size);
        let mut adapted = base.updated(Target::Value, &update(seed + 2)?)?;
        if case % 2 == 1 {
            adapted = adapted.updated(Target::Key, &update(seed + 4)?)?;
        }
        let (start, end) = if sphere {
            (random::sphere(seed + 6, n, d), 2.0)
        } else {
            (random::uniform(seed + 6, n, d, -0.7, 0.7), 1.0)
        };
        let radius = start.chunks_exact(d).map(norm).fold(0.0, f64::max);
        let norms = OperatorNorms::between(&base, &adapted, 1.0, radius)?;
        let times = &times(end, 6)[1..];
        let kernel = AttentionKernel::softmax(1.0)?;
        let run = |head: &Head| {
            if sphere { on_sphere(head, kernel, &start, times) } else { in_space(head, kernel, &start, times) }
        };
        for ((t, a), b) in times.iter().zip(run(&base)?).zip(run(&adapted)?) {
            let actual = paired(TokensRef::new(d, &a), TokensRef::new(d, &b))?.max;
            let bound = if sphere { sphere_envelope(&norms, *t) } else { euclidean_envelope(&norms, *t) };
            worst = worst.max(actual / bound.value);
        }
    }
    // Twins that do not differ would meet any bound.
    Ok(if worst > 1e-3 { worst } else { f64::INFINITY })
}

fn tan_two_theta() -> Measured {
    let mut worst = 0.0_f64;
    for case in 0..300 {
        let seed = 3000 + 5 * case;
        let d = 2 + (case % 5) as usize;
        let rotation = random_rotation(seed, d)?;
        let mut spectrum = random::uniform(seed + 1, 1, d, 0.0, 2.0);
        spectrum.sort_by(f64::total_cmp);
        let scaled = Matrix::from_fn(d, d, |i, j| rotation.at(i, j) * spectrum[j]);
        let value = symmetrised(&scaled.multiply(&rotation.transpose()));
        let raw = random_matrix(seed + 2, d, d, 1.0);
        let update = symmetrised(&raw);
        let gap = spectrum[d - 1] - spectrum[d - 2];
        let update = update.scaled((0.05 + 0.9 * (case as f64 / 300.0)) * gap / update.operator_norm()?);
        let drift = leading_drift(&value, &update)?;
        let Some(bound) = drift.tan_two_theta else { continue };
        let leading = |matrix: &Matrix| -> Result<Vec<f64>, DynamicsError> {
            let (_, vectors) = matrix.symmetric_eigen()?;
            Ok((0..d).map(|i| vectors.at(i, d - 1)).collect())
        };
        let (u, turned) = (leading(&value)?, leading(&value.add_scaled(1.0, &update))?);
        let cosine = dot(&u, &turned);
        let across: Vec<f64> = turned.iter().zip(&u).map(|(t, u)| t - cosine * u).collect();
        let theta = norm(&across).atan2(cosine.abs());
        worst = worst.max((2.0 * theta).tan() / bound);
    }
    Ok(worst)
}

fn symmetrised(matrix: &Matrix) -> Matrix {
    matrix.add_scaled(1.0, &matrix.transpose()).scaled(0.5)
}

fn orthogonal_adapter() -> Measured {
    let (d, n) = (6, 9);
    let frame = random_rotation(100, d)?;
    // E: the first three columns; N: the others.
    let part = |from: usize| Matrix::from_fn(d, 3, |i, j| frame.at(i, from + j));
    let (inside, outside) = (part(0), part(3));
    // V maps E to E: V = E X + N Y Nᵀ.
    let value = inside
        .multiply(&random_matrix(101, 3, d, 0.6))
        .add_scaled(1.0, &outside.multiply(&random_matrix(102, 3, 3, 0.6)).multiply(&outside.transpose()));
    let base = Head::new(Matrix::scaled_identity(d, 1.0), random_matrix(103, d, d, 0.6), value, None)?;
    // A's rows are orthogonal to E, so Delta V E = 0 and xᵀ Delta A y = 0 on E.
    let orthogonal = |seed: u64| random_matrix(seed, 2, 3, 1.0).multiply(&outside.transpose());
    let adapted = base
        .updated(Target::Value, &LowRankUpdate::new(&orthogonal(104), &random_matrix(105, d, 2, 1.0), 1.0)?)?
        .updated(Target::Key, &LowRankUpdate::new(&orthogonal(106), &random_matrix(107, d, 2, 1.0), 1.0)?)?;
    let kernel = AttentionKernel::softmax(1.0)?;
    let coordinates = random::sphere(108, n, 3);
    let mut start = vec![0.0; n * d];
    coordinates.chunks_exact(3).zip(start.chunks_exact_mut(d)).for_each(|(c, x)| inside.apply(c, x));
    let difference = |start: &[f64]| -> Measured {
        let (a, b) = (on_sphere(&base, kernel, start, &[2.0])?, on_sphere(&adapted, kernel, start, &[2.0])?);
        Ok(largest_difference(&a[0], &b[0]))
    };
    // Prompts outside E must be re-represented, or the adapter does nothing at all.
    if difference(&random::sphere(109, n, d))? < 0.01 {
        return Ok(f64::INFINITY);
    }
    difference(&start)
}

fn null_adapter() -> Measured {
    let base = with_value(random_matrix(110, 3, 3, 0.7))?;
    let zero = Matrix::from_fn(3, 2, |_, _| 0.0);
    let update = LowRankUpdate::new(&random_matrix(111, 2, 3, 1.0), &zero, 8.0)?;
    let mut adapted = base.clone();
    for target in [Target::Query, Target::Key, Target::Value] {
        adapted = adapted.updated(target, &update)?;
    }
    let (start, kernel) = (random::sphere(112, 7, 3), AttentionKernel::softmax(2.0)?);
    let run = |head: &Head| on_sphere(head, kernel, &start, &[3.0]);
    let differing = run(&base)?[0].iter().zip(&run(&adapted)?[0]).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    Ok(differing as f64)
}

fn merged() -> Measured {
    let (d, n, scale) = (4, 7, 16.0 / 2.0);
    let base =
        Head::new(random_matrix(113, d, d, 0.6), random_matrix(114, d, d, 0.6), random_matrix(115, d, d, 0.5), None)?;
    let (a, b) = (random_matrix(116, 2, d, 0.3), random_matrix(117, d, 2, 0.1));
    let merged = base.updated(Target::Value, &LowRankUpdate::new(&a, &b, scale)?)?;
    let beside = Head::new(base.query().clone(), base.key().clone(), a, Some(b.scaled(scale)))?;
    let kernel = AttentionKernel::softmax(1.0)?;
    let mut worst = 0.0_f64;
    let run = |heads: Vec<Head>, placement: Placement, start: &[f64]| {
        let field = ParticleFlow::new(heads, kernel, n, placement)?;
        match placement {
            Placement::Tangent => follow(&field, &Spheres { dim: d }, precise(), start, &[2.0]),
            _ => follow(&field, &Euclidean, precise(), start, &[1.0]),
        }
    };
    for (placement, start) in
        [(Placement::Tangent, random::sphere(118, n, d)), (Placement::Ambient, random::uniform(119, n, d, -0.7, 0.7))]
    {
        let one = run(vec![merged.clone()], placement, &start)?;
        let two = run(vec![base.clone(), beside.clone()], placement, &start)?;
        let plain = run(vec![base.clone()], placement, &start)?;
        // The adapter must do something for the comparison to mean anything.
        if largest_difference(&one[0], &plain[0]) < 0.01 {
            return Ok(f64::INFINITY);
        }
        worst = worst.max(largest_difference(&one[0], &two[0]));
    }
    Ok(worst)
}

fn update_rank() -> Measured {
    let mut worst = 0.0_f64;
    for rank in [1, 2, 3] {
        let update = LowRankUpdate::new(
            &random_matrix(120, rank, 6, 1.0),
            &random_matrix(121, 6, rank, 1.0),
            32.0 / rank as f64,
        )?;
        let values = update.singular_values()?;
        worst = worst.max(values[rank] / values[0]);
    }
    // Rank one is also visible in the image: every column is a multiple of B.
    let update = LowRankUpdate::new(&random_matrix(122, 1, 6, 1.0), &random_matrix(123, 6, 1, 1.0), 2.0)?;
    let b = random_matrix(123, 6, 1, 1.0);
    let direction: Vec<f64> = b.as_slice().iter().map(|x| x / norm(b.as_slice())).collect();
    let columns = update.delta().transpose();
    let lengths: Vec<f64> = (0..6).map(|j| norm(columns.row(j))).collect();
    let projected = along(columns.as_slice(), &direction);
    Ok(worst.max(largest_difference(&lengths, &projected.iter().map(|p| p.abs()).collect::<Vec<_>>()) / 10.0))
}
