//! What the engine knows of PostgreSQL itself.

pub mod page;
