//! What stands between a hostile tokenizer.json and the `tokenizers` library, which panics on some instead of answering
//! with an error: where its decoder is no JSON, where a `Precompiled` normaliser is broken, where that one's table points
//! outside itself.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use serde::Deserialize;
use serde_json::Value;

/// The parts that the library does not check before it trusts them.
#[derive(Deserialize)]
struct Fragile {
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    normalizer: Value,
}

/// Refuses, with the reason, what the library is known to panic on, or to allocate without measure for. O(length).
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    let fragile: Fragile = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    [fragile.decoder, fragile.normalizer].iter().try_for_each(check_tables)
}

fn check_tables(value: &Value) -> Result<(), String> {
    match value {
        Value::Array(values) => values.iter().try_for_each(check_tables),
        Value::Object(entries) if entries.get("type").and_then(Value::as_str) == Some("Precompiled") => {
            let table = entries.get("precompiled_charsmap").and_then(Value::as_str);
            let is_whole = table.is_some_and(is_whole);
            is_whole.then_some(()).ok_or_else(|| "a Precompiled normalizer without a whole table".into())
        }
        Value::Object(entries) => entries.values().try_for_each(check_tables),
        _ => Ok(()),
    }
}

/// Whether the table, in base64, is as long as the number at its beginning says.
fn is_whole(table: &str) -> bool {
    let digit = |letter: u8| match letter {
        b'A'..=b'Z' => Some(letter - b'A'),
        b'a'..=b'z' => Some(letter - b'a' + 26),
        b'0'..=b'9' => Some(letter - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    // Six digits hold 36 bits, of which the first 32 are that number, its lowest byte first.
    let first = table.bytes().take(6).try_fold(0_u64, |bits, letter| Some(bits << 6 | u64::from(digit(letter)?)));
    let stated = first.map(|bits| u64::from(((bits >> 4) as u32).swap_bytes()));
    table.len() >= 6 && stated.is_some_and(|stated| stated <= table.len() as u64 / 4 * 3)
}

thread_local! {
    /// Whether this thread is inside the library, where panics are errors and nobody is told of them.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Keeps the panic hook of the program from printing, and from the megabytes of a backtrace, for panics of the library.
fn hush() {
    static HUSHED: Once = Once::new();
    HUSHED.call_once(|| {
        let told = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !INSIDE.get() {
                told(panic);
            }
        }));
    });
}

/// Calls the library; a panic inside it becomes an error, without a word on stderr.
pub(super) fn guarded<T>(call: impl FnOnce() -> Result<T, tokenizers::Error>) -> Result<T, String> {
    hush();
    let before = INSIDE.replace(true);
    let answer = catch_unwind(AssertUnwindSafe(call));
    INSIDE.set(before);
    match answer {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_panic) => Err("something that makes the library panic".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_the_library_panic_is_refused_before_it_is_asked() {
        for (bytes, reason) in [
            (r#"{"decoder": {"type": !}}"#, "expected"),
            (r#"{"decoder": {"type": 1e999}}"#, "out of range"),
            (r#"{"normalizer": {"type": "Precompiled"}}"#, "without a whole table"),
            (
                r#"{"normalizer": [{"type": "Precompiled", "precompiled_charsmap": "/////w=="}]}"#,
                "without a whole table",
            ),
            (r#"{"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAA"}}"#, "without a whole table"),
        ] {
            let refused = check(bytes.as_bytes()).unwrap_err();
            assert!(refused.contains(reason), "{bytes}: {refused}");
        }
        // A table of no units: four bytes of 0.
        check(br#"{"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="}, "model": 3}"#).unwrap();
        check(b"{}").unwrap();
    }

    #[test]
    fn a_panic_of_the_library_is_an_error() {
        let panics = || -> Result<(), tokenizers::Error> { panic!("as the library does") };
        assert!(guarded(panics).unwrap_err().contains("panic"));
        assert_eq!(guarded(|| Ok(3)).unwrap(), 3);
    }
}
