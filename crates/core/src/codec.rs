//! How densely WAL is compressed: an archive that falls behind trades processors for the line, or the line for processors, whichever it has left.

use std::time::Duration;

/// How densely something is compressed. Readers need not know: all of it is zstd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Density {
    /// For processors that do not keep up.
    Loose,
    /// As it is where nothing is short.
    #[default]
    Usual,
    /// For a line that does not keep up.
    Dense,
}

/// What a segment costs as it is usually compressed, as lately measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// Seconds to read and compress it.
    pack: f64,
    /// Seconds to send it.
    send: f64,
}

/// Another way must save this part of what a segment costs.
const WORTHWHILE: f64 = 0.1;
/// Part of what was known that a new measurement takes the place of.
const NEWS: f64 = 0.25;

impl Density {
    const ALL: [Self; 3] = [Self::Usual, Self::Loose, Self::Dense];

    /// Level of zstd.
    #[must_use]
    pub fn level(self) -> i32 {
        match self {
            Self::Loose => -3,
            Self::Usual => 1,
            Self::Dense => 3,
        }
    }

    /// Time that it takes and bytes that are left, as parts of the usual ones: WAL of pgbench with full pages, zstd 1.5.
    fn factors(self) -> (f64, f64) {
        match self {
            Self::Loose => (0.6, 1.85),
            Self::Usual => (1.0, 1.0),
            Self::Dense => (1.45, 0.84),
        }
    }
}

impl Costs {
    /// What was measured of a segment that was compressed in this way.
    #[must_use]
    pub fn measured(density: Density, pack: Duration, send: Duration) -> Self {
        let (time, bytes) = density.factors();
        Self {
            pack: pack.as_secs_f64() / time,
            send: send.as_secs_f64() / bytes,
        }
    }

    /// What is known after another measurement.
    #[must_use]
    pub fn then(known: Option<Self>, measured: Self) -> Self {
        let Some(known) = known else { return measured };
        let mix = |known: f64, new: f64| known + (new - known) * NEWS;
        Self {
            pack: mix(known.pack, measured.pack),
            send: mix(known.send, measured.send),
        }
    }

    /// How to compress what waits, where so many are compressed and so many sent at once.
    #[must_use]
    pub fn best(self, packed_at_once: usize, sent_at_once: usize) -> Density {
        let cost = |density: &Density| {
            let (time, bytes) = density.factors();
            let pack = self.pack * time / packed_at_once.max(1) as f64;
            let send = self.send * bytes / sent_at_once.max(1) as f64;
            pack.max(send)
        };
        let usual = cost(&Density::Usual);
        let best = Density::ALL
            .into_iter()
            .min_by(|one, other| cost(one).total_cmp(&cost(other)));
        let best = best.unwrap_or_default();
        if cost(&best) <= usual * (1.0 - WORTHWHILE) {
            best
        } else {
            Density::Usual
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(pack_millis: u64, send_millis: u64) -> Density {
        let (pack, send) = (pack_millis, send_millis);
        let millis = Duration::from_millis;
        Costs::measured(Density::Usual, millis(pack), millis(send)).best(2, 4)
    }

    #[test]
    fn the_one_that_is_short_decides() {
        // A store beside us: processors are what there is too little of.
        assert_eq!(best(27, 10), Density::Loose);
        // 100 Mbit/s: 140 ms for a segment of 1.75 MB.
        assert_eq!(best(27, 560), Density::Dense);
        // As much of one as of the other.
        assert_eq!(best(27, 54), Density::Usual);
    }

    #[test]
    fn what_was_measured_in_one_way_foretells_the_others() {
        let millis = Duration::from_millis;
        let loose = Costs::measured(Density::Loose, millis(60), millis(37));
        let usual = Costs::measured(Density::Usual, millis(100), millis(20));
        assert!((loose.pack - usual.pack).abs() < 1e-9 && (loose.send - usual.send).abs() < 1e-9);
        // So it does not swing to and fro.
        assert_eq!(loose.best(2, 4), usual.best(2, 4));
    }

    #[test]
    fn a_line_that_becomes_slow_is_noticed_within_some_segments() {
        let millis = Duration::from_millis;
        let mut known = None;
        for _ in 0..8 {
            let measured = Costs::measured(Density::Usual, millis(27), millis(5));
            known = Some(Costs::then(known, measured));
        }
        assert_eq!(known.unwrap().best(2, 4), Density::Loose);
        let mut count = 0;
        while known.unwrap().best(2, 4) != Density::Dense {
            let density = known.unwrap().best(2, 4);
            let (_, bytes) = density.factors();
            let send = Duration::from_secs_f64(0.5 * bytes);
            known = Some(Costs::then(
                known,
                Costs::measured(density, millis(27), send),
            ));
            count += 1;
            assert!(count < 8, "{known:?}");
        }
    }
}
