use super::*;

/// 2^x of a slice through the registers of a level.
struct Powers<'a, T>(&'a mut [T]);

impl<T: Real> Work<T> for Powers<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = T>>(self, lanes: L) {
        for chunk in self.0.chunks_exact_mut(L::WIDTH) {
            lanes.store(lanes.exp2(lanes.load(chunk)), chunk);
        }
    }
}

fn powers<T: Real>(level: Level, exponents: &[T]) -> Vec<T> {
    let mut numbers = exponents.to_vec();
    numbers.resize(exponents.len().next_multiple_of(16), T::default());
    T::dispatch(level, Powers(&mut numbers));
    numbers.truncate(exponents.len());
    numbers
}

/// The same powers without the comparison.
struct PowersAboveCut<'a, T>(&'a mut [T]);

impl<T: Real> Work<T> for PowersAboveCut<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = T>>(self, lanes: L) {
        for chunk in self.0.chunks_exact_mut(L::WIDTH) {
            lanes.store(lanes.exp2_above_cut(lanes.load(chunk)), chunk);
        }
    }
}

#[test]
fn powers_without_the_comparison_are_the_same_above_the_cut() {
    fn check<T: Real>() {
        let exponents: Vec<T> = (-1023..1024).map(|i| T::from_f64(f64::from(i) / 1024.0 * T::CUT)).collect();
        for level in Level::available() {
            let mut found = exponents.clone();
            found.resize(2048, T::default());
            T::dispatch(level, PowersAboveCut(&mut found));
            assert_eq!(found[..exponents.len()], powers(level, &exponents), "{level:?}");
        }
    }
    check::<f32>();
    check::<f64>();
}

/// The largest relative error over the exponents, against a function in a wider or careful arithmetic.
fn worst_error<T: Real>(level: Level, exponents: &[T], exact: impl Fn(T) -> f64) -> f64 {
    let found = powers(level, exponents);
    let error = |(x, found): (&T, &T)| (found.to_f64() / exact(*x) - 1.0).abs();
    exponents.iter().zip(&found).map(error).fold(0.0, f64::max)
}

#[test]
fn powers_in_single_precision_err_by_at_most_the_stated_amount() {
    for level in Level::available() {
        // Every 61st of all numbers from -100 to 100: a stride prime to the structure of the bits.
        let positive: Vec<f32> = (0..100_f32.to_bits()).step_by(61).map(f32::from_bits).filter(|x| *x > 1e-9).collect();
        let negative: Vec<f32> = positive.iter().map(|x| -x).collect();
        for exponents in [positive, negative] {
            // The library's f64 power is exact to 2e-16 here.
            let worst = worst_error(level, &exponents, |x| f64::from(x).exp2());
            assert!(worst <= 1.7e-7, "{level:?}: {worst:e}");
            assert!(worst >= 3e-8, "{level:?} claims more digits than an f32 has: the test looks at nothing");
        }
    }
}

#[test]
fn powers_in_double_precision_err_by_at_most_the_stated_amount() {
    for level in Level::available() {
        // A million points, dense around every sixteenth and half, where the reductions switch.
        let mut exponents: Vec<f64> = (0..1_000_000).map(|i| f64::from(i) * 0.001_998_765_4 - 999.3).collect();
        for i in -15_990..15_990 {
            let corner = f64::from(i) / 16.0;
            exponents.extend([corner, corner.next_up(), corner.next_down(), corner + 1e-9, corner - 1e-9]);
        }
        // The library's power is taken to be within 0.52 units of 2^-52: 1.2e-16, which is part of the bound.
        let worst = worst_error(level, &exponents, f64::exp2);
        assert!(worst <= 3.4e-16, "{level:?}: {worst:e}");
        assert!(worst >= 5e-17, "{level:?}: the test looks at nothing");
    }
}

#[test]
fn powers_below_the_cut_are_exactly_zero_and_nothing_is_subnormal() {
    fn check<T: Real>(level: Level, least_normal: f64) {
        let cut = [-T::CUT, -T::CUT - 1e-3, -2.0 * T::CUT, -1e30, f64::NEG_INFINITY].map(T::from_f64);
        assert!(powers(level, &cut).iter().all(|power| power.to_f64() == 0.0), "{level:?}");
        let above = [-T::CUT + 1e-3, -T::CUT + 0.5, 1.0 - T::CUT, T::LOWEST.to_f64().recip()].map(T::from_f64);
        assert!(powers(level, &above).iter().all(|power| power.to_f64() > least_normal), "{level:?}");
    }
    for level in Level::available() {
        check::<f32>(level, f64::from(f32::MIN_POSITIVE));
        check::<f64>(level, f64::MIN_POSITIVE);
    }
}

#[test]
fn powers_of_integers_are_exact_in_double_precision_and_nan_stays() {
    for level in Level::available() {
        let integers: Vec<f64> = (-999..=999).map(f64::from).collect();
        assert_eq!(powers(level, &integers), integers.iter().map(|x| x.exp2()).collect::<Vec<_>>(), "{level:?}");
        let odd_nan = f64::from_bits(0x7ff8_0000_0000_0fff);
        assert!(powers(level, &[f64::NAN, odd_nan]).iter().all(|p| p.is_nan()), "{level:?}");
        assert!(powers(level, &[f32::NAN, f32::from_bits(0x7fc0_01ff)]).iter().all(|p| p.is_nan()), "{level:?}");
    }
}

#[test]
fn operations_are_those_of_single_numbers_in_every_lane() {
    struct All<'a>(&'a mut [f64]);
    impl Work<f64> for All<'_> {
        type Output = ();
        #[inline(always)]
        fn run<L: Lanes<Real = f64>>(self, lanes: L) {
            let numbers: Vec<f64> = (0..L::WIDTH).map(|l| l as f64 - 1.5).collect();
            let (a, b, c) = (lanes.load(&numbers), lanes.splat(0.5), lanes.splat(3.0));
            let nan = lanes.splat(f64::NAN);
            let results = [
                lanes.add(a, b),
                lanes.sub(a, b),
                lanes.mul(a, b),
                lanes.div(a, b),
                lanes.mul_add(a, b, c),
                lanes.neg_mul_add(a, b, c),
                lanes.max(a, b),
                lanes.max(nan, b),
                lanes.select_at_least([a, b], c, b),
                lanes.select_at_least([nan, b], c, b),
            ];
            for (result, out) in results.into_iter().zip(self.0.chunks_exact_mut(L::WIDTH)) {
                lanes.store(result, out);
            }
        }
    }
    for (level, width) in Level::available().into_iter().map(|level| (level, width(level))) {
        let mut found = vec![0.0; 10 * width];
        f64::dispatch(level, All(&mut found));
        for l in 0..width {
            let a = l as f64 - 1.5;
            let chosen = if a >= 0.5 { 3.0 } else { 0.5 };
            let expected =
                [a + 0.5, a - 0.5, a / 2.0, a * 2.0, a / 2.0 + 3.0, 3.0 - a / 2.0, a.max(0.5), 0.5, chosen, 0.5];
            let lane: Vec<f64> = found.chunks_exact(width).map(|result| result[l]).collect();
            assert_eq!(lane, expected, "{level:?} lane {l}");
        }
    }
}

/// Lanes of an f64 vector.
fn width(level: Level) -> usize {
    struct Width;
    impl Work<f64> for Width {
        type Output = usize;
        #[inline(always)]
        fn run<L: Lanes<Real = f64>>(self, _: L) -> usize {
            L::WIDTH
        }
    }
    f64::dispatch(level, Width)
}
