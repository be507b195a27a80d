//! Real control planes for tests: kube-apiserver alone on loopback, and a whole Kubernetes on this machine.
//!
//! A [`Cluster`] is machines that are namespaces of the kernel (`machine.rs`): a switch, a control plane and nodes. Each of their programs, and each machine, can
//! be killed and started again, and a node can be cut off. Everything of a machine ends with its first process; nothing about it is remembered elsewhere.

mod certificates;
mod cgroup;
mod cluster;
pub mod control;
mod disk;
pub mod error;
mod faults;
pub mod images;
mod kubectl;
pub mod layout;
pub mod loopback;
mod machine;
mod manifests;
mod network;
pub mod node;
mod processes;
pub mod provisioner;
pub mod registry;
mod status;
pub mod tools;

pub use cluster::Cluster;
pub use error::StartError;
pub use faults::CutOff;
pub use kubectl::Kubectl;
pub use layout::Layout;
pub use machine::Machine;
