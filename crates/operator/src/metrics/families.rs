//! Everything an operator tells of itself; what it tells of databases is in `kubedb_api::metrics`.

use kubedb_core::metrics::{Family, Kind, counter, gauge};

const NONE: &[&str] = &[];

pub(super) const INFO: Family = gauge(
    "kubedb_operator_info",
    &["version"],
    "1; its label says which version of kubedb the operator is.",
);
pub(super) const LEADS: Family = gauge(
    "kubedb_operator_leader",
    NONE,
    "1 while this operator acts, 0 while it waits for another to stop.",
);
pub(super) const OBJECTS: Family = gauge(
    "kubedb_operator_objects",
    &["kind"],
    "Objects that the operator looks after.",
);
pub(super) const FAILING: Family = gauge(
    "kubedb_operator_failing_objects",
    NONE,
    "Objects whose last reconcile failed.",
);
pub(super) const ACTIVE: Family = gauge(
    "kubedb_operator_reconciles_active",
    &["controller"],
    "Reconciles in work.",
);
pub(super) const RECONCILES: Family = counter(
    "kubedb_operator_reconciles_total",
    &["controller", "result"],
    "Reconciles that ended: success, conflict (somebody else changed the object meanwhile) or error.",
);
pub(super) const DURATION: Family = Family {
    name: "kubedb_operator_reconcile_duration_seconds",
    kind: Kind::Histogram,
    labels: &["controller"],
    help: "How long reconciles took.",
};
pub(super) const REQUESTS: Family = counter(
    "kubedb_operator_api_requests_total",
    &["verb", "resource", "code"],
    "Requests to the API that were answered; code 0 counts those that were not.",
);
pub(super) const REQUEST_DURATION: Family = Family {
    name: "kubedb_operator_api_request_duration_seconds",
    kind: Kind::Histogram,
    labels: &["verb"],
    help: "How long the API took to begin its answer; watches do not count.",
};
pub(super) const WEBHOOK: Family = counter(
    "kubedb_operator_webhook_requests_total",
    &["webhook", "outcome"],
    "Questions of API servers to the webhook: allowed, denied, or error where they could not be answered.",
);
pub(super) const MEMORY: Family = gauge(
    "process_resident_memory_bytes",
    NONE,
    "Memory of the process.",
);
pub(super) const CPU: Family = counter(
    "process_cpu_seconds_total",
    NONE,
    "Time that the process has computed.",
);
pub(super) const FILES: Family =
    gauge("process_open_fds", NONE, "Files that the process has open.");
pub(super) const STARTED: Family = gauge(
    "process_start_time_seconds",
    NONE,
    "When the process began.",
);

/// All of them, for documentation and checks.
pub const FAMILIES: &[&Family] = &[
    &INFO,
    &LEADS,
    &OBJECTS,
    &FAILING,
    &ACTIVE,
    &RECONCILES,
    &DURATION,
    &REQUESTS,
    &REQUEST_DURATION,
    &WEBHOOK,
    &MEMORY,
    &CPU,
    &FILES,
    &STARTED,
];
