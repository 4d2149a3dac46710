//! One checkpoint, one forward pass: transformers as Hugging Face folders hold them, seen as moving tokens.
//!
//! Not here: experiments, reports, run folders, hashes, users. Every number of a model passes one door, once:
//! a folder is validated completely when it is opened, and trusted afterwards.
//!
//! Reading order: [`model`] is the front; [`checkpoint`](crate::Model::open) opens a folder by its [`config`] and the
//! name map of its family; [`text`] turns words into ids; the transformer turns ids into [`probe::Hidden`], clouds of
//! tokens with layers as time; [`heads`] turns weights into the heads of the mathematics.
//!
//! A new family is a name map, its fixture, and, where its forward differs, one more variant of an enum in [`config`].
#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod checkpoint;
pub mod config;
pub mod dequantized;
pub mod doors;
pub mod error;
mod gguf;
pub mod heads;
mod linear;
pub mod lora;
mod mapped;
pub mod model;
mod names;
pub mod probe;
mod product;
pub mod smoothness;
pub mod sphere;
pub mod surrogate;
pub mod text;
pub mod train;
mod transformer;
mod transpose;
pub mod weights;

pub use config::{Config, Family};
pub use dequantized::Dequantized;
pub use error::{ModelError, ModelErrorKind};
pub use heads::{DistancePoint, HeadSpectrum, Regime};
pub use model::{Input, Model};
pub use probe::Hidden;
pub use smoothness::{LayerConstant, LayerJacobian, LayerPart, Precision};
pub use sphere::SphereHeads;
pub use surrogate::SurrogateLevel;
pub use text::{Encoded, Text};
pub use weights::{Summary, Weights};
