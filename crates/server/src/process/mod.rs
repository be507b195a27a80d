//! The platform of one machine: instances are processes, volumes are folders.
//!
//! Agents outlive this process (docs/adr/0001): a server that was killed finds and adopts them at its next start.

mod agent;
mod build;
mod database;
mod layout;
mod orphans;
mod pinned;
mod platform;
mod ports;
mod processes;
mod proxy;
mod retire;
mod task;
mod user;
mod wipe;

pub use build::ResolveBuildError;
pub use layout::Layout;
pub use orphans::stop_orphans;
pub use platform::{AgentAccess, ProcessPlatform, ProcessPlatformOptions};
pub use user::{ServiceUser, UserError};
