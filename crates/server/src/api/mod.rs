//! The REST of a kube-apiserver.

pub(crate) mod resource;
pub(crate) mod schema;
pub(crate) mod status;
