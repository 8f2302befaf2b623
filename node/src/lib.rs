//! The carillon node as a library: what `main` runs and what tests start in-process.

pub mod edge;
