//! What of a repository nobody needs any more, told from names, times and what manifests refer to.
//!
//! Nothing here makes a deletion safe: that is the order of its steps. Ages only keep attempts that are under way from being given up.

use std::collections::BTreeMap;

use jiff::SignedDuration;

/// An attempt of which there is a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Name of its Snapshot.
    pub snapshot: String,
    /// Uid of its Snapshot.
    pub uid: String,
    /// Its number.
    pub number: u32,
    /// It may be writing.
    pub has_intent: bool,
    /// It is complete.
    pub has_manifest: bool,
    /// It is being deleted.
    pub is_going: bool,
    /// Age of its youngest record.
    pub age: SignedDuration,
}

/// A pack or a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// Name relative to the database's folder.
    pub name: String,
    /// Uid of the Snapshot that wrote it.
    pub uid: String,
    /// Size.
    pub bytes: u64,
    /// Age.
    pub age: SignedDuration,
    /// A manifest refers to it.
    pub is_needed: bool,
}

/// Objects that have the same fate for the same reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What they are.
    pub what: What,
    /// Why they go, or stay.
    pub reason: String,
    /// Names relative to the database's folder, and sizes.
    pub objects: BTreeMap<String, u64>,
}

/// What a part of a plan is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A Snapshot that never became complete.
    Unfinished {
        /// Its name.
        snapshot: String,
        /// Its uid.
        uid: String,
    },
    /// A Snapshot whose deletion was cut off.
    HalfDeleted {
        /// Its name.
        snapshot: String,
        /// Its uid.
        uid: String,
    },
    /// What attempts that failed have left beside a complete one.
    Leftovers {
        /// Name of the Snapshot.
        snapshot: String,
        /// Its uid.
        uid: String,
        /// Numbers of those attempts.
        attempts: Vec<u32>,
    },
    /// Objects of a Snapshot of which there is no record.
    Orphans {
        /// Its uid.
        uid: String,
    },
}

/// What goes, and what nobody needs and stays for now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What goes.
    pub goes: Vec<Item>,
    /// What may be of a writer at work.
    pub stays: Vec<Item>,
}

impl Item {
    /// Bytes of its objects.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.objects.values().copied().fold(0, u64::saturating_add)
    }
}

/// Everything of one Snapshot.
#[derive(Default)]
struct Group<'a> {
    attempts: Vec<&'a Attempt>,
    data: Vec<&'a Data>,
}

impl Group<'_> {
    /// Age of what was written last, needed or not.
    fn age(&self) -> SignedDuration {
        let records = self.attempts.iter().map(|attempt| attempt.age);
        let data = self.data.iter().map(|data| data.age);
        records.chain(data).min().unwrap_or(SignedDuration::MAX)
    }

    fn unneeded(&self) -> BTreeMap<String, u64> {
        let data = self.data.iter().filter(|data| !data.is_needed);
        data.map(|data| (data.name.clone(), data.bytes)).collect()
    }
}

/// Decides for one database. What was written within `grace` stays.
#[must_use]
pub fn plan(attempts: &[Attempt], data: &[Data], grace: SignedDuration) -> Plan {
    let mut groups = BTreeMap::<&str, Group<'_>>::new();
    for attempt in attempts {
        let group = groups.entry(&attempt.uid).or_default();
        group.attempts.push(attempt);
    }
    for one in data {
        groups.entry(&one.uid).or_default().data.push(one);
    }
    let mut plan = Plan::default();
    for (uid, group) in groups {
        let Some((what, why)) = judge(uid, &group) else {
            continue;
        };
        let age = group.age();
        let is_young = age < grace;
        let reason = if is_young {
            let unit = words(age);
            format!("{why}, but something of it was written {unit} ago, within the grace period")
        } else {
            why
        };
        let item = Item {
            what,
            reason,
            objects: group.unneeded(),
        };
        if is_young {
            plan.stays.push(item);
        } else {
            plan.goes.push(item);
        }
    }
    plan
}

