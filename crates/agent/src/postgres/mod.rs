//! PostgreSQL as a program: its configuration, its process, its first cluster.

pub mod configuration;
pub mod initdb;
pub mod leftovers;
pub mod process;
pub(crate) mod tablespaces;
