//! Integrals of smooth functions to nearly full precision, and roots of monotone ones to full precision.

/// Intervals are halved at most so often.
const MAX_HALVINGS: usize = 22;

/// int_a^b f: the trapezoidal rule, extrapolated (Romberg), until two diagonal values agree to 4 ulp or rounding
/// makes them differ more again. For analytic f a few hundred evaluations give about 1e-14.
pub(super) fn integrate(f: impl Fn(f64) -> f64, a: f64, b: f64) -> f64 {
    let mut step = b - a;
    let mut row = vec![0.5 * step * (f(a) + f(b))];
    let mut last_change = f64::INFINITY;
    for level in 1..=MAX_HALVINGS {
        let middles: f64 = (0..1_u64 << (level - 1)).map(|k| f(a + (k as f64 + 0.5) * step)).sum();
        let mut next = vec![0.5 * (row[0] + step * middles)];
        step *= 0.5;
        let mut factor = 1.0;
        for (k, coarse) in row.iter().enumerate() {
            factor *= 4.0;
            next.push(next[k] + (next[k] - coarse) / (factor - 1.0));
        }
        let change = (next[level] - row[level - 1]).abs();
        // The first levels may agree by chance.
        if level > 5
            && (change <= 4.0 * f64::EPSILON * next[level].abs()
                || (change > last_change && change < 1e-11 * next[level].abs()))
        {
            return next[level];
        }
        last_change = change;
        row = next;
    }
    row[MAX_HALVINGS]
}

/// The root of a rising function between a and b, by bisection to the last bit.
pub(super) fn root(f: impl Fn(f64) -> f64, mut a: f64, mut b: f64) -> f64 {
    loop {
        let middle = 0.5 * (a + b);
        if middle <= a || middle >= b {
            return middle;
        }
        if f(middle) < 0.0 { a = middle } else { b = middle }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smooth_integrals_are_exact_to_rounding() {
        // A handful of roundings in values of order one.
        assert!((integrate(f64::exp, 0.0, 1.0) - (1.0_f64.exp() - 1.0)).abs() < 4e-15);
        assert!((integrate(|x| 1.0 / (1.0 + x * x), 0.0, 3.0) - 3.0_f64.atan()).abs() < 4e-15);
    }
}
