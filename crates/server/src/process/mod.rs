//! The platform of one machine: instances are processes, volumes are folders.
//!
//! Agents outlive this process (docs/adr/0001): a server that was killed finds and adopts them at its next start.

mod agent;
mod build;
mod layout;
mod platform;
mod proxy;
mod user;

pub use build::{ResolveBuildError, resolve};
pub use layout::Layout;
pub use platform::{AgentAccess, ProcessPlatform, ProcessPlatformOptions};
pub use user::{ServiceUser, UserError};
