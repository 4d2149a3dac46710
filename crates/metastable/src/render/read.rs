//! Forgiving access to `report.json`: what is absent, null or of another type reads as nothing.

use serde_json::Value;

/// One of the three times of a twin run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct TwinTime {
    /// The located time, or `None` for "never within T".
    pub(super) value: Option<f64>,
    /// The interval that holds the time.
    pub(super) bracket: Option<(f64, f64)>,
}

/// The three twin times in the order in which they happen: key, words, symbol.
pub(super) const TWIN_TIMES: [(&str, &str, &str); 3] = [
    ("cluster_time", "cluster time", "T_c"),
    ("departure_time", "departure time", "T_d"),
    ("second_cluster_time", "second-cluster time", "T_2"),
];

/// Returns the text at a JSON pointer, or "".
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// Returns the finite number at a JSON pointer.
pub(super) fn number(value: &Value, pointer: &str) -> Option<f64> {
    value.pointer(pointer).and_then(Value::as_f64).filter(|x| x.is_finite())
}

/// Returns the array at a JSON pointer, empty where there is none.
pub(super) fn array<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Returns the strings of an array at a JSON pointer.
pub(super) fn strings<'a>(value: &'a Value, pointer: &str) -> Vec<&'a str> {
    array(value, pointer).iter().filter_map(Value::as_str).collect()
}

/// Returns a column of numbers in which null stays a gap.
pub(super) fn column(value: &Value, pointer: &str) -> Vec<Option<f64>> {
    array(value, pointer).iter().map(|x| x.as_f64().filter(|x| x.is_finite())).collect()
}

/// Returns the pairs (t, value) of a column beside its times; the shorter of both decides.
pub(super) fn curve(value: &Value, times: &str, values: &str) -> Vec<(f64, Option<f64>)> {
    let times = column(value, times);
    times.into_iter().zip(column(value, values)).filter_map(|(t, y)| t.map(|t| (t, y))).collect()
}

/// Returns one twin time, or `None` where the report has no twin or no such key.
pub(super) fn twin_time(report: &Value, key: &str) -> Option<TwinTime> {
    let found = report.pointer(&format!("/twin/{key}")).filter(|x| x.is_object())?;
    let bracket = match column(found, "/bracket").as_slice() {
        [Some(low), Some(high)] => Some((*low, *high)),
        _ => None,
    };
    Some(TwinTime { value: number(found, "/value"), bracket })
}

/// Returns the end of the time axis: the stop time, else the last time of the series.
pub(super) fn horizon(report: &Value) -> Option<f64> {
    number(report, "/stop/time").or_else(|| column(report, "/series/t").into_iter().flatten().last())
}

/// Returns the labels of a cluster history, `[S][n]`, of the base (`""`) or the twin (`"/twin"`).
pub(super) fn labels(report: &Value, of: &str) -> Vec<Vec<i64>> {
    let row = |row: &Value| array(row, "").iter().map(|x| x.as_i64().unwrap_or(-1)).collect();
    array(report, &format!("{of}/cluster_history/labels")).iter().map(row).collect()
}

/// Returns the symbol of the horizontal axis: `t`, or `layer`.
pub(super) fn axis_symbol(report: &Value) -> &str {
    match text(report, "/axis/symbol") {
        "" => "t",
        symbol => symbol,
    }
}

/// Returns the letter of a token in the figures: `z` in rescaled coordinates, else `x`.
pub(super) fn token_symbol(report: &Value) -> &'static str {
    if text(report, "/config/space/coordinates") == "rescaled" { "z" } else { "x" }
}

/// Says which run a figure shows: title, number of tokens and dimensions, seed, version.
pub(super) fn caption(report: &Value) -> String {
    let mut parts = vec![match text(report, "/title") {
        "" => "untitled run".to_owned(),
        title => title.to_owned(),
    }];
    if let Some(n) = number(report, "/tokens/count").filter(|n| *n > 0.0) {
        parts.push(format!("n = {n}"));
    }
    if let Some(d) = number(report, "/tokens/dim") {
        parts.push(format!("d = {d}"));
    }
    if let Some(seed) = report.pointer("/provenance/seed").filter(|x| x.is_number()) {
        parts.push(format!("seed {seed}"));
    }
    let version = text(report, "/provenance/version");
    if !version.is_empty() {
        parts.push(format!("metastable {version}"));
    }
    parts.join(" · ")
}

/// Writes a number for people: four significant digits, no trailing zeros, powers of ten outside [1e-3, 1e5).
pub(super) fn short(x: f64) -> String {
    if x == 0.0 {
        return "0".to_owned();
    }
    let size = x.abs();
    if !(1e-3..1e5).contains(&size) {
        return trim_exponent(&format!("{x:.3e}"));
    }
    // `log10` of a number in [1e-3, 1e5) lies in [-3, 5), so the cast keeps its value.
    let decimals = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
    trim_zeros(&format!("{x:.decimals$}"))
}

fn trim_zeros(digits: &str) -> String {
    if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.').to_owned() } else { digits.to_owned() }
}

fn trim_exponent(digits: &str) -> String {
    match digits.split_once('e') {
        Some((mantissa, exponent)) => format!("{}e{exponent}", trim_zeros(mantissa)),
        None => digits.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn short_numbers_keep_four_digits_and_no_trailing_zeros() {
        let cases = [(0.0, "0"), (0.5754637311, "0.5755"), (539.5, "539.5"), (10.0, "10"), (-0.001, "-0.001")];
        for (x, want) in cases {
            assert_eq!(short(x), want);
        }
        assert_eq!(short(1.0e-7), "1e-7");
        assert_eq!(short(123456789.0), "1.235e8");
    }

    #[test]
    fn nulls_are_gaps_and_absent_columns_are_empty() {
        let report = json!({"series": {"t": [0, 1, 2], "energy": [1.0, null, 3.0]}});
        assert_eq!(curve(&report, "/series/t", "/series/energy"), [(0.0, Some(1.0)), (1.0, None), (2.0, Some(3.0))]);
        assert!(curve(&report, "/series/t", "/series/diameter").is_empty());
        assert_eq!(twin_time(&report, "departure_time"), None);
    }
}
