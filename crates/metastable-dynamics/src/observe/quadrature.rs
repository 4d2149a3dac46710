//! An upper bound of the integral of S2, in the domain of logarithms.
//!
//! The integrand is a sum of exponentials times e^{G(s)}, G(s) = v(t - s) + c (e^{2wt} - e^{2ws})/w. G is concave: on an
//! interval it lies below any of its tangents and above its chord. Either replaces e^{G} by one exponential, which
//! integrates in closed form, so every interval has an upper and a lower value, and intervals are halved until the
//! two agree. Whatever happens, the upper value is a bound.

/// The excess of the upper over the lower value at which halving stops, relative to the integral.
const EXCESS: f64 = 1e-4;

/// Halvings of an interval at most: each gains a bit of s, and f64 has 52; a few more for tiny t.
const MAX_ROUNDS: usize = 80;

/// A bound on the work; the second-order error makes some hundred intervals enough.
const MAX_INTERVALS: usize = 20_000;

/// The terms ln-amplitude and rate of the source.
type Source = (f64, f64);

struct Exponent {
    v: f64,
    c: f64,
    w: f64,
    t: f64,
}

impl Exponent {
    fn at(&self, s: f64) -> f64 {
        let left = self.t - s;
        let growth = if self.w == 0.0 { 2.0 * left } else { (2.0 * self.w * left).exp_m1() / self.w };
        let fast = if self.c == 0.0 { 0.0 } else { self.c * (2.0 * self.w * s).exp() * growth };
        self.v * left + fast
    }

    fn slope(&self, s: f64) -> f64 {
        let fast = if self.c == 0.0 { 0.0 } else { 2.0 * self.c * (2.0 * self.w * s).exp() };
        -self.v - fast
    }
}

/// One interval [low, high] with logarithms of its bounds.
struct Piece {
    low: f64,
    high: f64,
    upper: f64,
    lower: f64,
}

impl Piece {
    fn new(sources: &[Source], exponent: &Exponent, low: f64, high: f64) -> Self {
        let middle = 0.5 * (low + high);
        let line = |anchor: f64, value: f64, slope: f64| {
            let term = |&(amplitude, rate): &Source| {
                amplitude + rate * anchor + value + ln_exponential(rate + slope, low - anchor, high - anchor)
            };
            ln_sum(sources.iter().map(term))
        };
        let tangent = |anchor: f64| line(anchor, exponent.at(anchor), exponent.slope(anchor));
        let (start, end) = (exponent.at(low), exponent.at(high));
        let chord = line(low, start, (end - start) / (high - low));
        Self { low, high, upper: tangent(low).min(tangent(middle)), lower: chord }
    }
}

/// ln of an upper bound of int_0^t sum_k e^{amplitude_k + rate_k s} e^{G(s)} ds; +infinity where G leaves the range of
/// f64, -infinity for a zero integral.
pub(super) fn ln_integral_upper(sources: &[Source], v: f64, c: f64, w: f64, t: f64) -> f64 {
    let sources: Vec<Source> = sources.iter().copied().filter(|(a, _)| *a > f64::NEG_INFINITY).collect();
    if sources.is_empty() || t <= 0.0 {
        return f64::NEG_INFINITY;
    }
    let exponent = Exponent { v, c, w, t };
    let largest = exponent.at(0.0);
    if !largest.is_finite() || !exponent.slope(t).is_finite() {
        return f64::INFINITY;
    }
    let mut pieces = vec![Piece::new(&sources, &exponent, 0.0, t)];
    for _ in 0..MAX_ROUNDS {
        let total = ln_sum(pieces.iter().map(|piece| piece.upper));
        let share = (EXCESS / pieces.len() as f64).ln() + total;
        let count = pieces.len();
        pieces = pieces.into_iter().flat_map(|piece| refine(piece, &sources, &exponent, share)).collect();
        if pieces.len() == count || pieces.len() > MAX_INTERVALS {
            break;
        }
    }
    // The values of G carry a relative error of some eps.
    ln_sum(pieces.iter().map(|piece| piece.upper)) + 16.0 * f64::EPSILON * (1.0 + largest)
}