/// What is not needed of a Snapshot, and why.
fn judge(uid: &str, group: &Group<'_>) -> Option<(What, String)> {
    let uid = uid.to_owned();
    let Some(first) = group.attempts.first() else {
        let why = "no manifest refers to it, and no Snapshot answers for it";
        let is_any = group.data.iter().any(|data| !data.is_needed);
        return is_any.then(|| (What::Orphans { uid }, why.to_owned()));
    };
    let snapshot = first.snapshot.clone();
    let is_complete = group.attempts.iter().any(|attempt| attempt.has_manifest);
    if !is_complete {
        let is_going = group.attempts.iter().any(|attempt| attempt.is_going);
        return Some(if is_going {
            let why = "its deletion was cut off";
            (What::HalfDeleted { snapshot, uid }, why.to_owned())
        } else {
            let why = match group.attempts.len() {
                1 => "its attempt never ended".to_owned(),
                count => format!("none of its {count} attempts ended"),
            };
            (What::Unfinished { snapshot, uid }, why)
        });
    }
    // An intent beside its own manifest keeps that from being referred to, and must stay.
    let failed = group
        .attempts
        .iter()
        .filter(|attempt| attempt.has_intent && !attempt.has_manifest);
    let attempts: Vec<u32> = failed.map(|attempt| attempt.number).collect();
    let is_any = group.data.iter().any(|data| !data.is_needed);
    let why = "left by an attempt that failed, beside the one that is complete";
    (is_any || !attempts.is_empty()).then(|| {
        let what = What::Leftovers {
            snapshot,
            uid,
            attempts,
        };
        (what, why.to_owned())
    })
}

/// About how long, in one unit.
fn words(age: SignedDuration) -> String {
    let seconds = age.as_secs().max(0);
    let (count, unit) = match seconds {
        0..120 => (seconds, "s"),
        120..7_200 => (seconds / 60, "min"),
        7_200..172_800 => (seconds / 3_600, "h"),
        _ => (seconds / 86_400, "days"),
    };
    format!("{count} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: SignedDuration = SignedDuration::from_hours(24);

    fn attempt(uid: &str, number: u32, kind: &str, hours: i64) -> Attempt {
        Attempt {
            snapshot: format!("snap-{uid}"),
            uid: uid.to_owned(),
            number,
            has_intent: kind.contains('i'),
            has_manifest: kind.contains('m'),
            is_going: kind.contains('d'),
            age: SignedDuration::from_hours(hours),
        }
    }

    fn data(uid: &str, name: &str, hours: i64, is_needed: bool) -> Data {
        Data {
            name: format!("packs/{uid}/{name}"),
            uid: uid.to_owned(),
            bytes: 10,
            age: SignedDuration::from_hours(hours),
            is_needed,
        }
    }

    /// What goes and what stays, by uid and number of objects.
    fn told(attempts: &[Attempt], all: &[Data]) -> (Vec<String>, Vec<String>) {
        let short = |item: &Item| {
            let name = match &item.what {
                What::Unfinished { uid, .. } => format!("unfinished {uid}"),
                What::HalfDeleted { uid, .. } => format!("half {uid}"),
                What::Leftovers { uid, attempts, .. } => format!("left {uid} {attempts:?}"),
                What::Orphans { uid } => format!("orphans {uid}"),
            };
            format!("{name} {}", item.objects.len())
        };
        let plan = plan(attempts, all, DAY);
        (
            plan.goes.iter().map(short).collect(),
            plan.stays.iter().map(short).collect(),
        )
    }

    #[test]
    fn t14_what_may_be_under_way_stays() {
        let attempts = [
            attempt("a", 1, "i", 100),
            attempt("b", 1, "i", 100),
            attempt("c", 1, "i", 1),
            attempt("d", 1, "d", 100),
            attempt("e", 1, "d", 0),
        ];
        let all = [
            data("a", "0", 99, false),
            // A backup of a large database: its intent is old, its packs are not.
            data("b", "0", 90, false),
            data("b", "1", 2, false),
            data("d", "0", 200, false),
        ];
        let (goes, stays) = told(&attempts, &all);
        assert_eq!(goes, ["unfinished a 1", "half d 1"]);
        assert_eq!(stays, ["unfinished b 2", "unfinished c 0", "half e 0"]);
        let plan = plan(&attempts, &all, DAY);
        assert_eq!(plan.goes[0].bytes(), 10);
        assert!(plan.stays[0].reason.contains("2 h ago"));
    }

    #[test]
    fn t14_what_a_manifest_refers_to_stays_whoever_wrote_it() {
        let attempts = [
            attempt("a", 1, "i", 100),
            attempt("a", 2, "m", 99),
            // Nobody may refer to it, and that is how it stays.
            attempt("b", 1, "im", 100),
            attempt("c", 1, "m", 100),
        ];
        let all = [
            data("a", "0", 100, false),
            data("a", "1", 99, true),
            data("b", "0", 100, true),
            data("c", "0", 100, true),
            data("gone", "0", 100, true),
            data("gone", "1", 100, false),
            data("other", "0", 1, false),
            data("used", "0", 100, true),
        ];
        let (goes, stays) = told(&attempts, &all);
        assert_eq!(goes, ["left a [1] 1", "orphans gone 1"]);
        assert_eq!(stays, ["orphans other 1"]);
    }
}
