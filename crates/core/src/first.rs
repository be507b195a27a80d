//! The first Snapshot of a database whose WAL is archived: without one there is nothing that the archive could be replayed from.

use jiff::{SignedDuration, Timestamp};

/// Pause after the first one that failed; it doubles. A Snapshot has tried several times by itself before it counts as failed.
const PAUSE: SignedDuration = SignedDuration::from_mins(1);
/// Longest pause: what was put right is noticed within a quarter of a day, and a store that refuses for months fills no list.
const PAUSE_MAX: SignedDuration = SignedDuration::from_hours(6);
/// Doublings that lead to the longest pause.
const DOUBLINGS_MAX: u32 = 9;

/// What is remembered between looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FirstState {
    /// When the last one was decided; the name of its Snapshot carries it.
    pub tick: Option<Timestamp>,
    /// How many were.
    pub tries: u32,
    /// Whether the last one may not be there yet.
    pub is_pending: bool,
}

/// What is known of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstView {
    /// The time.
    pub now: Timestamp,
    /// Whether the database is Running, and says which data it has.
    pub is_running: bool,
    /// Whether there is a good Snapshot of this data.
    pub has_base: bool,
    /// Whether one is Pending or Running, or on its way out.
    pub is_active: bool,
    /// Whether the schedule makes one now.
    pub is_scheduled: bool,
    /// When the schedule last made one, or passed over one.
    pub last_scheduled: Option<Timestamp>,
    /// When the last one that failed ended.
    pub last_failed: Option<Timestamp>,
    /// What is remembered.
    pub state: FirstState,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstAction {
    /// Make one whose name carries this time.
    Make {
        /// The time.
        tick: Timestamp,
    },
    /// Nothing, until something happens or this time has come.
    Wait {
        /// The time.
        until: Option<Timestamp>,
    },
}

/// What to do, what to remember, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstDecision {
    /// What to do.
    pub action: FirstAction,
    /// What to write down before.
    pub state: FirstState,
    /// In words.
    pub reason: &'static str,
}

/// Decides.
#[must_use]
pub fn decide(view: &FirstView) -> FirstDecision {
    let state = view.state;
    let wait = |state, reason| FirstDecision {
        action: FirstAction::Wait { until: None },
        state,
        reason,
    };
    // What was decided is made before anything else is.
    if let (true, Some(tick)) = (state.is_pending, state.tick) {
        return FirstDecision {
            action: FirstAction::Make { tick },
            state,
            reason: "it was decided before",
        };
    }
    if view.has_base {
        let forgotten = FirstState::default();
        return wait(forgotten, "there is a Snapshot to begin from");
    }
    if view.is_active {
        return wait(state, "a Snapshot is in work");
    }
    if view.is_scheduled {
        return wait(state, "the schedule makes one");
    }
    if !view.is_running {
        return wait(state, "the database is not Running");
    }
    if let Some(until) = paused_until(view) {
        return FirstDecision {
            action: FirstAction::Wait { until: Some(until) },
            state,
            reason: "the last one has failed, or is not seen yet",
        };
    }
    let tick = Timestamp::from_second(view.now.as_second()).unwrap_or(view.now);
    FirstDecision {
        action: FirstAction::Make { tick },
        state: FirstState {
            tick: Some(tick),
            tries: state.tries.saturating_add(1),
            is_pending: true,
        },
        reason: "there is no Snapshot that the archive could be replayed from",
    }
}

/// The end of the pause after the last one, whoever made it. One that lies in a future which the clock took back ends at once.
fn paused_until(view: &FirstView) -> Option<Timestamp> {
    let doublings = view.state.tries.saturating_sub(1).min(DOUBLINGS_MAX);
    let pause = PAUSE.saturating_mul(1 << doublings).min(PAUSE_MAX);
    let last = [view.state.tick, view.last_scheduled, view.last_failed];
    let last = last.into_iter().flatten().max()?;
    let until = last.checked_add(pause).ok()?;
    let is_ahead = last.duration_since(view.now) > pause;
    (until > view.now && !is_ahead).then_some(until)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("2026-11-26T{text}Z").parse().unwrap()
    }

    fn view() -> FirstView {
        FirstView {
            now: at("12:00:00.5"),
            is_running: true,
            has_base: false,
            is_active: false,
            is_scheduled: false,
            last_scheduled: None,
            last_failed: None,
            state: FirstState::default(),
        }
    }

    fn waits(view: &FirstView) -> bool {
        matches!(decide(view).action, FirstAction::Wait { .. })
    }

    #[test]
    fn one_is_made_where_there_is_none_and_remembered_before() {
        let decision = decide(&view());
        let tick = at("12:00:00");
        assert_eq!(decision.action, FirstAction::Make { tick });
        let noted = FirstState {
            tick: Some(tick),
            tries: 1,
            is_pending: true,
        };
        assert_eq!(decision.state, noted);
        // Whatever happens before it is made, it is this one.
        let later = FirstView {
            now: at("18:00:00"),
            is_running: false,
            is_active: true,
            state: noted,
            ..view()
        };
        let decision = decide(&later);
        assert_eq!(
            (decision.action, decision.state),
            (FirstAction::Make { tick }, noted)
        );
    }

    #[test]
    fn none_is_made_beside_another() {
        for view in [
            FirstView {
                has_base: true,
                ..view()
            },
            FirstView {
                is_active: true,
                ..view()
            },
            FirstView {
                is_scheduled: true,
                ..view()
            },
            FirstView {
                is_running: false,
                ..view()
            },
        ] {
            assert!(waits(&view), "{view:?}");
        }
        // The schedule has made one a moment ago, and it is not seen yet.
        let scheduled = FirstView {
            last_scheduled: Some(at("12:00:00")),
            ..view()
        };
        let until = Some(at("12:01:00"));
        assert_eq!(decide(&scheduled).action, FirstAction::Wait { until });
    }

    #[test]
    fn failures_are_tried_again_further_and_further_apart_and_never_given_up() {
        let mut known = view();
        let mut pauses = Vec::new();
        for _ in 0..14 {
            let decision = decide(&known);
            let FirstAction::Make { tick } = decision.action else {
                panic!("{decision:?}");
            };
            known.state = FirstState {
                is_pending: false,
                ..decision.state
            };
            known.last_failed = Some(tick);
            let FirstAction::Wait { until: Some(until) } = decide(&known).action else {
                panic!("{known:?}");
            };
            pauses.push(until.duration_since(tick).as_secs() / 60);
            known.now = until;
        }
        assert_eq!(
            pauses,
            [1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360, 360, 360, 360]
        );
        // The pause counts from the end of the one that failed.
        known.last_failed = known.now.checked_add(SignedDuration::from_mins(-1)).ok();
        assert!(waits(&known));
        // Once one is there everything begins anew.
        known.has_base = true;
        assert_eq!(decide(&known).state, FirstState::default());
    }

    #[test]
    fn a_clock_that_was_years_ahead_stops_nothing() {
        let ahead = FirstState {
            tick: Some("2031-01-01T00:00:00Z".parse().unwrap()),
            tries: 1,
            is_pending: false,
        };
        let view = FirstView {
            state: ahead,
            ..view()
        };
        assert!(!waits(&view));
    }
}
