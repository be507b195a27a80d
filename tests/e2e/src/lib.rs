//! Helpers of the end-to-end tests: the real binary, real store servers, and waiting for conditions.
//!
//! Every helper ends the processes it started, by id, also when a test panics.

pub mod kubedb;
pub mod wait;

pub use kubedb_stores::process;

/// Real object-store servers.
pub mod stores {
    pub use kubedb_stores::{
        gcs::FakeGcs,
        net::{free_port, get},
    };
}
