//! What the engine knows of PostgreSQL itself.

pub mod dialect;
pub mod page;
