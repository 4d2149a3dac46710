//! Methods and settings that must coincide, and what methods do to the full gradient.

use metastable_dynamics::Matrix;
use metastable_dynamics::balance::LowRankPair;

use super::{ADAM, Factorisation, chain, deviation, gaussian_pair, normal, path, relative_error};
use crate::train::lora_pro;
use crate::train::{Balora, Base, Method, PairOptimizer, Setting};

#[test]
fn reflora_and_balora_are_one_method_under_plain_descent() {
    // O10: the same products over 200 steps; 4.6e-15 elsewhere.
    let problem = Factorisation { target: normal(1, 9, 8), scale: 1.0 };
    let start = gaussian_pair(2, 9, 3, 8).project().unwrap().pair;
    let balora = path(&problem, Method::Balora(Balora::default()), Base::Sgd, start.clone(), 0.02, 200);
    let reflora = path(&problem, Method::RefLora { warmup: 0 }, Base::Sgd, start, 0.02, 200);
    assert!(deviation(&reflora, &balora) < 1e-13, "{}", deviation(&reflora, &balora));
}

#[test]
fn lora_pro_moves_w_by_the_tangent_projection_of_the_gradient() {
    // O11: s(B ĝ_A + ĝ_B A) = P_B G + (I - P_B) G P_A.
    let (pair, g, scale) = (gaussian_pair(3, 7, 2, 6), normal(4, 7, 6), 1.7);
    let found = lora_pro::precondition(&pair, &chain(&pair, &g, scale), scale).unwrap();
    let moved = pair.b().multiply(&found.a).add_scaled(1.0, &found.b.multiply(pair.a())).scaled(scale);
    let onto = |q: Matrix| q.multiply(&q.transpose());
    let (p_b, p_a) = (onto(pair.b().thin_qr().0), onto(pair.a().transpose().thin_qr().0));
    let inside = p_b.multiply(&g);
    let outside = g.add_scaled(-1.0, &inside).multiply(&p_a);
    assert!(relative_error(&moved, &inside.add_scaled(1.0, &outside)) < 1e-12);
}

#[test]
fn lora_pro_is_the_tangent_step_nearest_to_the_plain_gradients() {
    // X minimises ‖ĝ_A - g_A‖² + ‖ĝ_B - g_B‖² over (ĝ_A + Y A, ĝ_B - B Y): the derivative in Y vanishes.
    let (pair, g) = (gaussian_pair(3, 7, 2, 6), normal(4, 7, 6));
    let plain = chain(&pair, &g, 1.0);
    let found = lora_pro::precondition(&pair, &plain, 1.0).unwrap();
    let in_a = found.a.add_scaled(-1.0, &plain.a).multiply(&pair.a().transpose());
    let in_b = pair.b().transpose().multiply(&found.b.add_scaled(-1.0, &plain.b));
    // Stationary: (ĝ_A - g_A)Aᵀ = Bᵀ(ĝ_B - g_B).
    assert!(in_a.add_scaled(-1.0, &in_b).max_abs() < 1e-10 * in_a.max_abs().max(1.0), "{in_a:?} {in_b:?}");
}

#[test]
fn scale_and_rate_are_one_number_under_adam() {
    // O14: (s = σ², lr) and (s = 1, initial A times σ, lr·σ) give the same path of s·B A, as ε → 0.
    let base = Base::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 0.0 };
    let target = normal(5, 9, 8);
    let a = normal(6, 3, 8).scaled(0.3);
    let b = normal(7, 9, 3).scaled(1e-3);
    let setting = Setting { learning_rate: 0.01, alpha: 75.0, rank: 3, rslora: false, init_scale: 1.0 };
    let effective = setting.effective();
    assert_eq!((setting.scale(), effective.sigma), (25.0, 5.0));
    let scaled = Factorisation { target: target.clone(), scale: setting.scale() };
    let start = LowRankPair::new(a.clone(), b.clone()).unwrap();
    let x = path(&scaled, Method::Lora, base, start, setting.learning_rate, 60);
    let plain = Factorisation { target, scale: 1.0 };
    let start = LowRankPair::new(a.scaled(5.0), b.scaled(5.0)).unwrap();
    let y = path(&plain, Method::Lora, base, start, effective.learning_rate, 60);
    for (x, y) in x.iter().zip(&y) {
        assert!(relative_error(&x.product().scaled(25.0), &y.product()) < 1e-12);
    }
    let back = effective.setting(75.0, 3, false);
    assert!((back.learning_rate - 0.01).abs() < 1e-15 && (back.init_scale - 1.0).abs() < 1e-15);
}

#[test]
fn a_resumed_optimizer_continues_to_the_bit() {
    let problem = Factorisation { target: normal(8, 9, 8), scale: 2.0 };
    let methods = [
        Method::Lora,
        Method::LoraPlus { ratio: 16.0 },
        Method::LoraFa,
        Method::Riemannian { damping: 1e-2 },
        Method::RefLora { warmup: 3 },
        Method::LoraPro,
        Method::LoraRite(Default::default()),
        Method::NormBalance { transport: true },
        Method::Balora(Balora { every: 3, ..Balora::default() }),
    ];
    for method in methods {
        let mut pair = gaussian_pair(9, 9, 3, 8);
        let mut optimizer = PairOptimizer::new(method, ADAM, &pair, problem.scale);
        for step in 0..10 {
            if step == 5 {
                let stored = serde_json::to_string(&(&optimizer, pair.a(), pair.b())).unwrap();
                let (restored, a, b): (PairOptimizer, Matrix, Matrix) = serde_json::from_str(&stored).unwrap();
                assert_eq!(restored, optimizer);
                (optimizer, pair) = (restored, LowRankPair::new(a, b).unwrap());
            }
            pair = optimizer.step(&pair, &problem.gradient(&pair), 1e-2, 0.01).unwrap().pair;
        }
        let through = path_with_decay(&problem, method, gaussian_pair(9, 9, 3, 8));
        assert_eq!(pair, through, "{method:?}");
    }
}

fn path_with_decay(problem: &Factorisation, method: Method, mut pair: LowRankPair) -> LowRankPair {
    let mut optimizer = PairOptimizer::new(method, ADAM, &pair, problem.scale);
    for _ in 0..10 {
        pair = optimizer.step(&pair, &problem.gradient(&pair), 1e-2, 0.01).unwrap().pair;
    }
    pair
}