/// The piece, or its halves if its upper value exceeds its lower one by more than e^{share}.
fn refine(piece: Piece, sources: &[Source], exponent: &Exponent, share: f64) -> Vec<Piece> {
    let excess = piece.upper + (-(piece.lower - piece.upper).min(0.0).exp_m1()).ln();
    let middle = 0.5 * (piece.low + piece.high);
    if excess <= share || middle <= piece.low || middle >= piece.high {
        return vec![piece];
    }
    let half = |low, high| Piece::new(sources, exponent, low, high);
    vec![half(piece.low, middle), half(middle, piece.high)]
}

/// ln int_low^high e^{rate·s} ds.
fn ln_exponential(rate: f64, low: f64, high: f64) -> f64 {
    let width = high - low;
    let size = rate.abs();
    let factor = if size * width == 0.0 { width } else { -(-size * width).exp_m1() / size };
    factor.ln() + if rate > 0.0 { rate * high } else { rate * low }
}

/// ln sum e^{x_i}.
fn ln_sum(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = values.clone().fold(f64::NEG_INFINITY, f64::max);
    if largest.is_infinite() {
        return largest;
    }
    largest + values.map(|x| (x - largest).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_bound_is_above_a_fine_midpoint_rule_and_close_to_it(
            a in -5.0..1.0_f64, b in -5.0..1.0_f64, v in 0.0..2.0_f64, c in 0.0..3.0_f64, w in 0.1..1.5_f64,
            t in 0.01..1.5_f64,
        ) {
            let sources = [(a, 3.0 * w), (b, w)];
            let exponent = Exponent { v, c, w, t };
            let n = 100_000;
            let h = t / f64::from(n);
            let at = |k: i32| {
                let s = (f64::from(k) + 0.5) * h;
                ((a + 3.0 * w * s).exp() + (b + w * s).exp()).ln() + exponent.at(s)
            };
            let naive = ln_sum((0..n).map(at)) + h.ln();
            let bound = ln_integral_upper(&sources, v, c, w, t);
            // The midpoint rule errs by (h·rate)²/24 < 1e-6 with rates up to 2·3·e^{4.5} = 540 and h = 1.5e-5.
            prop_assert!(bound > naive - 1e-5 && bound < naive + EXCESS + 1e-5, "{} {}", bound, naive);
        }
    }

    #[test]
    fn a_linear_exponent_is_integrated_exactly() {
        // c = 0: int_0^t e^{a + r s + v (t - s)} ds = e^a (e^{r t} - e^{v t})/(r - v).
        let (a, r, v, t) = (-1.0_f64, 0.7_f64, 0.4_f64, 3.0_f64);
        let exact = a + (((r * t).exp() - (v * t).exp()) / (r - v)).ln();
        assert!((ln_integral_upper(&[(a, r)], v, 0.0, r, t) - exact).abs() < 1e-13);
        assert!((ln_integral_upper(&[(0.0, 0.0)], 0.0, 0.0, 0.0, 5.0) - 5.0_f64.ln()).abs() < 1e-13);
    }

    #[test]
    fn huge_exponents_overflow_gracefully() {
        let at = |t: f64| ln_integral_upper(&[(0.0, 3.0), (0.0, 1.0)], 1.0, 1.0, 1.0, t);
        // The mass sits at s = O(1), where G is within a factor of e^{2t} - 1.
        let (exact, found) = ((200.0_f64).exp(), at(100.0));
        assert!((found / exact - 1.0).abs() < 1e-9, "{found}");
        assert_eq!((at(400.0), at(1e5)), (f64::INFINITY, f64::INFINITY));
        assert_eq!(at(0.0), f64::NEG_INFINITY);
        assert_eq!(ln_integral_upper(&[(f64::NEG_INFINITY, 1.0)], 1.0, 1.0, 1.0, 1.0), f64::NEG_INFINITY);
    }
}
