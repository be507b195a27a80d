//! What lies in a bucket, and how it is named, read and deleted. The format is described in
//! `docs/reference/repository-format.md`.

pub mod archives;
pub mod catalogue;
pub mod check;
pub mod delete;
pub mod keys;
pub mod libc;
pub mod manifest;
pub mod map;
pub mod prune;

pub use delete::{DeleteError, Deleted, delete_snapshot};
