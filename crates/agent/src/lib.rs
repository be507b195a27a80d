//! The life of one instance: `observe` → `decide` (in core) → `act`.

pub mod agent;
pub mod api;
pub mod archive;
mod backup;
pub mod bootstrap;
mod copy;
pub mod find;
mod health;
mod label;
pub mod location;
pub mod metrics;
mod observe;
pub mod paths;
pub mod pod;
pub mod postgres;
mod prepare;
pub mod proxy;
mod recover;
mod report;
mod restore;
pub mod scripts;
mod serve;
pub mod served;
pub mod sql;
pub mod state;
pub mod task;
mod tasks;
mod verify;

pub use agent::{AgentError, run};
