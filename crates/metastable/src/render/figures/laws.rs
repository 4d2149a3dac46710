//! `laws.svg`: what theory says must be constant or monotone along this run, as it was measured.

use serde_json::Value;

use super::curves::{Line, plot};
use crate::render::palette::{TWIN, colour};
use crate::render::read;
use crate::render::svg::Stroke;

/// Draws every law of base and twin that has values: a monotone quantity as its change in units of its whole range, from 0
/// to 1 or to -1, so that a law broken is a curve that turns back; a quantity that must vanish as it is. The largest
/// violation stands in the legend.
pub(super) fn laws(report: &Value) -> Option<String> {
    let mut lines = Vec::new();
    for (of, run, times) in [("/laws", "", "/series/t"), ("/twin/laws", ", with LoRA", "/series/t")] {
        let laws = report.pointer(of).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        for (place, law) in laws.iter().enumerate() {
            let values = read::column(law, "/values");
            let found = || values.iter().flatten();
            let (low, high) =
                (found().copied().fold(f64::INFINITY, f64::min), found().copied().fold(f64::NEG_INFINITY, f64::max));
            let behaviour = read::text(law, "/behaviour");
            let must_vanish = behaviour == "zero";
            let (Some(first), true) = (found().next(), low <= high) else { continue };
            let (origin, unit) = if must_vanish || low == high {
                (if must_vanish { 0.0 } else { *first }, 1.0)
            } else {
                (*first, high - low)
            };
            let scaled = values.iter().map(|value| value.map(|value| (value - origin) / unit));
            let points =
                read::column(report, times).into_iter().zip(scaled).filter_map(|(t, y)| t.map(|t| (t, y))).collect();
            let name = read::text(law, "/name").replace('_', " ");
            let violation = read::number(law, "/largest_violation").map_or("unknown".into(), read::short);
            let words = format!("{name}{run}: {violation}");
            let stroke = match run {
                "" => Stroke::solid(colour(place), 1.6),
                _ => Stroke { colour: TWIN, width: 1.4, dash: "6 2.5", opacity: 1.0 },
            };
            lines.push(Line { words, points, stroke });
        }
    }
    if lines.is_empty() {
        return None;
    }
    let words = "Monotone quantities: change over range; quantities that must vanish: as they are. Beside the name: the largest violation.";
    plot(report, "Laws of this run", "change of the quantity, over its range", lines, words)
}
