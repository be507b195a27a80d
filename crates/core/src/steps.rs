//! Steps of the clock. Time limits that are kept as times of day must not run out because somebody set the clock forward, or because the machine slept.

use jiff::{SignedDuration, Timestamp};

/// Less than this is no step: a limit of an hour bears it, and clocks are slewed.
const STEP_MIN: SignedDuration = SignedDuration::from_secs(60);
/// Steps that are remembered: one a day for longer than any limit.
const STEPS_MAX: usize = 64;

/// A step forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What the clock would have shown without it.
    pub at: Timestamp,
    /// How far it went.
    pub by: SignedDuration,
}

/// A clock, watched by one that nobody sets.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    last: Option<(Timestamp, SignedDuration)>,
    steps: Vec<Step>,
}

impl Watch {
    /// Looks at the clock at this uptime.
    pub fn look(&mut self, now: Timestamp, uptime: SignedDuration) {
        if let Some((then, before)) = self.last.replace((now, uptime)) {
            let passed = uptime.checked_sub(before).unwrap_or_default();
            let at = then.checked_add(passed).unwrap_or(then);
            let by = now.duration_since(at);
            if by > STEP_MIN {
                if self.steps.len() == STEPS_MAX {
                    self.steps.remove(0);
                }
                self.steps.push(Step { at, by });
            }
        }
    }

    /// The steps that were seen.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}

/// Time that the clock shows to have passed since then, and that nobody lived through.
#[must_use]
pub fn skipped(steps: &[Step], since: Timestamp) -> SignedDuration {
    let after = steps.iter().filter(|step| step.at >= since);
    after.fold(SignedDuration::ZERO, |sum, step| {
        sum.saturating_add(step.by)
    })
}
