//! The REST of a kube-apiserver.

mod admission;
mod delete;
mod kinds;
mod names;
mod object;
mod patch;
pub(crate) mod resource;
mod route;
mod schema;
mod selector;
pub(crate) mod status;
mod write;
