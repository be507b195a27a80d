//! How much of a machine a backup takes, so that the database beside it keeps its share.

use std::time::Duration;

/// Threads that read and compress, where nothing holds them to less: more only help where a store takes more than a gigabyte a second.
const THREADS_MAX: usize = 4;
/// Packs on their way to a store: enough to fill a line of 1 Gbit/s over 300 ms.
const UPLOADS_MAX: usize = 3;
/// Memory of a pack that is filled or sent.
const PACK_BYTES: u64 = 17 << 20;
/// Memory of a thread: a stretch, what it is compressed to, and what compresses it.
const THREAD_BYTES: u64 = 8 << 20;
/// Memory of maps, connections and lists.
const REST_BYTES: u64 = 16 << 20;
/// The least memory in which a backup works: one thread, a pack that is filled and one that is sent.
pub const MEMORY_MIN_BYTES: u64 = 64 << 20;
/// The least share of a processor, in thousandths: with less the next backup would be due before one ends.
pub const CPU_MIN_MILLIS: u64 = 50;
/// The least rate.
pub const RATE_MIN_BYTES: u64 = 1 << 20;
/// What was not taken within this is not made up for later.
const SLACK: Duration = Duration::from_millis(200);
const NANOS: u128 = 1_000_000_000;

/// What a user allows a backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Thousandths of a processor.
    pub cpu_millis: Option<u64>,
    /// Memory of its buffers.
    pub memory_bytes: Option<u64>,
    /// Bytes read a second.
    pub bytes_per_second: Option<u64>,
}

/// How a backup keeps to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Files that are read and compressed at once.
    pub threads: usize,
    /// Packs on their way at once.
    pub uploads: usize,
    /// Time that all threads together may take, in thousandths; as much as they get when absent.
    pub cpu_millis: Option<u64>,
    /// Bytes that all threads together may read a second.
    pub bytes_per_second: Option<u64>,
}

impl Effort {
    /// What is best within these limits on a machine of so many processors. A limit that is too small to work in counts as the least one that is not.
    #[must_use]
    pub fn within(limits: &Limits, processors: usize) -> Self {
        let allowed = limits.cpu_millis.map(|millis| millis.max(CPU_MIN_MILLIS));
        let whole = allowed.map_or(usize::MAX, |millis| count(millis.div_ceil(1_000)));
        let threads = processors.min(THREADS_MAX).min(whole).max(1);
        let (threads, uploads) = match limits.memory_bytes {
            None => (threads, UPLOADS_MAX),
            Some(bytes) => fit(bytes.max(MEMORY_MIN_BYTES), threads),
        };
        Self {
            threads,
            uploads,
            // As much as its threads can take needs no watching.
            cpu_millis: allowed.filter(|millis| count(*millis) < threads * 1_000),
            bytes_per_second: limits.bytes_per_second.map(|rate| rate.max(RATE_MIN_BYTES)),
        }
    }
}

/// Threads and uploads that memory is enough for. The threads come first: uploads wait for lines, which are seldom the limit.
fn fit(bytes: u64, threads: usize) -> (usize, usize) {
    let rest = bytes.saturating_sub(REST_BYTES + 2 * PACK_BYTES);
    let threads = count(rest / THREAD_BYTES).clamp(1, threads);
    let rest = rest.saturating_sub(threads as u64 * THREAD_BYTES);
    let uploads = 1 + count(rest / PACK_BYTES);
    (threads, uploads.min(UPLOADS_MAX))
}

fn count(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// An amount of something a second, taken piece by piece by any number of takers.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    per_second: u64,
    /// When all that was taken will have been allowed.
    paid: Duration,
}

impl Allowance {
    /// So much a second.
    #[must_use]
    pub fn new(per_second: u64) -> Self {
        Self {
            per_second: per_second.max(1),
            paid: Duration::ZERO,
        }
    }

    /// Takes an amount, at a time since any beginning. Gives how long to wait before more is taken.
    pub fn take(&mut self, now: Duration, amount: u64) -> Duration {
        let nanos = u128::from(amount) * NANOS / u128::from(self.per_second);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let from = self.paid.max(now.saturating_sub(SLACK));
        self.paid = from.saturating_add(cost);
        self.paid.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(cpu: Option<u64>, mebibytes: Option<u64>, processors: usize) -> Effort {
        let limits = Limits {
            cpu_millis: cpu,
            memory_bytes: mebibytes.map(|count| count << 20),
            bytes_per_second: None,
        };
        Effort::within(&limits, processors)
    }

    #[test]
    fn without_limits_it_takes_what_helps() {
        let shape = |effort: Effort| (effort.threads, effort.uploads, effort.cpu_millis);
        assert_eq!(shape(within(None, None, 2)), (2, 3, None));
        assert_eq!(shape(within(None, None, 64)), (4, 3, None));
        assert_eq!(shape(within(None, None, 0)), (1, 3, None));
    }

    #[test]
    fn a_share_of_processors_bounds_threads_and_is_watched_where_they_could_take_more() {
        let shape = |cpu| {
            let effort = within(Some(cpu), None, 8);
            (effort.threads, effort.cpu_millis)
        };
        assert_eq!(shape(500), (1, Some(500)));
        assert_eq!(shape(1_000), (1, None));
        assert_eq!(shape(1_500), (2, Some(1_500)));
        assert_eq!(shape(2_000), (2, None));
        assert_eq!(shape(16_000), (4, None));
        assert_eq!(shape(0), (1, Some(CPU_MIN_MILLIS)));
    }

    #[test]
    fn memory_bounds_buffers() {
        for mebibytes in 1..400 {
            let effort = within(None, Some(mebibytes), 8);
            let packs = (effort.uploads as u64 + 1) * PACK_BYTES;
            let taken = REST_BYTES + packs + effort.threads as u64 * THREAD_BYTES;
            assert!(
                taken <= mebibytes.max(MEMORY_MIN_BYTES >> 20) << 20,
                "{mebibytes}: {effort:?}"
            );
            assert!(effort.threads >= 1 && effort.uploads >= 1);
        }
        let shape = |mebibytes| {
            let effort = within(None, Some(mebibytes), 2);
            (effort.threads, effort.uploads)
        };
        assert_eq!(shape(64), (1, 1));
        assert_eq!(shape(128), (2, 3));
    }

    #[test]
    fn an_allowance_is_kept_to_and_not_saved_up() {
        let mut allowance = Allowance::new(1_000_000);
        let (mut now, mut taken) = (Duration::ZERO, 0);
        while now < Duration::from_secs(10) {
            let wait = allowance.take(now, 150_000);
            taken += 150_000;
            now += wait.max(Duration::from_millis(1));
        }
        assert!((9_900_000..=10_500_000).contains(&taken), "{taken}");
        // An hour in which nothing was taken allows a moment's worth at once, and no more.
        now += Duration::from_secs(3_600);
        assert_eq!(allowance.take(now, 200_000), Duration::ZERO);
        assert_eq!(allowance.take(now, 100_000), Duration::from_millis(100));
    }

    #[test]
    fn several_takers_share_one_allowance() {
        let mut allowance = Allowance::new(1_000);
        let now = Duration::from_secs(1);
        let waits: Vec<Duration> = (0..3).map(|_| allowance.take(now, 1_000)).collect();
        let expected = [800, 1_800, 2_800].map(Duration::from_millis);
        assert_eq!(waits, expected);
    }

    #[test]
    fn no_amount_overflows() {
        let mut allowance = Allowance::new(0);
        allowance.take(Duration::MAX, u64::MAX);
        assert!(allowance.take(Duration::ZERO, u64::MAX) > Duration::from_secs(1));
    }
}
