//! The embedded Kubernetes API: the kinds of kubedb and the few core kinds they need, on SQLite. See ARCHITECTURE.md.

mod api;
mod auth;
pub mod process;
mod server;
mod storage;

pub use auth::AgentGrant;
pub use server::ApiServer;
pub use storage::OpenError;
