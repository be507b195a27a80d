//! Real object-store servers for tests, on free ports of loopback, each with its objects in a folder of its own; a proxy that spoils what they
//! say, and a clock that a test can set.
//!
//! A server ends with its value, also when a test panics.

pub mod azurite;
pub mod certificates;
pub mod clock;
pub mod door;
pub mod fault;
pub mod gcs;
pub mod identity;
pub mod keystone;
pub mod left;
pub mod minio;
pub mod net;
pub mod process;
pub mod proxy;
pub mod swift;
pub mod web;
