//! The tests' cluster is a Kubernetes: what pods, volumes, names and failures do here is what they do elsewhere.

#![allow(clippy::unwrap_used)]

mod faults;
mod pods;
mod volumes;
mod world;
