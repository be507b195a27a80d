//! The REST of a kube-apiserver.

mod names;
pub(crate) mod resource;
mod schema;
mod selector;
pub(crate) mod status;
