//! The life of one instance: `observe` → `decide` (in core) → `act`.

pub mod api;
pub mod bootstrap;
pub mod paths;
pub mod postgres;
pub mod scripts;
pub mod sql;
pub mod state;
