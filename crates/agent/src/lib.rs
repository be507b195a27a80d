//! The life of one instance: `observe` → `decide` (in core) → `act`.

pub mod paths;
pub mod postgres;
pub mod sql;
pub mod state;
