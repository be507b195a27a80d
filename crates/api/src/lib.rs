//! The kinds, their defaults and validation, and the protocol between operator and agents.

pub mod admission;
pub mod agent_config;
pub mod archiver;
pub mod catalogue;
pub mod crd;
pub mod defaults;
pub mod dormant_database;
pub mod encryption;
pub mod labels;
pub mod lease;
pub mod metrics;
pub mod monitor;
pub mod nesting;
pub mod pod_template;
pub mod postgres;
pub mod postgres_version;
pub mod protocol;
pub mod quantity;
pub mod reasons;
pub mod retention;
mod rules;
pub mod snapshot;
pub mod storage;
pub mod summary;
pub mod untyped;
pub mod validate;
pub mod verification;

pub use dormant_database::DormantDatabase;
pub use postgres::{Postgres, PostgresSpec, PostgresStatus};
pub use postgres_version::PostgresVersion;
pub use snapshot::{Snapshot, SnapshotSpec, SnapshotStatus};
