//! Helpers of the end-to-end tests: the real binary, real store servers, and waiting for conditions.
//!
//! Every helper ends the processes it started, by id, also when a test panics.

pub mod by_hand;
pub mod disk;
mod folders;
pub mod instance;
pub mod kubedb;
pub mod machine;
pub mod metrics;
pub mod platform;
pub mod slow;
pub mod tried;
pub mod wait;
pub mod world;

pub use kubedb_stores::{left, process};

/// Real object-store servers.
pub mod stores {
    pub use kubedb_stores::{
        gcs::FakeGcs,
        net::{cache, free_port, get},
    };
}
