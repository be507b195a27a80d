//! Recovery to a point in time: what is aimed at, where to begin, and whether it can be reached at all.

mod plan;
mod target;

pub use plan::{Base, PlanError, RecoveryPlan, plan};
pub use target::{Goal, ReadTargetError, Target, TargetFields, read_time};
