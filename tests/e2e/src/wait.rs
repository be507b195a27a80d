//! Waiting for a condition instead of sleeping for luck.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Asks `condition` until it answers `Ok`; after `within`, panics with its last reason.
///
/// # Panics
/// When the time is over: that is a failed test.
#[track_caller]
pub fn eventually<T>(
    what: &str,
    within: Duration,
    mut condition: impl FnMut() -> Result<T, String>,
) -> T {
    let end = Instant::now() + within;
    loop {
        match condition() {
            Ok(value) => return value,
            Err(reason) => {
                assert!(
                    Instant::now() < end,
                    "no {what} within {within:?}: {reason}"
                );
            }
        }
        thread::sleep(Duration::from_millis(50));
    }
}
