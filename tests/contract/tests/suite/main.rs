//! The contract: what kube-apiserver answers, `kubedb server` answers too. See `src/lib.rs` for how the two are compared.

#![allow(clippy::unwrap_used)]

mod access;
mod bodies;
mod deletion;
mod discovery;
mod events;
mod forgotten;
mod kube_rs;
mod kubectl;
mod leases;
mod lists;
mod objects;
mod patches;
mod things;
mod validation;
mod watches;

use std::process::ExitCode;

use kubedb_contract::suite::{self, Case};

/// Lists the cases of the modules.
macro_rules! cases {
    ($($module:ident: $($function:ident),+;)+) => {
        &[$($(Case {
            name: concat!(stringify!($module), "::", stringify!($function)),
            run: |mut talk| Box::pin(async move {
                $module::$function(&mut talk).await;
                talk
            }),
        },)+)+]
    };
}

fn main() -> ExitCode {
    suite::main(cases! {
        access: strangers, agents;
        bodies: forms, protobuf, limits;
        deletion: finalizers, preconditions, collections, owners, propagation, namespaces;
        discovery: plain, aggregated, schemas, absent;
        events: both_groups;
        forgotten: versions;
        kube_rs: typed, reflected;
        kubectl: reads, outputs, absences, creates, changes, applies, deletes, waits_and_watches, explains;
        leases: races;
        lists: pages, selectors, tables, versions;
        objects: secrets, config_maps, namespaces, custom, generated_names, status, conflicts, dry_run;
        patches: merge, json, strategic, refused;
        validation: unknown_fields, wrong_types, names, mismatches;
        watches: from_a_version, from_zero, selected, tables, initial_events, expired, bookmarks;
    })
}
