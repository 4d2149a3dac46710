//! Laws of the renderings: quiet on gaps, deaf to hostile text, the same bytes every time.
#![allow(clippy::unwrap_used)]

mod sample;

use metastable::render::{Cloud, Display, figures, html, markdown};
use serde_json::{Value, json};

fn runs() -> Vec<(Value, Display)> {
    vec![sample::seed_42(), sample::sphere(), sample::line(), sample::inspect()]
}

/// Replaces every number of the report by null, one kind of damage that a diverged run may show.
fn without_numbers(value: &Value) -> Value {
    match value {
        Value::Number(_) => Value::Null,
        Value::Array(items) => items.iter().map(without_numbers).collect(),
        Value::Object(map) => map.iter().map(|(key, item)| (key.clone(), without_numbers(item))).collect(),
        other => other.clone(),
    }
}

/// Checks that tags nest, attributes are quoted and nothing but the five entities is escaped.
fn well_formed(svg: &str) -> Result<(), String> {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = svg;
    while let Some(start) = rest.find('<') {
        check_text(&rest[..start])?;
        let end = rest[start..].find('>').ok_or("a tag never ends")? + start;
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            let last = open.pop().ok_or_else(|| format!("{name} closes nothing"))?;
            if last != name {
                return Err(format!("{name} closes {last}"));
            }
            continue;
        }
        let name = tag.split([' ', '/']).next().unwrap_or("");
        if !name.chars().all(|c| c.is_ascii_alphabetic()) || name.is_empty() {
            return Err(format!("no tag: <{tag}>"));
        }
        check_attributes(tag[name.len()..].trim_end_matches('/'))?;
        if !tag.ends_with('/') {
            open.push(name);
        }
    }
    check_text(rest)?;
    if open.is_empty() { Ok(()) } else { Err(format!("never closed: {open:?}")) }
}

fn check_text(text: &str) -> Result<(), String> {
    for part in text.split('&').skip(1) {
        if !["amp;", "lt;", "gt;", "quot;", "#39;"].iter().any(|entity| part.starts_with(entity)) {
            return Err(format!("bare ampersand before {part:.20}"));
        }
    }
    if text.contains(|c: char| c.is_control() && !"\n\t\r".contains(c)) {
        Err("control character".into())
    } else {
        Ok(())
    }
}

fn check_attributes(attributes: &str) -> Result<(), String> {
    let mut rest = attributes.trim();
    while !rest.is_empty() {
        let (name, tail) = rest.split_once("=\"").ok_or_else(|| format!("unquoted: {rest}"))?;
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            return Err(format!("attribute name {name}"));
        }
        let (value, tail) = tail.split_once('"').ok_or_else(|| format!("open quote: {tail}"))?;
        check_text(value)?;
        rest = tail.trim_start();
    }
    Ok(())
}

#[test]
fn the_xml_check_refuses_what_is_not_well_formed() {
    for bad in ["<a><b></a></b>", "<a", "<a x=1/>", "<a>&nbsp;</a>", "<a>", "</a>", "<a><1/></a>"] {
        assert!(well_formed(bad).is_err(), "{bad}");
    }
}

#[test]
fn every_figure_is_well_formed_and_finite() {
    for (report, display) in runs().into_iter().chain([sample::crowd()]) {
        for (name, svg) in figures(&report, &display) {
            well_formed(&svg).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{name}");
        }
    }
}

#[test]
fn a_twin_and_an_inspection_have_the_figures_that_are_promised() {
    let names = |(report, display): (Value, Display)| {
        figures(&report, &display).into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    let common = ["trajectories.svg", "clusters.svg", "energy.svg"];
    assert_eq!(names(sample::seed_42()), [&common[..], &["distances.svg", "cosine.svg"]].concat());
    assert_eq!(names(sample::inspect()), [&common[..], &["cosine.svg", "layers.svg", "spectra.svg"]].concat());
}

#[test]
fn the_same_report_gives_the_same_bytes() {
    let (report, display) = sample::seed_42();
    assert_eq!(html(&report, &display), html(&report.clone(), &display.clone()));
    assert_eq!(figures(&report, &display), figures(&report.clone(), &display.clone()));
    assert_eq!(markdown(&report), markdown(&report.clone()));
}

#[test]
fn token_text_never_becomes_markup() {
    let (report, display) = sample::inspect();
    let page = html(&report, &display);
    assert!(!page.contains("<script>alert"));
    assert!(!page.contains("<img src=x"));
    // Data blocks (report, display, positions, attention) and the one script of the page: nothing else opens or closes.
    assert_eq!(page.matches("<script").count(), 5);
    assert_eq!(page.matches("</script").count(), 5);
    assert!(page.contains("\\u003cscript\\u003ealert(1)"));
    let summary = markdown(&report);
    assert!(!summary.contains("<script") && !summary.contains("<b>"));
    for (name, svg) in figures(&report, &display) {
        assert!(!svg.contains("<script") && !svg.contains("<b>"), "{name}");
    }
}

#[test]
fn the_page_fetches_nothing() {
    let (report, display) = sample::seed_42();
    let page = html(&report, &display);
    for fetch in
        ["src=\"http", "href=\"http", "url(http", "@import", "fetch(", "XMLHttpRequest", "<link", "import(", "//cdn"]
    {
        assert!(!page.contains(fetch), "{fetch}");
    }
    // The only address is the name of the SVG namespace, which no browser fetches.
    assert_eq!(
        page.matches("http").count(),
        page.matches("http://www.w3.org/2000/svg").count() + page.matches("http-equiv").count()
    );
    assert!(page.contains("default-src 'none'") && !page.contains("unsafe"));
}

#[test]
fn the_seed_42_page_is_small() {
    let (report, display) = sample::seed_42();
    // The promise is "well under 1 MB" for 20 tokens and about a hundred times.
    assert!(html(&report, &display).len() < 600_000);
}

#[test]
fn gaps_and_absent_parts_leave_things_out_without_a_panic() {
    let nothing = Display {
        times: vec![],
        base: Cloud { count: 0, dim: 2, positions: vec![], attention: None },
        twin: None,
        samples: None,
    };
    for report in
        [json!({}), json!(null), json!({"twin": {}, "series": null, "clusters": [], "heads": [{}], "layers": [null]})]
    {
        assert!(html(&report, &nothing).contains("</html>"));
        assert!(figures(&report, &nothing).is_empty());
        assert!(markdown(&report).starts_with("# Untitled run"));
    }
    for (report, display) in runs() {
        let hollow = without_numbers(&report);
        assert!(html(&hollow, &display).contains("</html>"));
        assert_eq!(figures(&hollow, &display).len(), 1, "positions alone still give their trajectories");
        assert!(!markdown(&hollow).is_empty());
    }
}

#[test]
fn positions_that_are_not_finite_or_too_few_are_not_drawn() {
    let (report, mut display) = sample::seed_42();
    display.base.positions[5] = f32::NAN;
    display.base.positions[40] = f32::INFINITY;
    display.base.positions.truncate(1001);
    let trajectories = figures(&report, &display).swap_remove(0).1;
    assert!(well_formed(&trajectories).is_ok() && !trajectories.contains("NaN") && !trajectories.contains("inf"));
}

#[test]
fn the_summary_says_never_where_a_time_was_not_reached() {
    let (mut report, _) = sample::seed_42();
    assert!(markdown(&report).contains("| departure time | 28.4"));
    report["twin"]["departure_time"] = json!({"value": null, "bracket": null});
    assert!(markdown(&report).contains("| departure time | never within t = 60 |"));
}
