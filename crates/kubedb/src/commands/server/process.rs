//! The process itself: its limits, what it hands on to its children.

use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    stat::{Mode, umask},
};

/// Once, before any thread or file.
pub(super) fn prepare() {
    // Whatever the shell's umask: files are for their owner, and what others may read is said where it is written.
    umask(Mode::from_bits_truncate(0o077));
    // A connection through an endpoint takes two files, and the usual limit of 1024 is made for programs that use select(2).
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, soft, "the limit of open files stays low");
    }
}
