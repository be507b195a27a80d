//! What a recovery aims at.

use jiff::{Timestamp, fmt::strtime};

use crate::lsn::{Lsn, TimelineId};

/// Where replay ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// At the end of what is archived.
    Latest,
    /// As soon as the Snapshot is consistent.
    Immediate,
    /// At the last commit up to a time.
    Time(Timestamp),
    /// At a position.
    Lsn(Lsn),
    /// At the end of a transaction.
    Xid(u64),
    /// At a restore point that somebody named.
    Name(String),
}

/// What a recovery aims at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where it ends.
    pub goal: Goal,
    /// Whether what lies exactly there is replayed too.
    pub inclusive: bool,
    /// Timeline to follow; chosen when absent.
    pub timeline: Option<TimelineId>,
}

impl Target {
    /// The end of what is archived.
    #[must_use]
    pub fn latest() -> Self {
        Self {
            goal: Goal::Latest,
            inclusive: true,
            timeline: None,
        }
    }

    /// Why PostgreSQL of this version cannot aim at it.
    #[must_use]
    pub fn unknown_to(&self, version: &str) -> Option<String> {
        let is_unknown = matches!(self.goal, Goal::Lsn(_)) && version.starts_with("9.");
        is_unknown.then(|| format!("works from PostgreSQL 10 on, and this is {version}"))
    }

    /// Whether there is anything exactly at the target that could be left out.
    #[must_use]
    pub fn can_exclude(&self) -> bool {
        matches!(self.goal, Goal::Time(_) | Goal::Lsn(_) | Goal::Xid(_))
    }

    /// Settings of PostgreSQL that say so, without the timeline.
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let goal = match &self.goal {
            Goal::Latest => return Vec::new(),
            Goal::Immediate => ("recovery_target", "immediate".to_owned()),
            Goal::Time(time) => ("recovery_target_time", postgres_time(*time)),
            Goal::Lsn(lsn) => ("recovery_target_lsn", lsn.to_string()),
            Goal::Xid(xid) => ("recovery_target_xid", xid.to_string()),
            Goal::Name(name) => ("recovery_target_name", name.clone()),
        };
        let inclusive = if self.inclusive { "on" } else { "off" };
        vec![
            goal,
            ("recovery_target_inclusive", inclusive.to_owned()),
            ("recovery_target_action", "promote".to_owned()),
        ]
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.goal {
            Goal::Latest => write!(f, "the end of the archive")?,
            Goal::Immediate => write!(f, "the end of the Snapshot")?,
            Goal::Time(time) => write!(f, "time {time}")?,
            Goal::Lsn(lsn) => write!(f, "LSN {lsn}")?,
            Goal::Xid(xid) => write!(f, "transaction {xid}")?,
            Goal::Name(name) => write!(f, "restore point {name:?}")?,
        }
        if let Some(timeline) = self.timeline {
            write!(f, " on timeline {}", timeline.0)?;
        }
        Ok(())
    }
}

/// As PostgreSQL reads it under any setting of its own: with microseconds and in UTC.
fn postgres_time(time: Timestamp) -> String {
    strtime::format("%Y-%m-%d %H:%M:%S.%6f+00", time).unwrap_or_else(|_| time.to_string())
}

/// A target as people write it: at most one goal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetFields<'a> {
    /// Time, with its zone.
    pub time: Option<&'a str>,
    /// Position.
    pub lsn: Option<&'a str>,
    /// Number of a transaction.
    pub xid: Option<&'a str>,
    /// Name of a restore point.
    pub name: Option<&'a str>,
    /// The end of the Snapshot.
    pub immediate: bool,
    /// Number of a timeline, or `latest`.
    pub timeline: Option<&'a str>,
    /// Whether what lies exactly there is replayed; it is when absent.
    pub inclusive: Option<bool>,
}

