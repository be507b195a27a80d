//! Continuous archiving and recovery to a point in time, on several majors: what comes back is what was asked for, or nothing does.

#![allow(clippy::unwrap_used)]

mod archives;
mod losses;
mod plans;
mod source;
mod store;
mod targets;
mod traps;
mod walg;
