//! Decoupled weight decay, with every method and under every projection, against torch.optim.AdamW.

use metastable_dynamics::balance::LowRankPair;

use super::{ADAM, Factorisation, drawn, relative_error};
use crate::train::base::MatrixMoments;
use crate::train::{Balora, Form, Gradient, LoraRite, Method, PairOptimizer};

const RATE: f64 = 0.03;
const DECAY: f64 = 0.1;

/// A method, a decay, and of the factors after twelve steps: ΣA, ΣA², A[1, 2], ΣB, ΣB², B[3, 1].
type Row = (Method, f64, [f64; 6]);

/// scripts/golden/adapter_steps.py, torch 2.15.0.
#[rustfmt::skip]
fn golden() -> [Row; 26] {
    [
        (Method::Lora, DECAY, [0.322_705_725_442, 4.584_195_457_367, 0.683_331_731_279, 1.579_849_718_396, 3.773_287_091_828, 0.202_919_559_561]),
        (Method::Lora, 0.0, [0.359_792_400_249, 4.787_866_392_599, 0.699_845_160_245, 1.627_991_744_324, 3.960_434_171_643, 0.203_461_450_563]),
        (Method::LoraPlus { ratio: 4.0 }, DECAY, [-0.412_729_742_488, 3.771_034_997_587, 0.560_217_723_591, 1.448_502_425_516, 9.406_408_563_913, -0.039_923_878_915]),
        (Method::LoraPlus { ratio: 4.0 }, 0.0, [-0.368_023_621_698, 3.892_096_092_282, 0.570_988_887_375, 1.402_253_766_494, 9.732_943_960_718, -0.048_029_729_882]),
        (Method::LoraFa, DECAY, [0.854_129_166_759, 3.757_733_808_538, 0.352_060_145_330, 1.409_032_122_709, 3.567_421_475_650, 0.092_916_889_770]),
        (Method::LoraFa, 0.0, [0.854_129_166_759, 3.757_733_808_538, 0.352_060_145_330, 1.457_370_488_186, 3.750_465_433_024, 0.094_198_742_339]),
        (Method::Riemannian { damping: 0.01 }, DECAY, [0.379_515_008_826, 4.278_321_296_289, 0.668_866_041_997, 1.346_890_254_378, 3.886_520_109_679, 0.208_289_034_179]),
        (Method::Riemannian { damping: 0.01 }, 0.0, [0.423_731_162_753, 4.512_900_979_478, 0.686_104_927_886, 1.399_416_409_063, 4.056_124_820_580, 0.208_139_977_370]),
        (Method::RefLora { warmup: 0 }, DECAY, [0.708_518_175_384, 4.308_962_631_292, 0.676_235_589_785, 1.014_462_710_453, 4.035_133_855_949, 0.206_708_287_668]),
        (Method::RefLora { warmup: 0 }, 0.0, [0.705_103_414_810, 4.506_993_733_097, 0.693_686_086_093, 1.063_622_829_779, 4.238_463_164_593, 0.208_325_921_636]),
        (Method::LoraPro, DECAY, [-1.516_389_500_774, 4.171_575_555_631, 0.648_307_386_002, 2.003_769_264_827, 4.077_964_444_406, 0.219_168_419_720]),
        (Method::LoraPro, 0.0, [-1.502_264_931_887, 4.370_424_006_949, 0.664_247_877_841, 2.027_192_579_737, 4.258_513_802_247, 0.220_246_224_405]),
        (Method::Balora(Balora::default()), DECAY, [0.780_346_708_401, 3.415_098_222_009, 0.330_960_510_039, -2.316_449_106_683, 3.415_098_222_009, 0.072_263_679_755]),
        (Method::Balora(Balora::default()), 0.0, [0.788_193_551_287, 3.587_812_768_619, 0.340_291_035_354, -2.381_580_848_733, 3.587_812_768_619, 0.067_975_275_530]),
        (Method::Balora(Balora::untransported()), DECAY, [0.853_235_004_889, 3.064_416_799_540, 0.000_282_741_081, -2.165_762_085_049, 3.064_416_799_540, 0.012_161_110_515]),
        (Method::Balora(Balora::untransported()), 0.0, [0.865_160_588_405, 3.232_750_822_604, -0.003_631_836_110, -2.223_372_682_881, 3.232_750_822_604, 0.010_179_463_565]),
        (Method::Balora(Balora { every: 3, ..Balora::default() }), DECAY, [-0.991_903_825_726, 3.574_470_687_251, 0.475_636_788_051, -0.804_977_664_499, 3.574_470_687_251, 0.156_224_550_232]),
        (Method::Balora(Balora { every: 3, ..Balora::default() }), 0.0, [-1.028_836_278_479, 3.757_701_121_120, 0.486_661_033_872, -0.806_775_826_291, 3.757_701_121_120, 0.151_500_931_772]),
        (Method::Balora(Balora { form: Form::Nearest, ..Balora::default() }), DECAY, [0.230_941_156_962, 3.654_043_185_197, 0.661_693_310_458, 0.890_681_060_128, 3.654_043_185_197, 0.242_721_309_848]),
        (Method::Balora(Balora { form: Form::Nearest, ..Balora::default() }), 0.0, [0.245_190_915_751, 3.826_208_685_731, 0.681_240_334_743, 0.919_746_738_735, 3.826_208_685_731, 0.245_733_609_371]),
        (Method::NormBalance { transport: true }, DECAY, [0.293_591_698_696, 4.146_475_023_207, 0.658_078_721_048, 1.653_723_251_920, 4.146_475_023_207, 0.202_532_872_691]),
        (Method::NormBalance { transport: true }, 0.0, [0.337_137_569_273, 4.336_191_539_307, 0.675_363_050_354, 1.699_710_095_313, 4.336_191_539_307, 0.202_693_463_847]),
        (Method::NormBalance { transport: false }, DECAY, [0.284_370_230_109, 4.142_717_146_963, 0.658_621_860_855, 1.656_484_395_884, 4.142_717_146_963, 0.201_037_928_220]),
        (Method::NormBalance { transport: false }, 0.0, [0.329_670_601_360, 4.331_579_912_457, 0.676_039_611_179, 1.701_870_589_388, 4.331_579_912_457, 0.201_214_045_244]),
        (Method::LoraRite(LoraRite::default()), DECAY, [-1.184_490_341_094, 5.855_071_458_285, 1.107_661_129_324, 1.675_103_480_809, 4.278_365_321_809, 0.012_725_793_203]),
        (Method::LoraRite(LoraRite::default()), 0.0, [-1.176_621_711_690, 6.056_348_447_556, 1.124_279_773_574, 1.690_676_501_110, 4.430_830_061_969, 0.008_536_885_339]),
    ]
}

