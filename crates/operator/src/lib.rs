//! Controllers: what should exist, in five steps each (dereference, validate, plan, apply, update status).

pub mod context;
pub mod events;
pub mod platform;
pub mod postgres;
pub mod snapshot;

pub use context::{Context, run};
