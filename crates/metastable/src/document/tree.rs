//! Text of any format to one tree.

use std::cell::Cell;
use std::fmt;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use toml::{Table, Value};

use super::Format;
use crate::error::{LabError, Location};

/// Parses a configuration, whose top must be a table.
pub(super) fn parse(file: &Path, text: &str, format: Format) -> Result<Table, LabError> {
    let syntax = |location, message: String| LabError::ConfigSyntax { file: file.to_owned(), location, message };
    let budget = Cell::new(64 + 4 * text.len());
    let seed = Seed { budget: &budget };
    let value = match format {
        Format::Toml => {
            return toml::from_str(text).map_err(|error| {
                let start = error.span().map_or(0, |span| span.start);
                syntax(Location::of_offset(text, start), error.message().to_owned())
            });
        }
        Format::Yaml => seed.deserialize(serde_yaml_ng::Deserializer::from_str(text)).map_err(|error| {
            let place = error.location().map(|location| Location::new(location.line(), location.column()));
            syntax(place.unwrap_or_default(), without_place(&error.to_string()))
        })?,
        Format::Json => parse_json(text, seed)
            .map_err(|error| syntax(Location::new(error.line(), error.column()), without_place(&error.to_string())))?,
    };
    match value {
        Some(Value::Table(table)) => Ok(table),
        None => Ok(Table::new()),
        Some(other) => {
            Err(syntax(Location::default(), format!("expected keys and values, found {}", other.type_str())))
        }
    }
}

fn parse_json(text: &str, seed: Seed<'_>) -> Result<Option<Value>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = seed.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// A parser's message without the place, which we show in front.
fn without_place(message: &str) -> String {
    message.rfind(" at line ").map_or(message, |end| &message[..end]).to_owned()
}

/// Reads a value of a format that knows null; null means that the key is absent.
///
/// A document without aliases has no more nodes and characters than its text has bytes. YAML aliases can make
/// gigabytes of a few lines ("billion laughs"), so both are paid for from a budget of four times the text: enough for
/// honest aliases and for escapes, too little for a bomb.
#[derive(Clone, Copy)]
struct Seed<'a> {
    budget: &'a Cell<usize>,
}

impl Seed<'_> {
    fn pay<E: Error>(self, cost: usize) -> Result<(), E> {
        let left = self.budget.get().checked_sub(cost);
        self.budget.set(left.ok_or_else(|| E::custom("aliases make the document many times larger than its text"))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        self.pay(1)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, a text, a list or a table")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(Value::Boolean(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(Value::Integer(value)))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        let fits = i64::try_from(value).map_err(|_| E::custom(format!("the integer {value} is larger than 2^63 - 1")));
        fits.map(|value| Some(Value::Integer(value)))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Some(Value::Float(value)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        self.pay(value.len())?;
        Ok(Some(Value::String(value.to_owned())))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(entry) = entries.next_element_seed(self)? {
            list.push(entry.ok_or_else(|| A::Error::custom("expected a value in the list, found null"))?);
        }
        Ok(Some(Value::Array(list)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut table = Table::new();
        while let Some(key) = entries.next_key::<String>()? {
            self.pay(key.len())?;
            let value = entries.next_value_seed(self)?;
            if table.contains_key(&key) {
                return Err(A::Error::custom(format!("the key `{key}` stands here twice")));
            }
            if let Some(value) = value {
                table.insert(key, value);
            }
        }
        Ok(Some(Value::Table(table)))
    }
}
