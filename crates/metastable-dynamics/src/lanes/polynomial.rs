//! Coefficients of 2^r = c_0 + c_1 r + …, of least relative error on their interval.
//!
//! Made by the Remez algorithm in 50 digits; `tests` measures 2^x as a whole.
// The digits are those of the rounded numbers themselves; that one is ln 2 and one √2 is no constant of theirs.
#![allow(clippy::excessive_precision, clippy::approx_constant)]

/// On [0, 1): relative error 7.5e-8.
#[cfg(target_arch = "x86_64")]
pub(super) const UNIT_F32: [f32; 6] = [
    0.9999999250637599,
    0.6931530732070962,
    0.24015361698272358,
    0.055826318231683374,
    0.008989339876598735,
    0.001877576765658015,
];

/// On [-1/2, 1/2]: relative error 1.9e-9.
pub(super) const CENTRED_F32: [f32; 7] = [
    1.0000000005541647,
    0.6931472057371958,
    0.24022646890645522,
    0.05550328777105325,
    0.009618488956331182,
    0.0013399931177239738,
    0.00015345812161311629,
];

/// On [0, 1/16): relative error 6.9e-18.
#[cfg(target_arch = "x86_64")]
pub(super) const SIXTEENTH_F64: [f64; 7] = [
    1.0,
    0.6931471805599344,
    0.24022650696190856,
    0.05550410839462852,
    0.009618141476098937,
    0.001333065530105542,
    0.0001574059300951743,
];

/// On [-1/2, 1/2]: relative error 3.1e-18.
pub(super) const CENTRED_F64: [f64; 12] = [
    1.0,
    0.6931471805599453,
    0.24022650695910155,
    0.055504108664819925,
    0.009618129107588335,
    0.0013333558146789923,
    0.00015403530462514432,
    1.5252733489988525e-05,
    1.32154330896764e-06,
    1.0178198021671931e-07,
    7.074105613508143e-09,
    4.435282706957277e-10,
];

/// 2^{i/16}.
#[cfg(target_arch = "x86_64")]
pub(super) const SIXTEENTHS: [f64; 16] = [
    1.0,
    1.0442737824274138,
    1.0905077326652577,
    1.1387886347566916,
    1.189207115002721,
    1.241857812073484,
    1.2968395546510096,
    1.3542555469368927,
    1.4142135623730951,
    1.4768261459394993,
    1.5422108254079407,
    1.6104903319492543,
    1.681792830507429,
    1.7562521603732995,
    1.8340080864093424,
    1.9152065613971474,
];

/// 1.5·2^23: adding it rounds an f32 to an integer, which then stands in the last bits of the sum.
pub(super) const ROUND_F32: f32 = 12_582_912.0;
/// 1.5·2^52, the same for f64.
pub(super) const ROUND_F64: f64 = 6_755_399_441_055_744.0;
