//! How fast plain and balanced descent converge, against the condition number's prediction.

use metastable_dynamics::balance::LowRankPair;
use metastable_dynamics::{Matrix, random};

use super::{Factorisation, chain, gaussian_pair, normal, path};
use crate::train::{Balora, Base, Gradient, Method, PairOptimizer};

/// diag(σ) [n, n] of rank 2 and its balanced factors.
fn four_one(n: usize) -> (Factorisation, LowRankPair) {
    let sigma = [4.0, 1.0];
    let a = Matrix::from_fn(2, n, |i, j| if i == j { f64::sqrt(sigma[i]) } else { 0.0 });
    let target = a.transpose().multiply(&a);
    (Factorisation { target, scale: 1.0 }, LowRankPair::new(a.clone(), a.transpose()).unwrap())
}

/// Steps until the loss is below `goal`, at most `most`; and the loss factor of a late step.
fn descend(problem: &Factorisation, method: Method, start: LowRankPair, rate: f64, goal: f64, most: usize) -> usize {
    let mut optimizer = PairOptimizer::new(method, Base::Sgd, &start, 1.0);
    let mut pair = start;
    for step in 0..most {
        if problem.loss(&pair) < goal {
            return step;
        }
        pair = optimizer.step(&pair, &problem.gradient(&pair), rate, 0.0).unwrap().pair;
    }
    most
}

/// 1e-3 away from the minimiser in the gauge c, with the best step 2/(λ_max + λ_min).
fn near_minimiser(c: f64) -> (Factorisation, LowRankPair, f64, f64) {
    let (problem, balanced) = four_one(6);
    let minimiser = balanced.regauged(&Matrix::scaled_identity(2, c)).unwrap();
    let start = LowRankPair::new(
        minimiser.a().add_scaled(1e-3, &normal(60, 2, 6)),
        minimiser.b().add_scaled(1e-3, &normal(61, 6, 2)),
    );
    let largest = 4.0 * (c * c + 1.0 / (c * c));
    let smallest = (c * c).min(1.0 / (c * c));
    let kappa = largest / smallest;
    (problem, start.unwrap(), 2.0 / (largest + smallest), ((kappa - 1.0) / (kappa + 1.0)).powi(2))
}

#[test]
fn descent_near_the_minimiser_contracts_by_the_condition_number() {
    // O7: the loss falls by ((κ - 1)/(κ + 1))² a step. Measured elsewhere: 87 and 249 steps to 1e-24 for c = 1, 1.5;
    // counts depend on the start only through the logarithm of its loss, here within 20 %.
    for (c, published) in [(1.0, 87.0), (1.5, 249.0)] {
        let (problem, start, rate, factor) = near_minimiser(c);
        let found = descend(&problem, Method::Lora, start.clone(), rate, 1e-24, 4000) as f64;
        assert!((found / published - 1.0).abs() < 0.2, "c = {c}: {found} steps, published {published}");
        let predicted = (1e-24_f64 / problem.loss(&start)).ln() / factor.ln();
        assert!((found / predicted - 1.0).abs() < 0.2, "c = {c}: {found} steps, predicted {predicted}");
    }
    // The gauge c = 4 does not arrive in 4000 steps; balanced descent from the same factors needs about 98.
    let (problem, start, rate, _) = near_minimiser(4.0);
    assert_eq!(descend(&problem, Method::Lora, start.clone(), rate, 1e-24, 4000), 4000);
    let (_, _, balanced_rate, _) = near_minimiser(1.0);
    let projected = start.project().unwrap().pair;
    let steps = descend(&problem, Method::Balora(Balora::default()), projected, balanced_rate, 1e-24, 4000);
    assert!((80..=120).contains(&steps), "{steps}");
}

#[test]
fn descent_keeps_its_imbalance_to_first_order_in_the_step() {
    // O6: gradient flow keeps BᵀB - A Aᵀ; descent loses it in proportion to the step.
    let problem = Factorisation { target: normal(70, 6, 5), scale: 1.0 };
    let start = gaussian_pair(71, 6, 2, 5);
    let imbalance = |pair: &LowRankPair| {
        let b = pair.b().transpose().multiply(pair.b());
        b.add_scaled(-1.0, &pair.a().multiply(&pair.a().transpose()))
    };
    let change = |rate: f64| {
        let last = path(&problem, Method::Lora, Base::Sgd, start.clone(), rate, (10.0 / rate) as usize).pop().unwrap();
        imbalance(&last).add_scaled(-1.0, &imbalance(&start)).frobenius_norm() / imbalance(&start).frobenius_norm()
    };
    let changes = [0.02, 0.01, 0.005].map(change);
    for pair in changes.windows(2) {
        // First order: halves with the step, up to a second-order term of the size of the step.
        assert!((pair[0] / pair[1] - 2.0).abs() < 0.2, "{changes:?}");
    }
    assert!(changes[2] < 1e-2, "{changes:?}");
}

#[test]
fn a_lora_start_ends_ill_conditioned() {
    // Second half of O6: with B = 0 at the start the imbalance never leaves, and costs condition.
    let problem = Factorisation { target: normal(72, 8, 2).multiply(&normal(73, 2, 7)), scale: 1.0 };
    let start = LowRankPair::new(normal(74, 2, 7), Matrix::from_fn(8, 2, |_, _| 0.0)).unwrap();
    let last = path(&problem, Method::Lora, Base::Sgd, start, 0.01, 4000).pop().unwrap();
    assert!(problem.loss(&last) < 1e-6);
    let condition = last.condition().unwrap();
    assert!(condition.kappa > 1.2 * condition.balanced, "{condition:?}");
}

