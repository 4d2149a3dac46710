use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;
use crate::error::ErrorKind;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    seed: Option<u64>,
    #[serde(default)]
    head: Vec<Head>,
    #[serde(default)]
    kernel: Kernel,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    value: Vec<Vec<f64>>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Kernel {
    beta: f64,
    mask: Mask,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mask {
    #[default]
    Full,
    Causal,
    Band(u64),
}

const TOML: &str = "seed = 42\n[[head]]\nvalue = [[1, 0.5]]\n[kernel]\nbeta = 2\nmask = \"causal\"\n";
const YAML: &str = "seed: 42\nhead:\n  - value: [[1, 0.5]]\nkernel:\n  beta: 2\n  mask: causal\n";
const JSON: &str =
    "{\"seed\": 42,\n \"head\": [{\"value\": [[1, 0.5]]}],\n \"kernel\": {\"beta\": 2, \"mask\": \"causal\"}}";

fn name(format: Format) -> &'static Path {
    Path::new(match format {
        Format::Toml => "run.toml",
        Format::Yaml => "run.yaml",
        Format::Json => "run.json",
    })
}

fn parse(text: &str, format: Format) -> Result<Config, LabError> {
    parse_document(name(format), text, format, &[])
}

fn with(overrides: &[&str]) -> Result<Config, LabError> {
    let overrides: Vec<String> = overrides.iter().map(|argument| argument.to_string()).collect();
    parse_document(name(Format::Toml), TOML, Format::Toml, &overrides)
}

fn refusal(text: &str, format: Format) -> String {
    let error = parse(text, format).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    error.to_string()
}

#[test]
fn three_formats_say_one_thing() {
    let config = parse(TOML, Format::Toml).unwrap();
    assert_eq!(config.kernel, Kernel { beta: 2.0, mask: Mask::Causal });
    assert_eq!(config.head[0].value, [[1.0, 0.5]]);
    assert_eq!(parse(YAML, Format::Yaml).unwrap(), config);
    assert_eq!(parse(JSON, Format::Json).unwrap(), config);
}

#[test]
fn what_is_resolved_reads_back_the_same() {
    let mut config = parse(TOML, Format::Toml).unwrap();
    config.kernel.beta = 0.1 + 0.2;
    config.kernel.mask = Mask::Band(3);
    assert_eq!(parse(&to_toml(&config).unwrap(), Format::Toml).unwrap(), config);
}

#[test]
fn unknown_keys_are_refused_with_place_path_and_suggestion_in_every_format() {
    let cases = [
        (Format::Toml, TOML.replace("value", "vlaue"), "run.toml:3:1: unknown key `vlaue` in `head[0]`"),
        (Format::Yaml, YAML.replace("value", "vlaue"), "run.yaml:3:5: unknown key `vlaue` in `head[0]`"),
        (Format::Json, JSON.replace("value", "vlaue"), "run.json:2:18: unknown key `vlaue` in `head[0]`"),
    ];
    for (format, text, beginning) in cases {
        let error = parse(&text, format).unwrap_err();
        assert_eq!(error.to_string(), format!("{beginning}; expected `value`"));
        assert_eq!(error.hint().as_deref(), Some("did you mean `value`?"));
    }
}

#[test]
fn unknown_choices_are_refused_with_a_suggestion() {
    let error = parse(&TOML.replace("causal", "casual"), Format::Toml).unwrap_err();
    let expected = "run.toml:6:8: unknown value `casual` in `kernel.mask`; expected one of `full`, `causal`, `band`";
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.hint().as_deref(), Some("did you mean `causal`?"));
}

#[test]
fn far_names_get_no_suggestion() {
    let error = parse("temperature = 3", Format::Toml).unwrap_err();
    assert_eq!(error.hint(), None);
}

#[test]
fn wrong_types_are_named_by_their_path() {
    let text = TOML.replace("0.5", "\"half\"");
    let message = "run.toml:3:14: `head[0].value[0][1]`: expected a number, found the text \"half\"";
    assert_eq!(refusal(&text, Format::Toml), message);
    let negative = refusal("seed: -1", Format::Yaml);
    assert!(
        negative.contains("`seed`: expected a whole number that is not negative, found integer `-1`"),
        "{negative}"
    );
    let table = refusal("{\"kernel\": 3}", Format::Json);
    assert!(table.contains("`kernel`: expected a table, found integer `3`"), "{table}");
}

#[test]
fn missing_keys_are_named_with_their_table() {
    assert_eq!(refusal("[[head]]\n", Format::Toml), "run.toml:1:1: the key `value` is missing in `head[0]`");
}

#[test]
fn broken_syntax_names_the_place() {
    assert!(refusal("seed = \n", Format::Toml).starts_with("run.toml:1:"));
    assert!(refusal("seed: [1", Format::Yaml).starts_with("run.yaml:"));
    assert_eq!(refusal("{\"seed\": 1", Format::Json), "run.json:1:10: EOF while parsing an object");
    assert!(refusal("{} {}", Format::Json).starts_with("run.json:1:4: trailing characters"));
    assert_eq!(refusal("[1]", Format::Json), "run.json: expected keys and values, found array");
}

#[test]
fn keys_that_stand_twice_are_refused_in_every_format() {
    assert!(refusal("seed = 1\nseed = 2", Format::Toml).contains("duplicate key"));
    assert!(refusal("seed: 1\nseed: 2", Format::Yaml).contains("`seed` stands here twice"));
    assert!(refusal("{\"seed\": 1, \"seed\": 2}", Format::Json).contains("`seed` stands here twice"));
}

