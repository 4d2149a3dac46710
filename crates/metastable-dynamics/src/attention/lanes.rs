//! Sums and maxima of rows in independent lanes: the order is fixed, and the compiler may use vector registers.

/// The largest entry that is not NaN, in lanes for vector registers.
#[inline(always)]
pub(super) fn max(row: &[f64]) -> f64 {
    let larger = |m: f64, s: f64| if s > m { s } else { m };
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut lanes = [f64::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, &s) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, s);
        }
    }
    lanes.iter().chain(rest).copied().fold(f64::NEG_INFINITY, larger)
}

/// Independent partial sums: the order is fixed, and the compiler may use vector registers.
pub(super) const LANES: usize = 8;

/// Σ_j a_j.
#[inline(always)]
pub(super) fn lane_sum(a: &[f64]) -> f64 {
    lane_fold(a.len(), |j| a[j])
}

/// Σ_j a_j b_j.
#[inline(always)]
pub(super) fn lane_dot(a: &[f64], b: &[f64]) -> f64 {
    let b = &b[..a.len()];
    lane_fold(a.len(), |j| a[j] * b[j])
}

/// Σ_j a_j (b_j - shift).
#[inline(always)]
pub(super) fn lane_dot_shifted(a: &[f64], b: &[f64], shift: f64) -> f64 {
    let b = &b[..a.len()];
    lane_fold(a.len(), |j| a[j] * (b[j] - shift))
}

#[inline(always)]
fn lane_fold(n: usize, term: impl Fn(usize) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let whole = n - n % LANES;
    let mut j = 0;
    while j < whole {
        for (l, lane) in lanes.iter_mut().enumerate() {
            *lane += term(j + l);
        }
        j += LANES;
    }
    let tail: f64 = (whole..n).map(&term).sum();
    let halves = [lanes[0] + lanes[4], lanes[1] + lanes[5], lanes[2] + lanes[6], lanes[3] + lanes[7]];
    ((halves[0] + halves[2]) + (halves[1] + halves[3])) + tail
}