fn problem() -> Factorisation {
    Factorisation { target: drawn(800, 7, 6), scale: 1.5 }
}

fn start() -> LowRankPair {
    LowRankPair::new(drawn(801, 3, 6).scaled(0.4), drawn(802, 7, 3).scaled(0.4)).unwrap()
}

/// Twelve steps; gradients of LoRA-RITE are a twentieth, which its rule does not refuse.
fn run(method: Method, decay: f64) -> LowRankPair {
    let (problem, mut pair) = (problem(), start());
    let share = if matches!(method, Method::LoraRite(_)) { 0.05 } else { 1.0 };
    let mut optimizer = PairOptimizer::new(method, ADAM, &pair, problem.scale);
    for _ in 0..12 {
        let g = problem.gradient(&pair);
        let gradient = Gradient { a: g.a.scaled(share), b: g.b.scaled(share) };
        pair = optimizer.step(&pair, &gradient, RATE, decay).unwrap().pair;
    }
    pair
}

#[test]
fn every_method_with_weight_decay_follows_adamw_of_pytorch() {
    for (method, decay, expected) in golden() {
        let pair = run(method, decay);
        let sums = |m: &metastable_dynamics::Matrix| {
            let sum = m.as_slice().iter().sum::<f64>();
            [sum, m.frobenius_norm().powi(2)]
        };
        let ([of_a, square_a], [of_b, square_b]) = (sums(pair.a()), sums(pair.b()));
        let found = [of_a, square_a, pair.a().at(1, 2), of_b, square_b, pair.b().at(3, 1)];
        for (found, expected) in found.iter().zip(expected) {
            // Twelve digits are stored; moments of small gradients carry some 1e-12 more.
            assert!((found - expected).abs() < 1e-9, "{method:?}, decay {decay}: {found} instead of {expected}");
        }
    }
}

#[test]
fn decay_is_decoupled_from_the_moments() {
    // After bias correction the first step of Adam is g/(|g| + ε), whatever the decay: x (1 - ηλ) - η g/(|g| + ε).
    let (x, g) = (drawn(1, 3, 4), drawn(2, 3, 4));
    let expected = x.zip_with(&g, |x, g| x * (1.0 - RATE * DECAY) - RATE * g / (g.abs() + 1e-8));
    let found = ADAM.step_matrix(&x, &g, RATE, DECAY, &mut MatrixMoments::zero(&x));
    assert!(relative_error(&found, &expected) < 1e-14);
}

#[test]
fn decay_alone_shrinks_the_product_and_keeps_balance() {
    // Without a gradient both factors shrink by 1 - ηλ (LoRA-FA's B alone, LoRA+'s B four times as fast).
    let zero = Gradient { a: drawn(1, 3, 6).scaled(0.0), b: drawn(1, 7, 3).scaled(0.0) };
    let balanced = start().project().unwrap().pair;
    for (method, _, _) in golden() {
        let mut optimizer = PairOptimizer::new(method, ADAM, &balanced, 1.5);
        let stepped = optimizer.step(&balanced, &zero, RATE, DECAY).unwrap().pair;
        let kept = 1.0 - RATE * DECAY;
        let share = match method {
            Method::LoraFa => kept,
            Method::LoraPlus { ratio } => kept * (1.0 - ratio * RATE * DECAY),
            _ => kept * kept,
        };
        assert!(relative_error(&stepped.product(), &balanced.product().scaled(share)) < 1e-13, "{method:?}");
        let is_even = !matches!(method, Method::LoraFa | Method::LoraPlus { .. });
        assert!(!is_even || stepped.gap() < 1e-13 * balanced.squared_norm(), "{method:?}: {}", stepped.gap());
    }
}
