//! kubedb on a Kubernetes: installed as users install it, with its guides, and with what goes wrong there.

#![allow(clippy::unwrap_used)]

mod access;
mod faults;
mod guide;
mod logical;
mod monitoring;
mod pauses;
mod platform;
mod pods;
mod quickstart;
mod registry;
mod schedules;
mod snapshots;
mod standbys;
mod steady;
mod volumes;
mod world;
