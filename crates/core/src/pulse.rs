//! Signs of life, judged by the clock of the one who hears them.
//!
//! A heartbeat carries the time of another machine's clock. Whether that clock is right is nobody's business here: what
//! counts is when the value last changed, as seen by us. Time is a monotonic uptime, so that our own clock may be set, too.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

/// Sources at which those that were not asked for are looked for and forgotten.
const SWEEP_AT: usize = 1_024;
/// A source that nobody asked for so long is gone.
const FORGET_AFTER: SignedDuration = SignedDuration::from_hours(1);

/// What is known of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// Time since its value last changed, or since it was first seen.
    pub silence: SignedDuration,
    /// Whether its value ever changed under our eyes. If not, it may have been silent for long before.
    pub is_alive: bool,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    value: Timestamp,
    changed: SignedDuration,
    asked: SignedDuration,
    is_alive: bool,
}

impl Heard {
    fn pulse(&self, uptime: SignedDuration) -> Pulse {
        Pulse {
            silence: uptime - self.changed,
            is_alive: self.is_alive,
        }
    }
}

/// The sources that were heard of.
#[derive(Clone, Debug)]
pub struct Pulses<K> {
    heard: BTreeMap<K, Heard>,
    sweep_at: usize,
}

impl<K: Ord> Default for Pulses<K> {
    fn default() -> Self {
        Self {
            heard: BTreeMap::new(),
            sweep_at: SWEEP_AT,
        }
    }
}

impl<K: Ord> Pulses<K> {
    /// Notes what a source says at `uptime`, and tells for how long it has been saying the same.
    pub fn hear(&mut self, source: K, value: Timestamp, uptime: SignedDuration) -> Pulse {
        self.sweep(uptime);
        let heard = self.heard.entry(source).or_insert(Heard {
            value,
            changed: uptime,
            asked: uptime,
            is_alive: false,
        });
        if heard.value != value {
            heard.value = value;
            heard.changed = uptime;
            heard.is_alive = true;
        }
        heard.asked = uptime;
        heard.pulse(uptime)
    }

    /// What was known of a source when it was last listened to; none of one that was not.
    #[must_use]
    pub fn last(&self, source: &K, uptime: SignedDuration) -> Option<Pulse> {
        self.heard.get(source).map(|heard| heard.pulse(uptime))
    }

    /// Sources remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heard.len()
    }

    /// Whether nothing was heard yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heard.is_empty()
    }

    /// Costs one pass per doubling, so a pulse stays O(log n).
    fn sweep(&mut self, uptime: SignedDuration) {
        if self.heard.len() >= self.sweep_at {
            self.heard
                .retain(|_, heard| uptime - heard.asked < FORGET_AFTER);
            self.sweep_at = (2 * self.heard.len()).max(SWEEP_AT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> SignedDuration {
        SignedDuration::from_secs(seconds)
    }

    fn clock(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
    }

    #[test]
    fn only_change_counts_whatever_the_other_clock_says() {
        let mut pulses = Pulses::default();
        // An hour behind, then an hour ahead, then back: alive all the time.
        for (uptime, value) in [(0, 1_000), (10, 1_010), (20, 9_000), (30, 500)] {
            let pulse = pulses.hear("pg-0", clock(value), at(uptime));
            assert_eq!(pulse.silence, at(0));
            assert_eq!(pulse.is_alive, uptime > 0);
        }
        let pulse = pulses.hear("pg-0", clock(500), at(75));
        assert_eq!(pulse.silence, at(45));
        assert!(pulse.is_alive);
        assert_eq!(pulses.last(&"pg-0", at(75)), Some(pulse));
        assert_eq!(pulses.last(&"pg-1", at(75)), None);
    }

    #[test]
    fn what_nobody_asks_for_is_forgotten() {
        let mut pulses = Pulses::default();
        for source in 0..SWEEP_AT {
            pulses.hear(source, clock(0), at(0));
        }
        pulses.hear(0, clock(1), at(3_600));
        assert_eq!(pulses.len(), 1);
    }
}
