//! Helpers of the end-to-end tests: the real binary, real store servers, and waiting for conditions.
//!
//! Every helper ends the processes it started, by id, also when a test panics.

pub mod kubedb;
pub mod machine;
pub mod process;
pub mod slow;
pub mod stores;
pub mod wait;
pub mod world;
