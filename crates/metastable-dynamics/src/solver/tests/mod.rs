//! Laws of the solver, on fields whose flows are known in closed form.

mod adaptive;
mod events;
mod order;
mod problems;
mod resume;
mod stops;
