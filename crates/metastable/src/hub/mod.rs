//! From what a user calls a model or an adapter to its files: a path, or the name of a Hugging Face Hub repository.
//!
//! [`HubCache`] finds what is in the Hub's local cache and never asks a network; [`fetch`] completes the cache first.
//! The cache has the layout of the `huggingface_hub` library, so what one tool downloaded the others find: a folder
//! `models--ORGANISATION--NAME` per repository, in which `blobs/` holds contents under their hashes,
//! `snapshots/COMMIT/` names that point at them, and `refs/REVISION` the commit of a branch or tag.
//!
//! Only safetensors, GGUF, configs and tokenizers are downloaded, never a pickle. A file counts when its size and its
//! hash are those that the Hub states; until then it has the ending `.incomplete` and is continued by the next run.

mod cache;
mod choose;
mod connection;
mod digest;
mod fetch;
mod name;
mod place;
mod transfer;

pub use cache::HubCache;
pub use choose::Role;
pub(crate) use fetch::cached;
pub use fetch::fetch;
pub use name::HubName;
