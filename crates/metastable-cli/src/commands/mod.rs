//! The commands: each turns its arguments into a request, calls the lab, and shows what comes back.

pub(crate) mod field;
mod gaussian;
pub(crate) mod inspect;
pub(crate) mod render;
pub(crate) mod schema;

pub(crate) mod selftest;
pub(crate) mod show;
pub(crate) mod simulate;
