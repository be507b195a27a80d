//! Whether a database's Snapshot is due now, from what its status remembers.
//!
//! The state lives in the Postgres status, so a restart of the operator repeats nothing and resets nothing.

use jiff::{SignedDuration, Timestamp};

use super::Schedule;

/// Ticks counted after a downtime; beyond it the exact number helps nobody.
const MISSED_MAX: u32 = 1_000;

/// A clock that is set steps by less than this, as a rule; a schedule of seconds does not begin anew for it.
const CLOCK_STEP_MAX: SignedDuration = SignedDuration::from_secs(60);

/// What the status remembers of a schedule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScheduleState {
    /// The expression that `next` was computed from, with its zone.
    pub expression: Option<String>,
    /// The tick that was last run or skipped.
    pub last: Option<Timestamp>,
    /// The tick that comes next; none while suspended.
    pub next: Option<Timestamp>,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScheduleAction {
    /// Make a Snapshot for this tick.
    Run {
        /// The time its name carries.
        tick: Timestamp,
        /// Further ticks that passed unseen; they are not made up for.
        missed: u32,
    },
    /// The tick came while a Snapshot was in work.
    Skip {
        /// The tick that is passed over.
        tick: Timestamp,
    },
    /// The tick passed too long ago.
    Miss {
        /// The tick that is left.
        tick: Timestamp,
    },
    /// Nothing until `state.next`.
    Wait,
}

/// What to do, what to remember, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleDecision {
    /// What to do.
    pub action: ScheduleAction,
    /// What to write to the status.
    pub state: ScheduleState,
    /// In words, for log and Event.
    pub reason: String,
}

/// Decides. `active` says that a Snapshot of this database is Pending or Running, `deadline` how late a tick is still run.
#[must_use]
pub fn due(
    now: Timestamp,
    schedule: &Schedule,
    state: &ScheduleState,
    active: bool,
    suspended: bool,
    deadline: Option<SignedDuration>,
) -> ScheduleDecision {
    let remember = |last: Option<Timestamp>, next: Option<Timestamp>| ScheduleState {
        expression: Some(schedule.identity().to_owned()),
        last,
        next,
    };
    if suspended {
        return decision(
            ScheduleAction::Wait,
            remember(state.last, None),
            "the schedule is suspended",
        );
    }
    let Some(last) = state.last else {
        let tick = whole_second(now);
        let state = remember(Some(tick), schedule.next_anchored(tick, now));
        let action = ScheduleAction::Run { tick, missed: 0 };
        return decision(
            action,
            state,
            "the schedule is new, so a Snapshot is made at once",
        );
    };
    let is_changed = state
        .expression
        .as_deref()
        .is_some_and(|old| old != schedule.identity());
    let Some(next) = state.next.filter(|_| !is_changed) else {
        let state = remember(Some(last), schedule.next_anchored(last, now));
        let reason = if is_changed {
            "the expression changed"
        } else {
            "the schedule goes on"
        };
        return decision(ScheduleAction::Wait, state, reason);
    };
    if clock_went_back(now, last, next) {
        // Counted from now on: what was served lies in a future that the clock took back.
        let last = whole_second(now);
        return decision(
            ScheduleAction::Wait,
            remember(Some(last), schedule.next_anchored(last, now)),
            "the clock went back, so the schedule begins anew from it",
        );
    }
    if now < next {
        return decision(
            ScheduleAction::Wait,
            remember(Some(last), Some(next)),
            "the next tick is ahead",
        );
    }
    let (tick, missed) = latest_tick(schedule, last, next, now);
    let state = remember(Some(tick), schedule.next_anchored(tick, now));
    if active {
        return decision(
            ScheduleAction::Skip { tick },
            state,
            "one Snapshot is still active",
        );
    }
    let late = now.duration_since(tick);
    if deadline.is_some_and(|deadline| late > deadline) {
        let action = ScheduleAction::Miss { tick };
        return decision(action, state, "the tick passed too long ago");
    }
    let reason = match missed {
        0 => "the tick has come".to_owned(),
        _ => format!("{missed} earlier ticks passed unseen; one Snapshot makes up for all"),
    };
    ScheduleDecision {
        action: ScheduleAction::Run { tick, missed },
        state,
        reason,
    }
}

fn decision(action: ScheduleAction, state: ScheduleState, reason: &str) -> ScheduleDecision {
    ScheduleDecision {
        action,
        state,
        reason: reason.to_owned(),
    }
}

/// Whether the last tick lies so far ahead that waiting for the clock to come there again would double a pause at least.
/// A step of less than that is waited for: no tick is served twice.
fn clock_went_back(now: Timestamp, last: Timestamp, next: Timestamp) -> bool {
    let ahead = last.duration_since(now);
    ahead > next.duration_since(last).max(CLOCK_STEP_MAX)
}

/// The last tick that is not after `now`, and how many came before it.
fn latest_tick(
    schedule: &Schedule,
    anchor: Timestamp,
    first: Timestamp,
    now: Timestamp,
) -> (Timestamp, u32) {
    let mut tick = first;
    for missed in 0..MISSED_MAX {
        match schedule.next_anchored(anchor, tick) {
            Some(following) if following <= now => tick = following,
            _ => return (tick, missed),
        }
    }
    // So many ticks passed that the last one is as good as now; an interval still keeps its anchor.
    match (schedule.interval(), schedule.next_anchored(anchor, now)) {
        (Some(interval), Some(following)) => {
            (following.checked_sub(interval).unwrap_or(tick), MISSED_MAX)
        }
        _ => (whole_second(now), MISSED_MAX),
    }
}

/// Snapshot names carry whole seconds.
fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
