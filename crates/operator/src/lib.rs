//! Controllers: what should exist, in five steps each (dereference, validate, plan, apply, update status).

pub mod archives;
mod calls;
mod context;
mod dormant;
mod events;
mod failures;
mod gate;
mod guarded;
pub mod health;
mod issue;
pub mod leader;
mod leases;
pub mod metrics;
mod namespaces;
mod operator;
pub mod platform;
mod postgres;
mod recent;
mod related;
pub mod rights;
mod seats;
mod snapshot;
mod superseded;
mod tasks;
pub mod webhook;
mod wipe;

pub use context::{Context, ReconcileError, run, run_with};
pub use guarded::{as_read, of_uid};
pub use namespaces::Namespaces;
pub use postgres::{retention, source};
