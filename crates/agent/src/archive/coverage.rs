//! Until when everything that was committed is archived.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};
use kubedb_core::lsn::Lsn;

/// Looks that are kept; at the distance below they reach back for hours.
const LOOKS: usize = 720;
/// After this long without a commit the segment in work is ended, if what was committed last may lie in it.
const QUIET: SignedDuration = SignedDuration::from_secs(30);
/// Looks are not kept closer than this.
const APART: SignedDuration = SignedDuration::from_secs(5);

/// The primary as it was at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// Before it was asked.
    pub(crate) at: Timestamp,
    /// Everything committed by then lies before this.
    pub(crate) lsn: Lsn,
    /// Transactions that had begun or ended by then, as PostgreSQL prints its snapshots. Two equal ones mean that none has committed in between.
    pub(crate) transactions: String,
}

/// What is known to be archived.
#[derive(Clone, Debug, Default)]
pub(crate) struct Coverage {
    looks: VecDeque<Look>,
    end: Lsn,
    covered: Option<Look>,
    /// The first look at which transactions were as they are now.
    quiet: Option<Look>,
    /// Whether a segment was ended for these already: once is enough.
    is_ended: bool,
}

impl Coverage {
    /// Notes a look at the primary, and says whether its segment shall be ended: what was committed just before the end of the last one is
    /// archived, and nothing shows it until then.
    pub(crate) fn look(&mut self, look: Look) -> bool {
        let at = look.at;
        if self
            .quiet
            .as_ref()
            .is_none_or(|quiet| quiet.transactions != look.transactions)
        {
            self.quiet = Some(look.clone());
            self.is_ended = false;
        }
        self.note(look);
        let is_quiet = self
            .quiet
            .as_ref()
            .is_some_and(|quiet| at.duration_since(quiet.at) >= QUIET);
        let ends = is_quiet && !self.is_ended && !self.looks.is_empty();
        self.is_ended |= ends;
        ends
    }

    fn note(&mut self, look: Look) {
        self.settle();
        let is_quiet = self
            .covered
            .as_ref()
            .is_some_and(|covered| covered.transactions == look.transactions);
        if look.lsn <= self.end || (is_quiet && self.looks.is_empty()) {
            self.covered = Some(look);
            return;
        }
        let is_close = self.looks.back().is_some_and(|last| {
            let apart = look.at.duration_since(last.at);
            apart < APART && !apart.is_negative()
        });
        if !is_close {
            if self.looks.len() == LOOKS {
                // In the middle nothing is missed: coverage moves by a few seconds more at once.
                self.looks.remove(LOOKS / 2);
            }
            self.looks.push_back(look);
        }
    }

    /// Everything before `end` is archived.
    pub(crate) fn archived(&mut self, end: Lsn) {
        self.end = self.end.max(end);
        self.settle();
    }

    fn settle(&mut self) {
        while self.looks.front().is_some_and(|look| look.lsn <= self.end) {
            self.covered = self.looks.pop_front();
        }
    }

    /// The time.
    pub(crate) fn time(&self) -> Option<Timestamp> {
        self.covered.as_ref().map(|look| look.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(second: i64, lsn: u64, transactions: &str) -> Look {
        Look {
            at: Timestamp::from_second(second).unwrap(),
            lsn: Lsn(lsn),
            transactions: transactions.to_owned(),
        }
    }

    fn covered(coverage: &Coverage) -> Option<i64> {
        coverage.time().map(Timestamp::as_second)
    }

    #[test]
    fn only_what_is_archived_is_covered() {
        let mut coverage = Coverage::default();
        coverage.look(look(100, 50, "7:7:"));
        assert_eq!(covered(&coverage), None);
        coverage.look(look(110, 90, "8:8:"));
        coverage.archived(Lsn(60));
        assert_eq!(covered(&coverage), Some(100));
        coverage.archived(Lsn(100));
        assert_eq!(covered(&coverage), Some(110));
        // An older answer takes nothing back.
        coverage.archived(Lsn(20));
        coverage.look(look(120, 100, "9:9:"));
        assert_eq!(covered(&coverage), Some(120));
    }

    #[test]
    fn where_nothing_commits_time_goes_on() {
        let mut coverage = Coverage::default();
        coverage.archived(Lsn(100));
        coverage.look(look(100, 100, "9:9:"));
        // A checkpoint writes WAL that nobody misses.
        coverage.look(look(200, 140, "9:9:"));
        assert_eq!(covered(&coverage), Some(200));
        // Somebody has written, and then nobody any more: it is missing until it is archived.
        coverage.look(look(300, 180, "10:10:"));
        coverage.look(look(400, 180, "10:10:"));
        assert_eq!(covered(&coverage), Some(200));
        coverage.archived(Lsn(200));
        assert_eq!(covered(&coverage), Some(400));
        coverage.look(look(500, 240, "10:10:"));
        assert_eq!(covered(&coverage), Some(500));
    }

    #[test]
    fn a_commit_just_before_the_end_of_a_segment_is_shown_by_ending_the_next() {
        let mut coverage = Coverage::default();
        assert!(!coverage.look(look(100, 50, "7:7:")));
        // Somebody commits, the segment ends and is archived, and only then there is a look.
        coverage.archived(Lsn(100));
        assert!(!coverage.look(look(102, 140, "8:8:")));
        assert!(!coverage.look(look(120, 140, "8:8:")));
        assert_eq!(covered(&coverage), Some(100));
        assert!(coverage.look(look(133, 140, "8:8:")));
        assert!(!coverage.look(look(140, 140, "8:8:")), "once");
        coverage.archived(Lsn(200));
        assert!(!coverage.look(look(145, 240, "8:8:")));
        assert_eq!(covered(&coverage), Some(145));
        // Where somebody commits all the time PostgreSQL ends segments by itself.
        for second in 150..400 {
            let transactions = second.to_string();
            assert!(!coverage.look(look(second, 250, &transactions)));
        }
    }

    #[test]
    fn looks_are_bounded() {
        let mut coverage = Coverage::default();
        for second in 0..10_000 {
            coverage.look(look(
                10 * second,
                1_000 + second as u64,
                &second.to_string(),
            ));
        }
        assert_eq!(coverage.looks.len(), LOOKS);
        coverage.archived(Lsn(1_000));
        assert_eq!(covered(&coverage), Some(0));
    }
}
