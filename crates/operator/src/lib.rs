//! The operator: decides what should exist. See ARCHITECTURE.md.

pub mod platform;
