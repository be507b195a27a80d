//! An installed kubedb on a real kube-apiserver: what `kubedb install` and `kubectl apply -k` make of it, what the webhook answers, who may do what.
//! No node is needed: the operator's webhook runs in the test, with the rights of its account.

#![allow(clippy::unwrap_used)]

mod answers;
#[path = "../../../../crates/kubedb/tests/bad/mod.rs"]
mod bad;
mod guide;
mod lifecycle;
mod locks;
mod namespaces;
mod plugin;
mod rights;
mod rotation;
mod world;
