//! A tree to a type, remembering on which key it failed.

use std::cell::RefCell;

use serde::de::value::{Error, MapAccessDeserializer, StringDeserializer};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use toml::{Table, Value};

/// An error of serde with the path of the key it is about, such as `head[0].value`.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) path: String,
    pub(super) message: String,
}

/// Deserialises a table.
pub(super) fn deserialize<T: DeserializeOwned>(table: Table) -> Result<T, Failure> {
    let deepest = RefCell::new(None);
    let node = Node { value: Value::Table(table), path: String::new(), deepest: &deepest };
    T::deserialize(node)
        .map_err(|error| Failure { path: deepest.take().unwrap_or_default(), message: error.to_string() })
}

/// A value, where it stands, and where the first failure is noted.
struct Node<'a> {
    value: Value,
    path: String,
    deepest: &'a RefCell<Option<String>>,
}

/// Notes the path of a failure; those further out come later and are ignored.
fn note<T>(deepest: &RefCell<Option<String>>, path: &str, result: Result<T, Error>) -> Result<T, Error> {
    result.inspect_err(|_| {
        deepest.borrow_mut().get_or_insert_with(|| path.to_owned());
    })
}

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let Self { value, path, deepest } = self;
        let result = match value {
            Value::String(text) => visitor.visit_string(text),
            Value::Integer(integer) => visitor.visit_i64(integer),
            Value::Float(float) => visitor.visit_f64(float),
            Value::Boolean(flag) => visitor.visit_bool(flag),
            Value::Datetime(date) => visitor.visit_string(date.to_string()),
            Value::Array(list) => {
                visitor.visit_seq(List { entries: list.into_iter().enumerate(), path: &path, deepest })
            }
            Value::Table(table) => visitor.visit_map(Entries::new(table, &path, deepest)),
        };
        note(deepest, &path, result)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Self { value, path, deepest } = self;
        let result = match value {
            Value::String(text) => visitor.visit_enum(text.into_deserializer()),
            Value::Table(table) => visitor.visit_enum(MapAccessDeserializer::new(Entries::new(table, &path, deepest))),
            // The visitor words the complaint: "invalid type: integer `3`, expected ...".
            other => Node { value: other, path: path.clone(), deepest }.deserialize_any(visitor),
        };
        note(deepest, &path, result)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

struct List<'a> {
    entries: std::iter::Enumerate<std::vec::IntoIter<Value>>,
    path: &'a str,
    deepest: &'a RefCell<Option<String>>,
}

impl<'de> SeqAccess<'de> for List<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some((index, value)) = self.entries.next() else { return Ok(None) };
        let path = format!("{}[{index}]", self.path);
        seed.deserialize(Node { value, path, deepest: self.deepest }).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

struct Entries<'a> {
    entries: toml::map::IntoIter<String, Value>,
    next: Option<(String, Value)>,
    path: &'a str,
    deepest: &'a RefCell<Option<String>>,
}

impl<'a> Entries<'a> {
    fn new(table: Table, path: &'a str, deepest: &'a RefCell<Option<String>>) -> Self {
        Self { entries: table.into_iter(), next: None, path, deepest }
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        let name: StringDeserializer<Error> = key.clone().into_deserializer();
        self.next = Some((key, value));
        // An unknown key is a failure of the table it stands in.
        note(self.deepest, self.path, seed.deserialize(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (key, value) = self.next.take().expect("serde asks for the key before the value");
        let path = if self.path.is_empty() { key } else { format!("{}.{key}", self.path) };
        seed.deserialize(Node { value, path, deepest: self.deepest })
    }
}
