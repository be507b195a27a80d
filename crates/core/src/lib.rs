//! Decisions and values. No IO, no clock, no randomness, no Kubernetes: time and ids are arguments.

pub mod age;
pub mod archive;
pub mod base;
pub mod codec;
pub mod deletion;
pub mod effort;
pub mod estimate;
pub mod first;
pub mod instance;
pub mod lsn;
pub mod metrics;
pub mod names;
pub mod prune;
pub mod pulse;
pub mod recovery;
pub mod release;
pub mod retention;
pub mod schedule;
pub mod snapshot;
pub mod steps;
pub mod tail;
pub mod turns;
pub mod verification;
