//! How long a restore takes, from what a first part of it took. What was not measured is not known.

use std::time::Duration;

/// What was done in which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Bytes.
    pub bytes: u64,
    /// In this time.
    pub time: Duration,
}

/// Less says nothing: an answer from a cache, or a clock that did not move.
const LEAST_BYTES: u64 = 256 << 10;

impl Measured {
    /// Bytes a second, if enough was done to tell.
    #[must_use]
    pub fn rate(self) -> Option<f64> {
        let seconds = self.time.as_secs_f64();
        (self.bytes >= LEAST_BYTES && seconds > 0.0).then(|| self.bytes as f64 / seconds)
    }

    /// How long so many bytes take.
    #[must_use]
    pub fn time_for(self, bytes: u64) -> Option<Duration> {
        let seconds = bytes as f64 / self.rate()?;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

/// How long the writing of a Snapshot takes: it is fetched and unpacked while it is written, so the slower of both counts. None where the first is not
/// known; a disk that was not measured is left out, and `is_whole` says so.
#[must_use]
pub fn estimate(
    bytes: u64,
    unpacked: Option<Measured>,
    written: Option<Measured>,
) -> Option<Estimate> {
    let fetch = unpacked?.time_for(bytes)?;
    let write = written.and_then(|written| written.time_for(bytes));
    Some(Estimate {
        time: write.map_or(fetch, |write| fetch.max(write)),
        is_whole: write.is_some(),
    })
}

/// What is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// The time.
    pub time: Duration,
    /// Whether the disk was measured too.
    pub is_whole: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn measured(mib: u64, seconds: u64) -> Option<Measured> {
        Some(Measured {
            bytes: mib * MIB,
            time: Duration::from_secs(seconds),
        })
    }

    #[test]
    fn the_slower_of_both_counts() {
        let seconds = |unpacked, written| {
            estimate(1_000 * MIB, unpacked, written)
                .map(|told| (told.time.as_secs(), told.is_whole))
        };
        assert_eq!(seconds(measured(100, 1), measured(50, 1)), Some((20, true)));
        assert_eq!(seconds(measured(50, 1), measured(100, 1)), Some((20, true)));
        assert_eq!(seconds(measured(50, 1), None), Some((20, false)));
    }

    #[test]
    fn what_was_not_measured_is_not_known() {
        assert_eq!(estimate(MIB, None, measured(1, 1)), None);
        assert_eq!(estimate(MIB, measured(0, 1), None), None);
        assert_eq!(estimate(MIB, measured(1, 0), None), None);
        let nothing = estimate(0, measured(1, 1), None).unwrap();
        assert_eq!(nothing.time, Duration::ZERO);
    }
}
