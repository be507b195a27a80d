//! What the engine knows of PostgreSQL itself.

pub mod backup_manifest;
pub mod control;
pub mod dialect;
pub mod page;
pub mod reset;
pub mod statistics;