#[test]
fn a_penalty_on_the_norm_balances_at_the_rate_two_lambda() {
    // O15: (λ/2)(‖A‖² + ‖B‖²) under gradient flow makes the imbalance decay as e^{-2λt}; e^{-4} = 0.0183156389.
    let problem = Factorisation { target: normal(80, 6, 5), scale: 1.0 };
    let (lambda, time, steps) = (0.5, 4.0, 4000);
    let h = time / f64::from(steps);
    let slope = |pair: &LowRankPair| {
        let g = problem.gradient(pair);
        (g.a.add_scaled(lambda, pair.a()).scaled(-1.0), g.b.add_scaled(lambda, pair.b()).scaled(-1.0))
    };
    let along = |pair: &LowRankPair, k: &(Matrix, Matrix), c: f64| {
        LowRankPair::new(pair.a().add_scaled(c, &k.0), pair.b().add_scaled(c, &k.1)).unwrap()
    };
    let start = gaussian_pair(81, 6, 2, 5);
    let mut pair = start.clone();
    for _ in 0..steps {
        let k1 = slope(&pair);
        let k2 = slope(&along(&pair, &k1, h / 2.0));
        let k3 = slope(&along(&pair, &k2, h / 2.0));
        let k4 = slope(&along(&pair, &k3, h));
        for (k, weight) in [(k1, 1.0), (k2, 2.0), (k3, 2.0), (k4, 1.0)] {
            pair = along(&pair, &k, weight * h / 6.0);
        }
    }
    let ratio = pair.gap() / start.gap();
    // The error of RK4 over 4000 steps of 1e-3 is far below 1e-9.
    assert!((ratio - (-4.0_f64).exp()).abs() < 1e-9, "{ratio}");
}

/// 400 Gaussian measurements of an 8 x 8 matrix: the loss (1/2m) Σ (<X_i, BA> - y_i)².
struct Sensing {
    measurements: Vec<Matrix>,
    target: Matrix,
}

impl Sensing {
    fn residuals(&self, pair: &LowRankPair) -> Vec<f64> {
        let error = pair.product().add_scaled(-1.0, &self.target);
        let along = |x: &Matrix| x.as_slice().iter().zip(error.as_slice()).map(|(x, e)| x * e).sum();
        self.measurements.iter().map(along).collect()
    }

    fn loss_and_gradient(&self, pair: &LowRankPair) -> (f64, Gradient) {
        let (residuals, m) = (self.residuals(pair), self.measurements.len() as f64);
        let mut g = self.target.scaled(0.0);
        for (x, residual) in self.measurements.iter().zip(&residuals) {
            g = g.add_scaled(residual / m, x);
        }
        (residuals.iter().map(|r| r * r).sum::<f64>() / (2.0 * m), chain(pair, &g, 1.0))
    }

    fn steps(&self, method: Method, start: &LowRankPair, rate: f64, most: usize) -> usize {
        let mut optimizer = PairOptimizer::new(method, Base::Sgd, start, 1.0);
        let mut pair = start.clone();
        for step in 0..most {
            let (loss, gradient) = self.loss_and_gradient(&pair);
            if loss < 1e-20 {
                return step;
            }
            match optimizer.step(&pair, &gradient, rate, 0.0) {
                Ok(next) if next.pair.squared_norm() < 1e6 => pair = next.pair,
                _ => return most,
            }
        }
        most
    }

    fn best(&self, method: Method, start: &LowRankPair, most: usize) -> usize {
        let rates = (0..16).map(|k| 0.6 * 0.8_f64.powi(k));
        rates.map(|rate| self.steps(method, start, rate, most)).min().unwrap()
    }
}

#[test]
fn an_unbalanced_start_slows_matrix_sensing_and_balancing_repairs_it() {
    // O8, by ratio: LoRA 127 → 469 steps from gauge 1 → 2, BaLoRA 126 → 126. Other draws, a coarser grid of steps.
    let (factorisation, _) = four_one(8);
    let draws = random::standard_normal(90, 400, 64);
    let measurement = |i: usize| Matrix::from_fn(8, 8, |j, k| draws[64 * i + 8 * j + k]);
    let sensing = Sensing { measurements: (0..400).map(measurement).collect(), target: factorisation.target };
    let start = |c: f64| {
        let (_, balanced) = four_one(8);
        let near = LowRankPair::new(
            balanced.a().add_scaled(1e-2, &normal(91, 2, 8)),
            balanced.b().add_scaled(1e-2, &normal(92, 8, 2)),
        );
        near.unwrap().regauged(&Matrix::scaled_identity(2, c)).unwrap()
    };
    let balora = Method::Balora(Balora::default());
    let (plain_even, plain_uneven) =
        (sensing.best(Method::Lora, &start(1.0), 1500), sensing.best(Method::Lora, &start(2.0), 1500));
    let (even, uneven) = (
        sensing.best(balora, &start(1.0).project().unwrap().pair, 1500),
        sensing.best(balora, &start(2.0).project().unwrap().pair, 1500),
    );
    assert!(plain_uneven > 2 * plain_even, "{plain_even} {plain_uneven}");
    assert!(uneven < plain_even * 13 / 10 && even < plain_even * 13 / 10, "{plain_even} {even} {uneven}");
}
