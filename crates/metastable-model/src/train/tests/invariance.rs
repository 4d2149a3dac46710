//! O12: which methods move W alike from all factors of the same product.

use metastable_dynamics::Matrix;

use super::{ADAM, Factorisation, deviation, gaussian_pair, normal, path};
use crate::train::{Balora, Base, Form, LoraRite, Method};

/// Largest deviation of the product over 30 steps from regauged factors: general, orthogonal, scalar.
fn deviations(method: Method, base: Base, rate: f64) -> [f64; 3] {
    let problem = Factorisation { target: normal(50, 8, 7), scale: 1.0 };
    let start = gaussian_pair(51, 8, 3, 7);
    let reference = path(&problem, method, base, start.clone(), rate, 30);
    let general = normal(52, 3, 3).add_scaled(2.0, &Matrix::scaled_identity(3, 1.0));
    let orthogonal = normal(53, 3, 3).nearest_orthogonal().unwrap();
    [general, orthogonal, Matrix::scaled_identity(3, 2.0)].map(|m| {
        let other = path(&problem, method, base, start.regauged(&m).unwrap(), rate, 30);
        deviation(&other, &reference)
    })
}

/// Rounding through thirty contracting steps with cores of condition below 100.
const ROUNDING: f64 = 1e-11;

#[test]
fn preconditioned_and_balanced_descent_do_not_see_the_gauge() {
    let balora = Method::Balora(Balora::default());
    for method in [Method::Riemannian { damping: 0.0 }, Method::RefLora { warmup: 0 }] {
        assert!(deviations(method, Base::Sgd, 0.02).iter().all(|d| *d < ROUNDING), "{method:?}");
    }
    // Of BaLoRA only the first step still sees the factors it was given, so it starts from a projected pair.
    let from_projected = |base| {
        let problem = Factorisation { target: normal(50, 8, 7), scale: 1.0 };
        let start = gaussian_pair(51, 8, 3, 7);
        let regauged = start.regauged(&normal(52, 3, 3)).unwrap();
        let [x, y] = [start, regauged].map(|pair| path(&problem, balora, base, pair.project().unwrap().pair, 0.02, 30));
        deviation(&x, &y)
    };
    assert!(from_projected(Base::Sgd) < ROUNDING);
    // Canonical factors make even elementwise optimizers invariant.
    assert!(from_projected(Base::Sign) < ROUNDING, "{}", from_projected(Base::Sign));
    assert!(from_projected(ADAM) < ROUNDING, "{}", from_projected(ADAM));
}

#[test]
fn lora_rite_does_not_see_the_gauge() {
    let found = deviations(Method::LoraRite(LoraRite::default()), Base::Sgd, 0.02);
    assert!(found.iter().all(|d| *d < ROUNDING), "{found:?}");
}

#[test]
fn plain_descent_sees_all_gauges_but_rotations() {
    let [general, orthogonal, scalar] = deviations(Method::Lora, Base::Sgd, 0.02);
    assert!(general > 1e-2 && orthogonal < ROUNDING && scalar > 1e-2, "{general} {orthogonal} {scalar}");
    let [general, orthogonal, scalar] = deviations(Method::LoraPro, Base::Sgd, 0.02);
    assert!(general > 1e-3 && orthogonal < ROUNDING && scalar > 1e-3, "{general} {orthogonal} {scalar}");
}

#[test]
fn signs_procrustes_and_scalar_balancing_see_them_all() {
    let nearest = Method::Balora(Balora { form: Form::Nearest, ..Balora::default() });
    for (method, base) in [
        (Method::Lora, Base::Sign),
        (Method::NormBalance { transport: true }, Base::Sign),
        (nearest, Base::Sign),
        (Method::Lora, ADAM),
    ] {
        let [general, ..] = deviations(method, base, 0.02);
        assert!(general > 1e-3, "{method:?} {base:?}: {general}");
    }
}
