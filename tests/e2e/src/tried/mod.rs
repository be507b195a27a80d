//! Tests that hold wherever kubedb runs databases: each is one body, tried with `kubedb server` by the suites here and with pods on a
//! Kubernetes by those of `tests/cluster`.

#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "these are tests"
)]

pub mod schedules;
pub mod snapshots;
