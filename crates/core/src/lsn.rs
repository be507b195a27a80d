//! Positions in the write-ahead log, and the files they lie in.

use std::{fmt, str::FromStr};

/// A byte position in the write-ahead log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// A timeline: a promotion begins a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimelineId(pub u32);

/// Why a text is no position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to read LSN {text:?}: two hexadecimal numbers such as 0/3000060 are expected")]
pub struct ReadLsnError {
    /// What stood there.
    pub text: String,
}

impl Lsn {
    /// Number of the segment that holds this byte. `segment_bytes` is a power of two from 1 MiB to 1 GiB.
    #[must_use]
    pub fn segment(self, segment_bytes: u64) -> u64 {
        self.0 / segment_bytes
    }

    /// Offset within its segment.
    #[must_use]
    pub fn offset(self, segment_bytes: u64) -> u64 {
        self.0 % segment_bytes
    }

    /// Segments that hold the bytes from `self` up to, but not including, `end`.
    #[must_use]
    pub fn segments_until(self, end: Self, segment_bytes: u64) -> std::ops::RangeInclusive<u64> {
        let last = end.0.saturating_sub(1).max(self.0);
        self.segment(segment_bytes)..=last / segment_bytes
    }
}

impl TimelineId {
    /// File name of a segment on this timeline, such as `00000001000000000000000A`.
    #[must_use]
    pub fn segment_name(self, segment: u64, segment_bytes: u64) -> String {
        let per_log = 0x1_0000_0000 / segment_bytes;
        format!(
            "{:08X}{:08X}{:08X}",
            self.0,
            segment / per_log,
            segment % per_log
        )
    }

    /// File name of the history of this timeline.
    #[must_use]
    pub fn history_name(self) -> String {
        format!("{:08X}.history", self.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = ReadLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |part: &str| {
            let is_hex = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_hex
                .then(|| u32::from_str_radix(part, 16).ok())
                .flatten()
                .map(u64::from)
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| ReadLsnError {
                text: text.to_owned(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 16 << 20;

    #[test]
    fn text_and_number_agree() {
        for text in ["0/0", "0/3000060", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "/",
            "0",
            "0/",
            "g/0",
            "0/+1",
            "0/100000000",
            "1/2/3",
            "-1/0",
        ] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }

    #[test]
    fn segments_are_named_as_postgresql_names_them() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(
            TimelineId(1).segment_name(lsn.segment(SEGMENT), SEGMENT),
            "0000000100000016000000B3"
        );
        assert_eq!(
            TimelineId(10).segment_name(255, SEGMENT),
            "0000000A00000000000000FF"
        );
        assert_eq!(
            TimelineId(10).segment_name(256, SEGMENT),
            "0000000A0000000100000000"
        );
        assert_eq!(TimelineId(26).history_name(), "0000001A.history");
    }

    #[test]
    fn a_stop_on_a_boundary_needs_no_further_segment() {
        let (start, end) = (Lsn(2 * SEGMENT + 40), Lsn(3 * SEGMENT));
        assert_eq!(start.segments_until(end, SEGMENT), 2..=2);
        assert_eq!(start.segments_until(Lsn(end.0 + 1), SEGMENT), 2..=3);
        assert_eq!(start.segments_until(start, SEGMENT), 2..=2);
    }
}
