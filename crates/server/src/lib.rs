//! The embedded Kubernetes API: the kinds of kubedb and the few core kinds they need, on SQLite. See ARCHITECTURE.md.

mod api;
pub mod process;
mod storage;

pub use storage::OpenError;
