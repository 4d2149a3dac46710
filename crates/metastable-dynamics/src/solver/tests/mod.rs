//! Laws of the solver.
