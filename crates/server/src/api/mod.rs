//! The REST of a kube-apiserver.

mod admission;
mod delete;
mod format;
mod kinds;
mod names;
mod object;
mod patch;
mod read;
pub(crate) mod resource;
mod route;
mod schema;
mod selector;
pub(crate) mod status;
mod table;
mod write;
