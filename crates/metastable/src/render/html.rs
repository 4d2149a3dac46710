//! The report page: one HTML file that needs no network.
//!
//! The page is hand-written in `page/`. This module puts the report, the arrays and the palette into it as *data*:
//! JSON in which `<`, `>` and `&` are `\u` escapes, and base64. The page builds its text with `textContent` only, and a
//! content security policy names the hashes of the one style and the one script, so text of a token cannot execute.

use super::palette::Colours;
use super::{AttentionMaps, Cloud, Display, read};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const PAGE: &str = include_str!("page/report.html");
const STYLE: &str = include_str!("page/report.css");
/// The script in reading order; all parts share one function scope.
const SCRIPT: [&str; 17] = [
    "(() => {\n\"use strict\";\n",
    include_str!("page/dom.js"),
    include_str!("page/data.js"),
    include_str!("page/scale.js"),
    include_str!("page/plot.js"),
    include_str!("page/cloud.js"),
    include_str!("page/clouds.js"),
    include_str!("page/series.js"),
    include_str!("page/gaussian.js"),
    include_str!("page/maps.js"),
    include_str!("page/model.js"),
    include_str!("page/heads.js"),
    include_str!("page/inspected.js"),
    include_str!("page/sweep.js"),
    include_str!("page/finetune.js"),
    include_str!("page/report.js"),
    "})();\n",
];

/// Builds the report page of a finished run as one self-contained HTML file.
///
/// `report` is the content of `report.json`; `display` holds the arrays that move, see [`Display`]. Absent or null
/// parts of the report are left out of the page. The same input gives the same bytes.
pub fn html(report: &Value, display: &Display) -> String {
    let script = SCRIPT.concat();
    let policy = format!(
        "default-src 'none'; img-src data: blob:; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'",
        base64(&Sha256::digest(STYLE)),
        base64(&Sha256::digest(&script))
    );
    let title = match read::text(report, "/title") {
        "" => "Untitled run",
        title => title,
    };
    fill(PAGE, |name| match name {
        "policy" => policy.clone(),
        "title" => escape(title),
        "summary" => read::strings(report, "/summary").iter().map(|s| format!("<p>{}</p>\n", escape(s))).collect(),
        "style" => STYLE.to_owned(),
        "script" => script.clone(),
        "data" => data_blocks(report, display),
        _ => String::new(),
    })
}

/// Replaces every `{{name}}` of a template once; what is put in is not read again.
fn fill(template: &str, value: impl Fn(&str) -> String) -> String {
    let mut page = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((name, tail)) = after.split_once("}}") else { break };
        page.push_str(before);
        page.push_str(&value(name));
        rest = tail;
    }
    page.push_str(rest);
    page
}

fn escape(text: &str) -> String {
    super::svg::escape(text)
}

/// The report, the description of the arrays and the arrays themselves, as inert script elements.
fn data_blocks(report: &Value, display: &Display) -> String {
    let describe = |cloud: &Cloud| {
        let attention = cloud.attention.as_ref().map(|maps| json!({"side": maps.side, "rows": maps.rows}));
        json!({"count": cloud.count, "dim": cloud.dim, "attention": attention})
    };
    let description = json!({
        "times": display.times,
        "base": describe(&display.base),
        "twin": display.twin.as_ref().map(describe),
        "samples": display.samples.as_ref().map(describe),
        "palette": Colours::of(report).to_json(),
    });
    let mut blocks = block("report-data", "application/json", &safe_json(report));
    if matches!(read::text(report, "/job"), "sweep" | "finetune" | "comparison") {
        let figure = |(name, svg): (String, String)| json!({"name": name, "svg": base64(svg.as_bytes())});
        let figures: Value = super::figures(report, display).into_iter().map(figure).collect();
        blocks += &block("figure-data", "application/json", &safe_json(&figures));
    }
    blocks += &block("display-data", "application/json", &safe_json(&description));
    for (name, cloud) in
        [("base", Some(&display.base)), ("twin", display.twin.as_ref()), ("samples", display.samples.as_ref())]
    {
        let Some(cloud) = cloud else { continue };
        let bytes: Vec<u8> = cloud.positions.iter().flat_map(|x| x.to_le_bytes()).collect();
        blocks += &block(&format!("{name}-positions"), "application/octet-stream", &base64(&bytes));
        if let Some(AttentionMaps { levels, .. }) = &cloud.attention {
            blocks += &block(&format!("{name}-attention"), "application/octet-stream", &base64(levels));
        }
    }
    blocks
}

fn block(id: &str, kind: &str, content: &str) -> String {
    format!("<script type=\"{kind}\" id=\"{id}\">{content}</script>\n")
}

/// Writes JSON that no HTML parser can mistake for markup.
fn safe_json(value: &Value) -> String {
    let mut out = String::new();
    for c in value.to_string().chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
    out
}

/// Encodes bytes in base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |k: usize| u32::from(chunk.get(k).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for k in 0..4 {
            // The mask keeps six bits, so the index is below 64.
            let letter = LETTERS[(word >> (18 - 6 * k) & 63) as usize];
            out.push(if k <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_agrees_with_the_vectors_of_rfc_4648() {
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, encoded) in vectors {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn json_in_the_page_reads_back_and_holds_no_markup() {
        let nasty = json!({"</script>": "<!--<script>&\u{2028}"});
        let safe = safe_json(&nasty);
        assert!(!safe.contains('<') && !safe.contains('>') && !safe.contains('&'));
        assert_eq!(serde_json::from_str::<Value>(&safe).unwrap(), nasty);
    }

    #[test]
    fn what_fills_a_template_is_not_read_as_template() {
        assert_eq!(fill("a {{x}} b", |_| "{{x}}".to_owned()), "a {{x}} b");
    }
}
