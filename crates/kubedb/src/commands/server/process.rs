//! The process itself: its signals, its limits, what it hands on to its children.

use std::io;

use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    stat::{Mode, umask},
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Number of SIGHUP, less one: its bit in the masks of /proc.
const HANGUP_BIT: u64 = 0;

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

/// The signals that ask for a clean stop.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl StopSignals {
    /// From now on these signals end nothing by themselves.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            // A terminal that goes away, unless nohup said that this is no reason.
            hangup: if ignores_hangup() {
                None
            } else {
                Some(signal(SignalKind::hangup())?)
            },
        })
    }

    /// The next of them.
    pub(super) async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = hangup => {}
        }
    }
}

/// Unknown is no: then a hangup stops the server, and nothing is left running.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> HANGUP_BIT & 1 == 1)
}
