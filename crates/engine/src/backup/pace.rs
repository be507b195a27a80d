//! The pace of a backup, shared by all its threads.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use kubedb_core::effort::{Allowance, Effort};
use nix::time::ClockId;
use tokio_util::sync::CancellationToken;

/// A thread that waits looks this often whether it is to stop.
const LOOK: Duration = Duration::from_millis(100);

/// What was taken of what is allowed.
#[derive(Debug)]
pub(super) struct Pace {
    began: Instant,
    bytes: Option<Mutex<Allowance>>,
    /// In nanoseconds a second.
    processor: Option<Mutex<Allowance>>,
}

impl Pace {
    pub(super) fn new(effort: &Effort) -> Self {
        let allowance = |per_second| Mutex::new(Allowance::new(per_second));
        let nanos = |millis: u64| millis.saturating_mul(1_000_000);
        Self {
            began: Instant::now(),
            bytes: effort.bytes_per_second.map(allowance),
            processor: effort.cpu_millis.map(nanos).map(allowance),
        }
    }

    /// Time that this thread has had of a processor; nothing where nobody asks.
    pub(super) fn thread_time(&self) -> Duration {
        if self.processor.is_none() {
            return Duration::ZERO;
        }
        let time = ClockId::CLOCK_THREAD_CPUTIME_ID.now();
        time.map_or(Duration::ZERO, Duration::from)
    }

    /// How long to wait, now that bytes were read and a thread has worked on them for this long.
    pub(super) fn pause(&self, bytes: usize, worked: Duration) -> Duration {
        let now = self.began.elapsed();
        let take = |allowance: &Option<Mutex<Allowance>>, amount| match allowance {
            None => Duration::ZERO,
            Some(allowance) => {
                let mut allowance = allowance.lock().unwrap_or_else(PoisonError::into_inner);
                allowance.take(now, amount)
            }
        };
        let nanos = u64::try_from(worked.as_nanos()).unwrap_or(u64::MAX);
        take(&self.bytes, bytes as u64).max(take(&self.processor, nanos))
    }
}

/// Waits, but not for somebody who is to stop. Blocks.
pub(super) fn wait(mut left: Duration, stop: &CancellationToken) {
    while !left.is_zero() && !stop.is_cancelled() {
        let now = left.min(LOOK);
        std::thread::sleep(now);
        left = left.saturating_sub(now);
    }
}

#[cfg(test)]
mod tests {
    use kubedb_core::effort::Limits;

    use super::*;

    /// Works for a moment again and again, as a reader does, and tells how long that took and how much of a processor.
    fn work(pace: &Pace, bytes: usize) -> (Duration, Duration) {
        let (begun, stop) = (Instant::now(), CancellationToken::new());
        let clock = || Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap());
        let first = clock();
        for _ in 0..20 {
            let before = pace.thread_time();
            let end = clock() + Duration::from_millis(3);
            while clock() < end {}
            wait(pace.pause(bytes, pace.thread_time() - before), &stop);
        }
        (begun.elapsed(), clock() - first)
    }

    #[test]
    fn threads_take_no_more_of_a_processor_than_is_allowed() {
        let limits = Limits {
            cpu_millis: Some(200),
            ..Limits::default()
        };
        let (took, worked) = work(&Pace::new(&Effort::within(&limits, 2)), 1 << 20);
        // But for what may be taken at once.
        assert!(
            took + Duration::from_millis(300) > worked * 5,
            "{took:?} for {worked:?}"
        );
        assert!(took > worked * 2, "{took:?} for {worked:?}");
    }

    #[test]
    fn no_more_bytes_are_read_than_is_allowed() {
        let limits = Limits {
            bytes_per_second: Some(20 << 20),
            ..Limits::default()
        };
        let (took, _) = work(&Pace::new(&Effort::within(&limits, 2)), 1 << 20);
        assert!(took > Duration::from_millis(700), "{took:?}");
    }

    #[test]
    fn one_that_is_to_stop_waits_no_longer() {
        let stop = CancellationToken::new();
        stop.cancel();
        let begun = Instant::now();
        wait(Duration::from_secs(600), &stop);
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
}
