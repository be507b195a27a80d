//! Repository, base backup and restore of PostgreSQL. Knows no Kubernetes. See ARCHITECTURE.md.

#[cfg(test)]
extern crate self as kubedb_engine;

pub mod archive;
pub mod backup;
pub mod encryption;
pub mod logical;
pub mod postgres;
#[doc(hidden)]
pub mod readers;
pub mod repository;
pub mod restore;
pub mod store;
mod tar;
pub mod walg;
pub mod walsender;
