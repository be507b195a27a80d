//! Whether PostgreSQL asks for what waits. Its archiver ends by itself where it cannot run the command, starts again and again, and counts no failure.

use jiff::{SignedDuration, Timestamp};

/// After three failures PostgreSQL's archiver rests for a minute, and one question may last for one and a half.
const LIMIT: SignedDuration = SignedDuration::from_secs(180);

/// Since when something waits and nobody has asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Silence(Option<Timestamp>);

impl Silence {
    /// PostgreSQL has asked.
    pub(crate) fn end(&mut self) {
        self.0 = None;
    }

    /// Notes whether something waits, and gives since when nobody has asked, if that is too long.
    pub(crate) fn look(&mut self, is_waiting: bool, now: Timestamp) -> Option<Timestamp> {
        if !is_waiting {
            self.end();
        }
        let since = is_waiting.then(|| *self.0.get_or_insert(now))?;
        (now.duration_since(since) >= LIMIT).then_some(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_told_when_something_waits_for_long() {
        let at = |second: i64| Timestamp::from_second(1_795_000_000 + second).unwrap();
        let mut silence = Silence::default();
        assert_eq!(silence.look(false, at(0)), None);
        assert_eq!(silence.look(false, at(500)), None);
        assert_eq!(silence.look(true, at(510)), None);
        assert_eq!(silence.look(true, at(689)), None);
        assert_eq!(silence.look(true, at(690)), Some(at(510)));
        // Somebody asks, and however that ends is told otherwise.
        silence.end();
        assert_eq!(silence.look(true, at(700)), None);
        assert_eq!(silence.look(true, at(880)), Some(at(700)));
        assert_eq!(silence.look(false, at(890)), None);
        assert_eq!(silence.look(true, at(900)), None);
    }
}