/// Why a text is no target. Each names the field, as `TargetFields` does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadTargetError {
    /// Several goals.
    #[error("{} and {} exclude each other", .0[0], .0[1])]
    Several(Vec<&'static str>),
    /// No time.
    #[error(
        "time {text:?} is not understood: write one such as 2026-11-26T14:05:00Z or \"2026-11-26 14:05:00+01\""
    )]
    Time {
        /// What stood there.
        text: String,
    },
    /// A time that means another moment everywhere.
    #[error("time {text:?} says no zone: write it with Z or an offset such as +01")]
    Zone {
        /// What stood there.
        text: String,
    },
    /// No position.
    #[error(
        "lsn {text:?} is not understood: two hexadecimal numbers such as 0/3000060 are expected"
    )]
    Lsn {
        /// What stood there.
        text: String,
    },
    /// No number.
    #[error("xid {text:?} is not understood: the number of a transaction is expected")]
    Xid {
        /// What stood there.
        text: String,
    },
    /// A name that PostgreSQL would not have taken.
    #[error("name {text:?} cannot be a restore point: 1 to 63 bytes are expected")]
    Name {
        /// What stood there.
        text: String,
    },
    /// No timeline.
    #[error("timeline {text:?} is not understood: a number from 1 on, or latest, is expected")]
    Timeline {
        /// What stood there.
        text: String,
    },
}

/// Bytes of a restore point's name that PostgreSQL keeps.
const NAME_BYTES: usize = 63;

impl TargetFields<'_> {
    /// Reads the fields.
    pub fn read(&self) -> Result<Target, ReadTargetError> {
        let given: Vec<&'static str> = [
            ("time", self.time.is_some()),
            ("lsn", self.lsn.is_some()),
            ("xid", self.xid.is_some()),
            ("name", self.name.is_some()),
            ("immediate", self.immediate),
        ]
        .into_iter()
        .filter_map(|(name, is_given)| is_given.then_some(name))
        .collect();
        if given.len() > 1 {
            return Err(ReadTargetError::Several(given));
        }
        Ok(Target {
            goal: self.goal()?,
            inclusive: self.inclusive.unwrap_or(true),
            timeline: self.timeline.map(timeline).transpose()?.flatten(),
        })
    }

    fn goal(&self) -> Result<Goal, ReadTargetError> {
        if let Some(text) = self.time {
            return read_time(text).map(Goal::Time);
        }
        if let Some(text) = self.lsn {
            let lsn = text.parse().map(Goal::Lsn);
            return lsn.map_err(|_| ReadTargetError::Lsn {
                text: text.to_owned(),
            });
        }
        if let Some(text) = self.xid {
            // Up to 2 there are no transactions of users.
            let xid = text.parse().ok().filter(|xid| *xid > 2);
            return xid.map(Goal::Xid).ok_or_else(|| ReadTargetError::Xid {
                text: text.to_owned(),
            });
        }
        if let Some(text) = self.name {
            let fits =
                !text.is_empty() && text.len() <= NAME_BYTES && !text.contains(char::is_control);
            return fits.then(|| Goal::Name(text.to_owned())).ok_or_else(|| {
                ReadTargetError::Name {
                    text: text.to_owned(),
                }
            });
        }
        Ok(if self.immediate {
            Goal::Immediate
        } else {
            Goal::Latest
        })
    }
}

fn timeline(text: &str) -> Result<Option<TimelineId>, ReadTargetError> {
    if text == "latest" {
        return Ok(None);
    }
    let number = text.parse().ok().filter(|number| *number > 0);
    number
        .map(|number| Some(TimelineId(number)))
        .ok_or_else(|| ReadTargetError::Timeline {
            text: text.to_owned(),
        })
}

