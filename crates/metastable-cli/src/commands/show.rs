//! Data on stdout: lines, tables, JSON. A reader that stops reading is no error.

use std::io::{self, Write};

use anyhow::Result;
use comfy_table::presets::NOTHING;
use metastable::report::Header;
use metastable::table::Table;

/// Standard output; errors come back instead of ending the program.
#[derive(Debug)]
pub(crate) struct Out {
    stdout: io::Stdout,
}

impl Out {
    /// Standard output.
    pub(crate) fn new() -> Self {
        Self { stdout: io::stdout() }
    }

    /// Text as it is.
    pub(crate) fn text(&mut self, text: &str) -> Result<()> {
        Ok(self.stdout.write_all(text.as_bytes())?)
    }

    /// One line.
    pub(crate) fn line(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.stdout, "{line}")?)
    }

    /// One JSON document.
    pub(crate) fn json(&mut self, value: &serde_json::Value) -> Result<()> {
        Ok(writeln!(self.stdout, "{}", serde_json::to_string_pretty(value)?)?)
    }
}

/// Title, sentences and warnings of a report.
pub(crate) fn head(header: &Header, out: &mut Out) -> Result<()> {
    out.line(&format!("{}\n", header.title))?;
    for sentence in &header.summary {
        out.line(&format!("  {sentence}"))?;
    }
    for warning in &header.warnings {
        out.line(&format!("  warning: {warning}"))?;
    }
    Ok(())
}

/// A table for eyes: aligned columns, numbers short.
pub(crate) fn table(table: &Table) -> String {
    let mut shown = comfy_table::Table::new();
    shown.load_style(NOTHING).set_header(table.header().map(str::to_owned).collect::<Vec<_>>());
    for row in 0..table.rows() {
        shown.add_row(table.row_text(row).map(|cell| short(&cell)).collect::<Vec<_>>());
    }
    format!("{}\n", shown.trim_fmt())
}

/// A number with all its digits, in powers of ten where there are more than eyes want.
pub(crate) fn number(x: f64) -> String {
    if x == 0.0 || (1e-6..1e6).contains(&x.abs()) { x.to_string() } else { format!("{x:e}") }
}

/// A number with more digits than eyes want, to six significant ones; without the mark of a float where it is whole.
fn short(cell: &str) -> String {
    if let Some(whole) = cell.strip_suffix(".0").filter(|whole| whole.parse::<i64>().is_ok()) {
        return whole.to_owned();
    }
    match cell.parse::<f64>() {
        Ok(number) if cell.len() > 9 && number.is_finite() => {
            let magnitude = number.abs();
            if (1e-3..1e6).contains(&magnitude) { format!("{number:.4}") } else { format!("{number:.3e}") }
        }
        _ => cell.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_size_keep_their_digits_and_fit_a_line() {
        let found = [0.0, 5.754637313212987, 123_456.75, 1e6, 4.491525040537681e200, -1.5e-9].map(number);
        assert_eq!(found, ["0", "5.754637313212987", "123456.75", "1e6", "4.491525040537681e200", "-1.5e-9"]);
    }

    #[test]
    fn numbers_are_shortened_and_words_are_not() {
        assert_eq!(short("5.754637313212987"), "5.7546");
        assert_eq!(short("0.00000012345678"), "1.235e-7");
        assert_eq!(short("second-cluster time"), "second-cluster time");
        assert_eq!(
            (short("29.0"), short("-3.0"), short("0.5"), short("v1.0")),
            ("29".into(), "-3".into(), "0.5".into(), "v1.0".into())
        );
    }
}
