//! What many databases cost one operator: `cargo xtask bench scale`.
//!
//! The operator is the real program, with the rights that an installation gives it, on a real kube-apiserver. Pods are fakes of kwok, and what agents
//! write is written by `agents.rs`. Snapshots of the past are written as the operator would have left them.

mod agents;
mod past;
mod record;
mod run;
mod schedule;
mod subject;
mod world;

use std::{path::PathBuf, time::Duration};

pub use record::Record;
pub use run::measure;

/// Whatever kept a measurement from being made.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How much of everything there is.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Databases, each with a schedule.
    pub databases: usize,
    /// Snapshots that succeeded, of all databases alike.
    pub snapshots: usize,
    /// For how long what happens while nothing happens is watched.
    pub steady: Duration,
    /// Over how much time the ticks of the schedules are spread.
    pub spread: Duration,
}

/// What is measured.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The program.
    pub binary: PathBuf,
    /// How it was built, as the records say it.
    pub profile: String,
}
