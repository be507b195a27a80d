//! Names of objects: what Kubernetes accepts, and what a scheduled Snapshot is called.

use jiff::{Timestamp, tz::TimeZone};

/// Longest name of a label value, and so of our objects.
pub const NAME_LENGTH_MAX: usize = 63;

/// Characters of the hash that stands in for what was cut off.
const HASH_LENGTH: usize = 6;

/// Why a name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("a name must not be empty")]
    Empty,
    /// Longer than a label value may be.
    #[error("name {name:?} has {length} characters, more than {NAME_LENGTH_MAX}")]
    TooLong {
        /// The name.
        name: String,
        /// Its length.
        length: usize,
    },
    /// A character that is not allowed where it stands.
    #[error(
        "name {name:?} must begin with a lower-case letter, end with a letter or digit, and hold only lower-case letters, digits and hyphens"
    )]
    Characters {
        /// The name.
        name: String,
    },
}

/// Checks a name against `^[a-z]([-a-z0-9]*[a-z0-9])?$` and the length that labels allow.
pub fn check(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > NAME_LENGTH_MAX {
        return Err(NameError::TooLong {
            name: name.to_owned(),
            length: name.chars().count(),
        });
    }
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_good = name.as_bytes()[0].is_ascii_lowercase()
        && name.bytes().all(is_inner)
        && !name.ends_with('-');
    if is_good {
        Ok(())
    } else {
        Err(NameError::Characters {
            name: name.to_owned(),
        })
    }
}

/// `<database>-YYYYMMDD-HHMMSS` in UTC. A database name that leaves no room is cut, and a hash of the whole name follows
/// the cut, so that two databases of a common beginning do not meet.
#[must_use]
pub fn scheduled_snapshot(database: &str, tick: Timestamp) -> String {
    let suffix = suffix(tick);
    if database.len() + suffix.len() <= NAME_LENGTH_MAX {
        return format!("{database}{suffix}");
    }
    hashed(database, database, &suffix)
}

/// Another name for the Snapshot of a tick, for when the `taken` first ones are somebody else's: a user may call a Snapshot
/// what he likes, and a database may be called what another one's name is cut to.
#[must_use]
pub fn scheduled_snapshot_beside(database: &str, tick: Timestamp, taken: u32) -> String {
    hashed(database, &format!("{database}/{taken}"), &suffix(tick))
}

/// Name of the Job that deletes the data of a Snapshot of this UID: one made anew under the same name is another.
#[must_use]
pub fn deletion_job(snapshot: &str, uid: &str) -> String {
    hashed(snapshot, uid, "-delete")
}

/// Name of what serves a volume to a database's agents; `volume` tells volumes apart.
#[must_use]
pub fn volume_store(database: &str, volume: &str) -> String {
    // A StatefulSet's pods bear its name in a label, with eleven characters more.
    let room = NAME_LENGTH_MAX - 11 - "-store-".len() - 8;
    let cut: String = database.chars().take(room).collect();
    let hash = format!("{:016x}", fnv1a(format!("{database}/{volume}").as_bytes()));
    format!("{}-store-{}", cut.trim_end_matches('-'), &hash[..8])
}

fn suffix(tick: Timestamp) -> String {
    tick.to_zoned(TimeZone::UTC)
        .strftime("-%Y%m%d-%H%M%S")
        .to_string()
}

fn hashed(database: &str, whole: &str, suffix: &str) -> String {
    let room = NAME_LENGTH_MAX - suffix.len() - HASH_LENGTH - 1;
    let cut: String = database.chars().take(room).collect();
    let hash = format!("{:016x}", fnv1a(whole.as_bytes()));
    format!(
        "{}-{}{suffix}",
        cut.trim_end_matches('-'),
        &hash[..HASH_LENGTH]
    )
}

/// FNV-1a: the same on every machine and in every version, which std's hasher does not promise.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick() -> Timestamp {
        "2018-02-08T10:53:41Z".parse().unwrap()
    }

    #[test]
    fn what_serves_a_volume_has_a_name_of_its_own_that_fits() {
        let one = volume_store("pg", "a");
        assert!(
            one.starts_with("pg-store-") && one.len() == "pg-store-".len() + 8,
            "{one}"
        );
        assert_ne!(one, volume_store("pg", "b"));
        let long = "a-database-whose-name-has-sixty-three-characters-as-names-may-x";
        let name = volume_store(long, "a");
        // The label of a pod's revision has ten digits and a hyphen more.
        assert!(
            check(&name).is_ok() && name.len() + 11 <= NAME_LENGTH_MAX,
            "{name}"
        );
        assert_ne!(name, volume_store(&long.replace("-x", "-y"), "a"));
    }

    #[test]
    fn a_scheduled_snapshot_carries_its_tick() {
        assert_eq!(
            scheduled_snapshot("scheduled-pg", tick()),
            "scheduled-pg-20180208-105341"
        );
    }

    #[test]
    fn the_job_of_a_deletion_is_one_snapshots_alone() {
        let long = "s".repeat(63);
        for name in ["snap", &long] {
            let one = deletion_job(name, "u-1");
            assert_ne!(one, deletion_job(name, "u-2"));
            assert_eq!(check(&one), Ok(()));
        }
    }

    #[test]
    fn a_long_database_name_is_cut_and_stays_distinct() {
        let one = format!("{}-a", "d".repeat(58));
        let other = format!("{}-b", "d".repeat(58));
        let (first, second) = (
            scheduled_snapshot(&one, tick()),
            scheduled_snapshot(&other, tick()),
        );
        assert_ne!(first, second);
        for name in [&first, &second] {
            assert!(name.len() <= NAME_LENGTH_MAX, "{name}");
            check(name).unwrap();
            assert!(name.ends_with("-20180208-105341"), "{name}");
        }
        assert_eq!(first, scheduled_snapshot(&one, tick()));
    }

    #[test]
    fn a_taken_name_has_others_beside_it() {
        for database in ["pg", &"d".repeat(60)] {
            let mut names: Vec<_> = (1..4)
                .map(|taken| scheduled_snapshot_beside(database, tick(), taken))
                .collect();
            names.push(scheduled_snapshot(database, tick()));
            for name in &names {
                check(name).unwrap();
                assert!(name.ends_with("-20180208-105341"), "{name}");
            }
            names.sort();
            names.dedup();
            assert_eq!(names.len(), 4, "{names:?}");
        }
    }

    #[test]
    fn the_longest_name_that_fits_is_not_cut() {
        let name = "d".repeat(47);
        assert_eq!(
            scheduled_snapshot(&name, tick()),
            format!("{name}-20180208-105341")
        );
    }

    #[test]
    fn names_are_those_of_the_original() {
        for good in ["a", "pg", "scheduled-pg", "a1-2"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "1a",
            "-a",
            "a-",
            "A",
            "a_b",
            "a.b",
            "é",
            &"a".repeat(64),
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
