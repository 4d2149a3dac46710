//! Colours of numbers, and the bar that explains them.

use super::read;
use super::svg::Drawing;

/// Colours are told apart in so many steps; neighbours of one colour can be one rectangle.
pub(super) const LEVELS: usize = 64;

/// Anchors of matplotlib's "viridis" (CC0), equally spaced: even in lightness, and readable without colour vision.
const VIRIDIS: [(u8, u8, u8); 9] = [
    (68, 1, 84),
    (71, 45, 123),
    (59, 82, 139),
    (44, 114, 142),
    (33, 145, 140),
    (40, 174, 128),
    (94, 201, 98),
    (173, 220, 48),
    (253, 231, 37),
];

/// The colour of a share from 0 to 1.
pub(super) fn colour(share: f64) -> String {
    let place = share.clamp(0.0, 1.0) * (VIRIDIS.len() - 1) as f64;
    let k = (place as usize).min(VIRIDIS.len() - 2);
    let (a, b, share) = (VIRIDIS[k], VIRIDIS[k + 1], place - k as f64);
    let mix = |a: u8, b: u8| (f64::from(a) + share * (f64::from(b) - f64::from(a))).round() as u8;
    format!("#{:02x}{:02x}{:02x}", mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
}

/// The bar from the lowest to the highest number, between `sides`, from `bottom` to `top`.
pub(super) fn colour_bar(drawing: &mut Drawing, (low, high): (f64, f64), sides: (f64, f64), (bottom, top): (f64, f64)) {
    let step = (bottom - top) / LEVELS as f64;
    for level in 0..LEVELS {
        let low = bottom - level as f64 * step;
        let path = format!("M{:.2} {low:.2}H{:.2}V{:.2}H{:.2}Z", sides.0, sides.1, low - step - 0.15, sides.0);
        drawing.fill(&path, &colour(level as f64 / (LEVELS - 1) as f64), 1.0);
    }
    for (share, value) in [(0.0, low), (0.5, 0.5 * (low + high)), (1.0, high)] {
        let y = bottom - share * (bottom - top);
        drawing.text((sides.1 + 5.0, y + 3.8), "start", "", &read::short(value));
    }
}