#[test]
fn null_means_absent() {
    assert_eq!(parse("seed: null\nkernel: ~", Format::Yaml).unwrap(), parse("", Format::Toml).unwrap());
    assert_eq!(parse("{\"seed\": null}", Format::Json).unwrap().seed, None);
    assert_eq!(parse("", Format::Yaml).unwrap().head, []);
}

#[test]
fn honest_aliases_work_and_alias_bombs_do_not() {
    let twice = "head:\n  - &a {value: [[1]]}\n  - *a\n";
    assert_eq!(parse(twice, Format::Yaml).unwrap().head.len(), 2);
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..9 {
        let aliases = vec![format!("*a{}", i - 1); 10].join(", ");
        bomb.push_str(&format!("a{i}: &a{i} [{aliases}]\n"));
    }
    let message = refusal(&bomb, Format::Yaml);
    assert!(message.contains("aliases") || message.contains("repetition"), "{message}");
    let long = format!("a: &a {}\nb: [{}]", "x".repeat(10_000), vec!["*a"; 5_000].join(", "));
    assert!(refusal(&long, Format::Yaml).contains("aliases make the document many times larger"));
}

#[test]
fn deep_nesting_is_an_error_and_no_crash() {
    refusal(&format!("a = {}", "[".repeat(100_000)), Format::Toml);
    refusal(&"[".repeat(100_000), Format::Json);
    refusal(&format!("a: {}", "[".repeat(2_000)), Format::Yaml);
}

#[test]
fn overrides_reach_into_tables_and_lists() {
    assert_eq!(with(&["seed=7"]).unwrap().seed, Some(7));
    assert_eq!(with(&["kernel.mask=full"]).unwrap().kernel.mask, Mask::Full);
    assert_eq!(with(&["kernel.mask=\"full\""]).unwrap().kernel.mask, Mask::Full);
    assert_eq!(with(&["head.0.value=[[3, 4]]"]).unwrap().head[0].value, [[3.0, 4.0]]);
    assert_eq!(with(&["head.0.value.0.1=-1e-3"]).unwrap().head[0].value, [[1.0, -1e-3]]);
    assert_eq!(with(&["head.1.value=[[9]]"]).unwrap().head.len(), 2);
    assert_eq!(with(&["kernel.mask.band=3"]).unwrap_err().kind(), ErrorKind::Config);
    let new_table = parse_document::<Config>(name(Format::Toml), "", Format::Toml, &["kernel.beta=3".into()]);
    assert_eq!(new_table.unwrap().kernel.beta, 3.0);
}

#[test]
fn later_overrides_win() {
    assert_eq!(with(&["seed=7", "seed=8"]).unwrap().seed, Some(8));
}

#[test]
fn unusable_overrides_say_why() {
    let message = |argument| with(&[argument]).unwrap_err().to_string();
    assert_eq!(message("seed"), "--set seed: expected key=value, found no `=`");
    assert!(message("=1").contains("expected a key before the `=`"));
    assert!(message("kernel..beta=1").contains("found `kernel..beta`"));
    assert!(message("seed=").contains("expected a value after the `=`, found nothing"));
    assert!(message("seed.x=1").contains("expected a table or a list at `seed`, found integer"));
    assert!(message("head.5.value=1").contains("expected a number from 0 to 1 after `head.`, found `5`"));
    assert!(message("head.first.value=1").contains("found `first`"));
    assert_eq!(message("kernel.bet=1"), "run.toml: unknown key `bet` in `kernel`; expected one of `beta`, `mask`");
}

#[test]
fn an_override_cannot_smuggle_in_other_keys() {
    let message = with(&["kernel.mask=\"full\"\nseed = 3"]).unwrap_err().to_string();
    assert!(message.contains("unknown value"), "{message}");
}

#[test]
fn files_are_read_by_their_ending() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        file
    };
    let read = |file: &Path| read_document::<Config>(file, &[]);
    assert_eq!(read(&write("a.yml", YAML.as_bytes())).unwrap().seed, Some(42));
    assert_eq!(read(&write("a.ini", b"")).unwrap_err().kind(), ErrorKind::Config);
    let binary = read(&write("b.toml", b"\xff\xfe")).unwrap_err();
    assert!(binary.to_string().ends_with("b.toml: expected text in UTF-8, found other bytes"), "{binary}");
    let missing = read(&folder.path().join("none.toml")).unwrap_err();
    assert!(missing.to_string().ends_with("none.toml: cannot be read: no such file"), "{missing}");
    assert_eq!(missing.kind(), ErrorKind::Input);
}

proptest! {
    #[test]
    fn random_texts_never_panic(text in "[ -~\n]{0,120}", key in "[ -~]{0,20}") {
        for format in [Format::Toml, Format::Yaml, Format::Json] {
            let _ = parse_document::<Config>(name(format), &text, format, &[]);
            let _ = parse_document::<Config>(name(format), "", format, std::slice::from_ref(&key));
        }
    }

    #[test]
    fn random_bytes_in_a_file_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let folder = tempfile::tempdir().unwrap();
        for ending in ["toml", "yaml", "json"] {
            let file = folder.path().join("config").with_extension(ending);
            std::fs::write(&file, &bytes).unwrap();
            let _ = read_document::<Config>(&file, &[]);
        }
    }

    #[test]
    fn numbers_survive_resolving_to_the_bit(beta in any::<f64>().prop_filter("finite", |beta| beta.is_finite())) {
        let config = Config { seed: None, head: vec![], kernel: Kernel { beta, mask: Mask::Full } };
        let read = parse(&to_toml(&config).unwrap(), Format::Toml).unwrap();
        prop_assert_eq!(read.kernel.beta.to_bits(), beta.to_bits());
    }
}