/// Reads a time as RFC 3339 or as PostgreSQL prints it. Without a zone it would mean another moment on each machine.
pub fn read_time(text: &str) -> Result<Timestamp, ReadTargetError> {
    let text = text.trim();
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let spelled = text
        .strip_suffix(" UTC")
        .or_else(|| text.strip_suffix(" GMT"))
        .map(|time| format!("{time}Z"));
    if let Some(time) = spelled.and_then(|text| text.parse().ok()) {
        return Ok(time);
    }
    let has_no_zone = text.parse::<jiff::civil::DateTime>().is_ok();
    Err(if has_no_zone {
        ReadTargetError::Zone {
            text: text.to_owned(),
        }
    } else {
        ReadTargetError::Time {
            text: text.to_owned(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Result<String, ReadTargetError> {
        read_time(text).map(|time| time.to_string())
    }

    #[test]
    fn t12_a_time_is_read_with_its_zone_or_not_at_all() {
        for text in [
            "2026-11-26T14:05:00Z",
            "2026-11-26 14:05:00+00",
            "2026-11-26 15:05:00+01",
            "2026-11-26 19:35:00+05:30",
            "2026-11-26 14:05:00 UTC",
            "2026-11-26T14:05:00.000Z",
            "  2026-11-26 14:05:00Z ",
        ] {
            assert_eq!(time(text).as_deref(), Ok("2026-11-26T14:05:00Z"), "{text}");
        }
        for text in ["2026-11-26 14:05:00", "2026-11-26T14:05"] {
            assert!(
                matches!(time(text), Err(ReadTargetError::Zone { .. })),
                "{text}"
            );
        }
        for text in [
            "",
            "now",
            "02:05 PM",
            "2026-13-26 14:05:00Z",
            "14:05:00Z",
            "1795701900",
        ] {
            assert!(
                matches!(time(text), Err(ReadTargetError::Time { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn postgresql_is_told_in_its_own_words() {
        let fields = TargetFields {
            time: Some("2026-11-26 15:05:00.25+01"),
            inclusive: Some(false),
            timeline: Some("3"),
            ..TargetFields::default()
        };
        let target = fields.read().unwrap();
        assert_eq!(target.timeline, Some(TimelineId(3)));
        assert_eq!(
            target.settings(),
            [
                (
                    "recovery_target_time",
                    "2026-11-26 14:05:00.250000+00".to_owned()
                ),
                ("recovery_target_inclusive", "off".to_owned()),
                ("recovery_target_action", "promote".to_owned()),
            ]
        );
        assert_eq!(
            target.to_string(),
            "time 2026-11-26T14:05:00.25Z on timeline 3"
        );
        assert_eq!(TargetFields::default().read(), Ok(Target::latest()));
        assert!(Target::latest().settings().is_empty());
    }

    #[test]
    fn what_is_no_target_is_refused_by_the_field() {
        let none = TargetFields::default;
        let refused = |fields: TargetFields<'_>| fields.read().unwrap_err().to_string();
        let both = TargetFields {
            lsn: Some("0/1"),
            immediate: true,
            ..none()
        };
        assert_eq!(refused(both), "lsn and immediate exclude each other");
        for text in ["0", "x", "-5", "1.5", "2"] {
            let xid = TargetFields {
                xid: Some(text),
                ..none()
            };
            assert!(refused(xid).starts_with("xid "), "{text}");
        }
        for text in ["0", "x", "-1", "1.5", "4294967296"] {
            let timeline = TargetFields {
                timeline: Some(text),
                ..none()
            };
            assert!(refused(timeline).starts_with("timeline "), "{text}");
        }
        for text in ["", "a\nb", &"x".repeat(64)] {
            let name = TargetFields {
                name: Some(text),
                ..none()
            };
            assert!(refused(name).starts_with("name "), "{text}");
        }
        let lsn = TargetFields {
            lsn: Some("3000060"),
            ..none()
        };
        assert!(refused(lsn).starts_with("lsn "));
    }

    #[test]
    fn what_an_old_postgresql_cannot_aim_at_is_known() {
        let fields = TargetFields {
            lsn: Some("0/3000060"),
            ..TargetFields::default()
        };
        let target = fields.read().unwrap();
        assert!(
            target
                .unknown_to("9.6.24")
                .is_some_and(|why| why.contains("9.6.24"))
        );
        assert_eq!(target.unknown_to("10.23"), None);
        assert_eq!(Target::latest().unknown_to("9.6.24"), None);
        assert!(target.can_exclude() && !Target::latest().can_exclude());
    }
}
