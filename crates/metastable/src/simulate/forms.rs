//! Values of a config that may be written in more than one form: matrices, vectors, save times, one item or a list.

use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, StringDeserializer};
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::law::RandomMatrix;

/// A vector: a list of numbers, or a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "invalid type: something else, expected a list of numbers, a file name, or {file, tensor}"
)]
pub enum VectorConfig {
    /// Inline.
    Values(Vec<f64>),
    /// A `.npy` or `.safetensors` file, relative to the config.
    File(String),
    /// A tensor of a `.safetensors` file.
    Tensor {
        /// The file.
        file: String,
        /// The tensor's name.
        tensor: String,
    },
}

impl VectorConfig {
    /// The name of its file, if it is in one.
    pub fn file_mut(&mut self) -> Option<&mut String> {
        match self {
            Self::Values(_) => None,
            Self::File(file) | Self::Tensor { file, .. } => Some(file),
        }
    }
}

/// Times to save.
#[derive(Debug, Clone, PartialEq)]
pub enum Save {
    /// This many, equally spaced, both ends included.
    Count(usize),
    /// These.
    Times(Vec<f64>),
}

impl Default for Save {
    fn default() -> Self {
        Self::Count(101)
    }
}

/// A matrix: "identity", "zero", a scalar c (c·I), rows, a file, or a law to draw from.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum MatrixConfig {
    /// I.
    #[default]
    Identity,
    /// 0.
    Zero,
    /// c·I.
    Scalar(f64),
    /// Inline rows.
    Rows(Vec<Vec<f64>>),
    /// A `.npy` or `.safetensors` file, relative to the config.
    File(String, Option<String>),
    /// Drawn at random.
    Random(RandomMatrix),
}

impl Serialize for MatrixConfig {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Identity => serializer.serialize_str("identity"),
            Self::Zero => serializer.serialize_str("zero"),
            Self::Scalar(c) => serializer.serialize_f64(*c),
            Self::Rows(rows) => rows.serialize(serializer),
            Self::File(file, None) => serializer.serialize_str(file),
            Self::File(file, Some(tensor)) => {
                TensorFile { file: file.clone(), tensor: tensor.clone() }.serialize(serializer)
            }
            Self::Random(law) => law.serialize(serializer),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TensorFile {
    file: String,
    tensor: String,
}

/// A table that names a tensor of a file begins with `file` or `tensor`, every other one is a law.
enum MatrixTable {
    Tensor(TensorFile),
    Random(RandomMatrix),
}

impl MatrixTable {
    fn read<'de, A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        // The first key is put back in front of the others.
        let first: Option<String> = map.next_key()?;
        let is_file = first.as_deref().is_some_and(|key| ["file", "tensor"].contains(&key));
        let map = MapAccessDeserializer::new(Again { first, map });
        match is_file {
            true => TensorFile::deserialize(map).map(Self::Tensor),
            false => RandomMatrix::deserialize(map).map(Self::Random),
        }
    }
}

/// Entries whose first key has been read already.
struct Again<A> {
    first: Option<String>,
    map: A,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Again<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        match self.first.take() {
            Some(key) => seed.deserialize(StringDeserializer::new(key)).map(Some),
            None => self.map.next_key_seed(seed),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

impl<'de> Deserialize<'de> for MatrixConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MatrixVisitor;
        impl<'de> Visitor<'de> for MatrixVisitor {
            type Value = MatrixConfig;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("\"identity\", \"zero\", a number c (for c·I), rows of numbers, a file name, or a law")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<MatrixConfig, E> {
                match text {
                    "identity" => Ok(MatrixConfig::Identity),
                    "zero" => Ok(MatrixConfig::Zero),
                    file if file.ends_with(".npy") || file.ends_with(".safetensors") => {
                        Ok(MatrixConfig::File(file.into(), None))
                    }
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_f64<E: de::Error>(self, c: f64) -> Result<MatrixConfig, E> {
                Ok(MatrixConfig::Scalar(c))
            }

            fn visit_i64<E: de::Error>(self, c: i64) -> Result<MatrixConfig, E> {
                Ok(MatrixConfig::Scalar(c as f64))
            }

            fn visit_u64<E: de::Error>(self, c: u64) -> Result<MatrixConfig, E> {
                Ok(MatrixConfig::Scalar(c as f64))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<MatrixConfig, A::Error> {
                let mut rows = Vec::new();
                while let Some(row) = sequence.next_element::<Vec<f64>>()? {
                    rows.push(row);
                }
                Ok(MatrixConfig::Rows(rows))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<MatrixConfig, A::Error> {
                Ok(match MatrixTable::read(map)? {
                    MatrixTable::Tensor(TensorFile { file, tensor }) => MatrixConfig::File(file, Some(tensor)),
                    MatrixTable::Random(law) => MatrixConfig::Random(law),
                })
            }
        }
        deserializer.deserialize_any(MatrixVisitor)
    }
}

impl JsonSchema for MatrixConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Matrix".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let law = generator.subschema_for::<RandomMatrix>();
        json_schema!({
            "description": "\"identity\", \"zero\", a number c (for c·I), rows, a .npy or .safetensors file, {file, tensor}, or a law to draw from",
            "anyOf": [
                {"type": "string"},
                {"type": "number"},
                {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
                {"type": "object", "required": ["file", "tensor"], "additionalProperties": false,
                 "properties": {"file": {"type": "string"}, "tensor": {"type": "string"}}},
                law
            ]
        })
    }
}

impl Serialize for Save {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u64(*count as u64),
            Self::Times(times) => times.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Save {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SaveVisitor;
        impl<'de> Visitor<'de> for SaveVisitor {
            type Value = Save;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a number of times to save, or a list of times")
            }

            fn visit_u64<E: de::Error>(self, count: u64) -> Result<Save, E> {
                usize::try_from(count).map(Save::Count).map_err(|_| E::custom("too many times to save"))
            }

            fn visit_i64<E: de::Error>(self, count: i64) -> Result<Save, E> {
                usize::try_from(count)
                    .map(Save::Count)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(count), &self))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Save, A::Error> {
                let mut times = Vec::new();
                while let Some(time) = sequence.next_element::<f64>()? {
                    times.push(time);
                }
                Ok(Save::Times(times))
            }
        }
        deserializer.deserialize_any(SaveVisitor)
    }
}

impl JsonSchema for Save {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Save".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [
            {"type": "integer", "minimum": 2},
            {"type": "array", "items": {"type": "number"}, "minItems": 2}
        ]})
    }
}

/// One item, or a list of them.
#[derive(Debug, Clone, PartialEq)]
pub struct OneOrMany<T>(pub Vec<T>);

impl<T> OneOrMany<T> {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Serialize> Serialize for OneOrMany<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("one item or a list of items")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
                T::deserialize(de::value::U64Deserializer::new(number)).map(|item| OneOrMany(vec![item]))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
                T::deserialize(de::value::I64Deserializer::new(number)).map(|item| OneOrMany(vec![item]))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                T::deserialize(de::value::StrDeserializer::new(text)).map(|item| OneOrMany(vec![item]))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|item| OneOrMany(vec![item]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = sequence.next_element()? {
                    items.push(item);
                }
                Ok(OneOrMany(items))
            }
        }
        deserializer.deserialize_any(Items(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("OneOrMany{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let item = generator.subschema_for::<T>();
        json_schema!({"anyOf": [item, {"type": "array", "items": item}]})
    }
}
