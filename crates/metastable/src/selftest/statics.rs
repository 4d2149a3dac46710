//! Laws without time: uniform tokens on spheres, theory section 6, items 10 and 12.

use std::f64::consts::TAU;

use metastable_dynamics::attention::AttentionKernel;
use metastable_dynamics::attention::statistics::log_energy;
use metastable_dynamics::closed_form::uniform::{hemisphere_probability, kernel_mean};
use metastable_dynamics::field::{ParticleFlow, Placement};
use metastable_dynamics::{Head, random};

use super::{Law, Measured};

pub(super) const LAWS: &[Law] = &[
    Law {
        name: "uniform_tokens_share_a_hemisphere_with_wendels_probability",
        source: "Wendel 1962: 2^{1-n} sum_{k<d} C(n-1, k); used in 2312.10794",
        provenance: "text",
        tolerance: 0.0075,
        because: "5 standard deviations, 5 sqrt(1/4 / 120000), of a frequency in 120000 draws at (n, d) = (4, 2)",
        measure: hemisphere_frequency,
    },
    Law {
        name: "wendels_probability_has_the_tabulated_values",
        source: "theory item 10: (4,2) .5, (10,3) .08984375, (32,8) .00166345",
        provenance: "text",
        tolerance: 5e-9,
        because: "digits of the table",
        measure: hemisphere_table,
    },
    Law {
        name: "spherical_designs_have_the_energy_of_the_uniform_law",
        source: "theory item 12: I_0(b), sinh(b)/b, Gamma(d/2)(2/b)^{d/2-1} I_{d/2-1}(b)",
        provenance: "text",
        tolerance: 1e-7,
        because: "designs of strength 5 at beta = 1/4 leave beta^6/6! = 3e-7 times moment differences below 1/5",
        measure: design_energy,
    },
];

fn hemisphere_frequency() -> Measured {
    const DRAWS: usize = 120_000;
    let points = random::sphere(10, 4 * DRAWS, 2);
    let mut inside = 0_u32;
    for cloud in points.chunks_exact(8) {
        let mut angles: Vec<f64> = cloud.chunks_exact(2).map(|x| x[1].atan2(x[0])).collect();
        angles.sort_by(f64::total_cmp);
        let wrap = angles[0] + TAU - angles[3];
        let widest = angles.windows(2).map(|pair| pair[1] - pair[0]).fold(wrap, f64::max);
        inside += u32::from(widest > 0.5 * TAU);
    }
    Ok((f64::from(inside) / DRAWS as f64 - hemisphere_probability(4, 2)).abs())
}

fn hemisphere_table() -> Measured {
    let table = [(4, 2, 0.5), (10, 3, 0.08984375), (32, 8, 0.00166345)];
    Ok(table.into_iter().map(|(n, d, p)| (hemisphere_probability(n, d) - p).abs()).fold(0.0, f64::max))
}

/// Equal means over all pairs of a spherical design as over the sphere, up to its strength.
fn design_energy() -> Measured {
    let golden = 0.5 * (1.0 + 5.0_f64.sqrt());
    let length = (1.0 + golden * golden).sqrt();
    let icosahedron = (0..12).flat_map(|k| {
        let (a, b) = (if k & 1 == 0 { 1.0 } else { -1.0 }, if k & 2 == 0 { golden } else { -golden });
        let mut x = [0.0, a / length, b / length];
        x.rotate_right(k / 4);
        x
    });
    let cross = (0..8).flat_map(|k| {
        let mut x = [0.0; 4];
        x[k / 2] = if k % 2 == 0 { 1.0 } else { -1.0 };
        x
    });
    let tesseract = (0..16).flat_map(|k| [0, 1, 2, 3].map(|bit| if k >> bit & 1 == 0 { 0.5 } else { -0.5 }));
    let polygon = (0..48).flat_map(|k| {
        let angle = TAU * f64::from(k) / 48.0;
        [angle.cos(), angle.sin()]
    });
    let designs: [(usize, f64, Vec<f64>); 3] =
        [(2, 4.0, polygon.collect()), (3, 0.25, icosahedron.collect()), (4, 0.25, cross.chain(tesseract).collect())];
    let mut worst = 0.0_f64;
    for (d, beta, points) in designs {
        let kernel = AttentionKernel::softmax(beta)?;
        let field = ParticleFlow::new(vec![Head::identity(d)], kernel, points.len() / d, Placement::Tangent)?;
        let energy = log_energy(&field.projections(0, &points)).map_or(f64::NAN, f64::exp);
        worst = worst.max((2.0 * beta * energy / kernel_mean(beta, d) - 1.0).abs());
    }
    Ok(worst)
}
