//! The REST of a kube-apiserver.

mod admission;
mod body;
pub(crate) mod collect;
mod delete;
mod discovery;
mod events;
mod format;
mod jsonpath;
mod kinds;
mod names;
mod namespace;
mod object;
mod openapi;
mod patch;
mod protobuf;
mod read;
pub(crate) mod resource;
pub(crate) mod route;
mod schema;
pub(crate) mod selector;
pub(crate) mod service;
pub(crate) mod status;
mod strict;
mod table;
mod watch;
mod write;

pub(crate) use write::create;
