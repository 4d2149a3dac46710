//! The keys and values of a GGUF file. Arrays stay where they are in the file until somebody walks through them.

use std::collections::BTreeMap;

use super::reader::{Broken, Reader};

/// One value.
#[derive(Debug, Clone)]
pub(crate) enum Value<'a> {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Flag(bool),
    Text(&'a str),
    Array(Array<'a>),
}

/// Values of one type in a row; validated, decoded when asked for.
#[derive(Debug, Clone)]
pub(crate) struct Array<'a> {
    kind: u32,
    count: u64,
    reader: Reader<'a>,
}

impl<'a> Array<'a> {
    /// All values; none if they are not what `pick` wants.
    fn values<T>(&self, pick: impl Fn(Value<'a>) -> Option<T>) -> Option<Vec<T>> {
        let mut reader = self.reader.clone();
        (0..self.count).map(|_| value(&mut reader, self.kind, "an array").ok().and_then(&pick)).collect()
    }

    /// All strings of an array of strings.
    pub(crate) fn texts(&self) -> Option<Vec<&'a str>> {
        self.values(|value| match value {
            Value::Text(text) => Some(text),
            _ => None,
        })
    }

    /// All numbers of an array of floats.
    pub(crate) fn numbers(&self) -> Option<Vec<f64>> {
        self.values(|value| match value {
            Value::Float(number) => Some(number),
            _ => None,
        })
    }

    /// All numbers of an array of integers.
    pub(crate) fn integers(&self) -> Option<Vec<i64>> {
        self.values(|value| match value {
            Value::Unsigned(number) => i64::try_from(number).ok(),
            Value::Signed(number) => Some(number),
            _ => None,
        })
    }
}

/// Largest accepted key; the format's own limit.
const LARGEST_KEY: usize = 65_535;

/// The metadata of a file, validated as a whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metadata<'a> {
    entries: BTreeMap<&'a str, Value<'a>>,
}

impl<'a> Metadata<'a> {
    pub(super) fn read(reader: &mut Reader<'a>, count: u64) -> Result<Self, Broken> {
        let mut entries = BTreeMap::new();
        for index in 0..count {
            let key = reader.text(&format!("the name of entry {index}"))?;
            if key.len() > LARGEST_KEY {
                return Err(format!("a name of {} bytes", key.len()));
            }
            let what = format!("`{key}`");
            let kind = reader.u32(&what)?;
            let value = value(reader, kind, &what)?;
            if entries.insert(key, value).is_some() {
                return Err(format!("two entries `{key}`"));
            }
        }
        Ok(Self { entries })
    }

    /// `organisation/name` of the checkpoint that the file was made of.
    ///
    /// # References
    /// `docs/gguf.md` of ggml, "General metadata": source and base_model keys \[2nd\].
    pub(crate) fn origin(&self) -> Option<String> {
        const KEYS: [&str; 5] = [
            "general.source.huggingface.repository",
            "general.source.repo_url",
            "general.source.url",
            "general.base_model.0.repo_url",
            "general.repo_url",
        ];
        KEYS.iter().filter_map(|key| self.text(key)).find_map(|text| {
            let name = text.strip_prefix("https://huggingface.co/").unwrap_or(text).trim_end_matches('/');
            let is_part = |part: &str| {
                let plain = part.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter));
                plain && !part.is_empty() && !part.starts_with('.') && part.len() <= 96
            };
            (name.split('/').count() == 2 && name.split('/').all(is_part)).then(|| name.to_owned())
        })
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.entries.get(key)
    }

    pub(crate) fn text(&self, key: &str) -> Option<&'a str> {
        match self.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn flag(&self, key: &str) -> Option<bool> {
        match self.get(key) {
            Some(Value::Flag(flag)) => Some(*flag),
            _ => None,
        }
    }

    pub(crate) fn integer(&self, key: &str) -> Option<u64> {
        match self.get(key) {
            Some(Value::Unsigned(number)) => Some(*number),
            Some(Value::Signed(number)) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    pub(crate) fn array(&self, key: &str) -> Option<&Array<'a>> {
        match self.get(key) {
            Some(Value::Array(array)) => Some(array),
            _ => None,
        }
    }
}

const ARRAY: u32 = 9;
const TEXT: u32 = 8;

/// Reads a value of type `kind`, by the numbers of the format's specification.
fn value<'a>(reader: &mut Reader<'a>, kind: u32, what: &str) -> Result<Value<'a>, Broken> {
    let size = match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        TEXT => return reader.text(what).map(Value::Text),
        ARRAY => return array(reader, what).map(Value::Array),
        _ => return Err(format!("a value of unknown type {kind} at {what}")),
    };
    let bytes = reader.take(size, what)?;
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let number = u64::from_le_bytes(wide);
    Ok(match kind {
        1 => Value::Signed(i64::from(number as u8 as i8)),
        3 => Value::Signed(i64::from(number as u16 as i16)),
        5 => Value::Signed(i64::from(number as u32 as i32)),
        6 => Value::Float(f64::from(f32::from_bits(number as u32))),
        7 => Value::Flag(number != 0),
        11 => Value::Signed(number as i64),
        12 => Value::Float(f64::from_bits(number)),
        _ => Value::Unsigned(number),
    })
}

/// Walks over an array once, so that it is known to be whole.
fn array<'a>(reader: &mut Reader<'a>, what: &str) -> Result<Array<'a>, Broken> {
    let kind = reader.u32(what)?;
    if kind == ARRAY {
        return Err(format!("an array of arrays at {what}"));
    }
    let smallest = if kind == TEXT { 8 } else { 1 };
    let count = reader.count(smallest, &format!("elements of {what}"))?;
    let array = Array { kind, count, reader: reader.clone() };
    for _ in 0..count {
        value(reader, kind, what)?;
    }
    Ok(array)
}
