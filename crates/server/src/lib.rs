//! The embedded Kubernetes API: the kinds of kubedb and the few core kinds they need, on SQLite. See ARCHITECTURE.md.

mod api;
mod auth;
mod keys;
mod kubeconfig;
mod limits;
pub mod process;
mod rotate;
mod serve;
mod server;
mod storage;
mod strangers;
mod tokens;

pub use auth::AgentGrant;
pub use keys::KeyError;
pub use limits::Limits;
pub use rotate::{RotateError, rotate};
pub use serve::{ServeError, Serving};
pub use server::ApiServer;
pub use storage::OpenError;
pub use tokens::TokenError;
