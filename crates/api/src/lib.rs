//! The kinds, their defaults and validation, and the protocol between operator and agents.

pub mod agent_config;
pub mod protocol;
pub mod storage;
