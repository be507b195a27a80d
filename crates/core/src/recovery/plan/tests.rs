use super::*;
use crate::tail::Piece;

const BYTES: u64 = 16 << 20;

fn minute(minute: i64) -> Timestamp {
    Timestamp::from_second(1_795_700_000 + 60 * minute).unwrap()
}

fn lsn(segment: u64) -> Lsn {
    Lsn(segment * BYTES + 0x1000)
}

/// A Snapshot that was complete in segment and minute `at`.
fn base(name: &str, timeline: u32, at: u64) -> Base {
    Base {
        snapshot: name.to_owned(),
        manifest: format!("{name}.json"),
        created: minute(i64::try_from(at).unwrap()),
        timeline: TimelineId(timeline),
        start: Lsn(at * BYTES),
        stop: lsn(at),
        archived_from: lsn(at),
        bytes: 1 << 30,
    }
}

/// Segments, each stored in the minute of its number plus one.
fn archive(segments: &[(u32, std::ops::RangeInclusive<u64>)]) -> Holdings {
    let mut holdings = Holdings::default();
    for (timeline, numbers) in segments {
        for number in numbers.clone() {
            let segment = Segment {
                timeline: TimelineId(*timeline),
                number,
            };
            let stored = minute(i64::try_from(number).unwrap() + 1);
            holdings.segments.insert(segment, stored);
        }
    }
    holdings
}

fn history(holdings: &mut Holdings, timeline: u32, switches: &[(u32, u64)]) {
    let switches = switches
        .iter()
        .map(|(timeline, at)| Switch {
            timeline: TimelineId(*timeline),
            at: lsn(*at),
        })
        .collect();
    holdings.histories.insert(TimelineId(timeline), switches);
}

fn aim(goal: Goal) -> Target {
    Target {
        goal,
        ..Target::latest()
    }
}

fn on(timeline: u32) -> Target {
    Target {
        timeline: Some(TimelineId(timeline)),
        ..Target::latest()
    }
}

fn planned(
    bases: &[Base],
    holdings: &Holdings,
    target: &Target,
) -> Result<RecoveryPlan, PlanError> {
    plan(bases, holdings, target, None, None, BYTES, "gs:kubedb")
}

#[test]
fn the_latest_snapshot_before_the_target_is_begun_from() {
    let bases = [base("a", 1, 3), base("b", 1, 10), base("c", 1, 20)];
    let holdings = archive(&[(1, 1..=30)]);
    let of = |target: &Target| planned(&bases, &holdings, target).unwrap();
    let latest = of(&Target::latest());
    assert_eq!(latest.base.snapshot, "c");
    assert_eq!(latest.segments, 11);
    assert_eq!(latest.at_least, Lsn(30 * BYTES));
    assert_eq!(latest.latest, minute(31));
    assert_eq!(of(&aim(Goal::Time(minute(12)))).base.snapshot, "b");
    assert_eq!(of(&aim(Goal::Time(minute(20)))).base.snapshot, "c");
    assert_eq!(of(&aim(Goal::Lsn(lsn(9)))).base.snapshot, "a");
    assert_eq!(of(&aim(Goal::Immediate)).base.snapshot, "c");
    // Where it lies nobody knows.
    assert_eq!(of(&aim(Goal::Xid(700))).base.snapshot, "a");
    let named = plan(
        &bases,
        &holdings,
        &Target::latest(),
        Some("a"),
        None,
        BYTES,
        "here",
    )
    .unwrap();
    assert_eq!((named.base.snapshot.as_str(), named.segments), ("a", 28));
}

#[test]
fn t12_a_target_before_the_snapshot_is_refused_and_not_passed_over() {
    let bases = [base("a", 1, 3), base("b", 1, 10)];
    let holdings = archive(&[(1, 1..=30)]);
    for goal in [Goal::Time(minute(2)), Goal::Lsn(Lsn(3 * BYTES))] {
        let error = planned(&bases, &holdings, &aim(goal)).unwrap_err();
        assert!(
            matches!(&error, PlanError::TooEarly { snapshot, .. } if snapshot == "a"),
            "{error}"
        );
    }
    let target = aim(Goal::Time(minute(5)));
    let error = plan(&bases, &holdings, &target, Some("b"), None, BYTES, "here").unwrap_err();
    assert!(matches!(error, PlanError::TooEarly { .. }), "{error}");
    let error = plan(&bases, &holdings, &target, Some("z"), None, BYTES, "here").unwrap_err();
    assert_eq!(
        error.to_string(),
        "Snapshot z is not there; there are: a, b"
    );
    let error = planned(&[], &holdings, &target).unwrap_err();
    assert!(error.to_string().contains("gs:kubedb"), "{error}");
}

#[test]
fn t03_a_gap_is_found_before_anything_is_restored() {
    let bases = [base("a", 1, 3)];
    let holdings = archive(&[(1, 1..=6), (1, 8..=9)]);
    let error = planned(&bases, &holdings, &Target::latest()).unwrap_err();
    assert_eq!(
        error,
        PlanError::Gap {
            missing: "000000010000000000000007".to_owned(),
            reachable: Lsn(7 * BYTES),
        }
    );
    assert!(planned(&bases, &holdings, &aim(Goal::Lsn(lsn(8)))).is_err());
    // What lies before it can be had.
    assert!(planned(&bases, &holdings, &aim(Goal::Lsn(lsn(6)))).is_ok());
    assert!(planned(&bases, &holdings, &aim(Goal::Time(minute(6)))).is_ok());
    let later = [base("a", 1, 3), base("b", 1, 8)];
    let plan = planned(&later, &holdings, &Target::latest()).unwrap();
    assert_eq!((plan.base.snapshot.as_str(), plan.segments), ("b", 2));
}

#[test]
fn t35_without_wal_behind_the_snapshot_it_is_all_that_comes() {
    let bases = [base("a", 1, 3)];
    let holdings = archive(&[(1, 1..=2)]);
    let plan = planned(&bases, &holdings, &Target::latest()).unwrap();
    assert_eq!((plan.last, plan.segments, plan.at_least), (None, 0, lsn(3)));
    // An archive that is lost, or lies elsewhere, proves nothing.
    let error = planned(&bases, &Holdings::default(), &Target::latest()).unwrap_err();
    assert!(matches!(error, PlanError::NoWal { .. }), "{error}");
    for holdings in [Holdings::default(), holdings] {
        let error = planned(&bases, &holdings, &aim(Goal::Lsn(lsn(4)))).unwrap_err();
        assert!(matches!(error, PlanError::NoWal { .. }), "{error}");
    }
    // The segment that the Snapshot ends in is missing, and the next is there.
    let error = planned(&bases, &archive(&[(1, 4..=9)]), &Target::latest()).unwrap_err();
    assert!(matches!(error, PlanError::Gap { .. }), "{error}");
}

#[test]
fn what_lies_behind_the_archive_is_refused_with_its_end() {
    let bases = [base("a", 1, 3)];
    let holdings = archive(&[(1, 1..=9)]);
    let error = planned(&bases, &holdings, &aim(Goal::Time(minute(60)))).unwrap_err();
    assert!(
        matches!(&error, PlanError::TooLate { latest, .. } if *latest == minute(10)),
        "{error}"
    );
    // Somebody knows that nothing came until then.
    let quiet = aim(Goal::Time(minute(60)));
    let known = |until| {
        super::plan(
            &bases,
            &holdings,
            &quiet,
            None,
            Some(minute(until)),
            BYTES,
            "here",
        )
    };
    assert!(known(60).is_ok());
    assert!(known(50).is_err());
    // Clocks differ; replay knows better.
    assert!(planned(&bases, &holdings, &aim(Goal::Time(minute(12)))).is_ok());
    assert!(planned(&bases, &holdings, &aim(Goal::Lsn(Lsn(10 * BYTES)))).is_ok());
    assert!(planned(&bases, &holdings, &aim(Goal::Lsn(Lsn(10 * BYTES + 1)))).is_err());
}

#[test]
fn t09_wal_is_followed_across_a_promotion() {
    let bases = [base("a", 1, 3)];
    // The promotion was in segment 7, which both timelines have.
    let mut holdings = archive(&[(1, 1..=7), (2, 7..=9)]);
    history(&mut holdings, 2, &[(1, 7)]);
    let plan = planned(&bases, &holdings, &Target::latest()).unwrap();
    assert_eq!(plan.timeline, TimelineId(2));
    assert_eq!(plan.last.unwrap().name(BYTES), "000000020000000000000009");
    assert_eq!(plan.segments, 7);
    let needed: Vec<(u32, u64)> = plan
        .needed(BYTES)
        .map(|segment| (segment.timeline.0, segment.number))
        .collect();
    let expected = [(1, 3), (1, 4), (1, 5), (1, 6), (2, 7), (2, 8), (2, 9)];
    assert_eq!(needed, expected);
    // The old primary went on alone for a while.
    let mut holdings = archive(&[(1, 1..=12), (2, 7..=9)]);
    history(&mut holdings, 2, &[(1, 7)]);
    let plan = planned(&bases, &holdings, &Target::latest()).unwrap();
    assert_eq!(plan.last.unwrap().name(BYTES), "000000020000000000000009");
    let old = planned(&bases, &holdings, &on(1)).unwrap();
    assert_eq!(old.last.unwrap().name(BYTES), "00000001000000000000000C");
    // Twice.
    let mut holdings = archive(&[(1, 1..=6), (2, 6..=7), (3, 7..=9)]);
    history(&mut holdings, 2, &[(1, 6)]);
    history(&mut holdings, 3, &[(1, 6), (2, 7)]);
    let plan = planned(&bases, &holdings, &Target::latest()).unwrap();
    assert_eq!((plan.timeline, plan.segments), (TimelineId(3), 7));
}

#[test]
fn t11_a_timeline_that_is_no_descendant_is_refused_before_anything_is_restored() {
    let bases = [base("a", 1, 3), base("late", 1, 10)];
    let mut holdings = archive(&[(1, 1..=12), (2, 7..=9)]);
    history(&mut holdings, 2, &[(1, 7)]);
    // Only the earlier Snapshot leads there.
    let plan = planned(&bases, &holdings, &on(2)).unwrap();
    assert_eq!(plan.base.snapshot, "a");
    let error =
        super::plan(&bases, &holdings, &on(2), Some("late"), None, BYTES, "here").unwrap_err();
    assert!(
        matches!(&error, PlanError::Timeline { known, .. } if *known == [1]),
        "{error}"
    );
    assert!(planned(&bases, &holdings, &on(5)).is_err());
    // The later Snapshot goes on where it was taken.
    let latest = planned(&bases, &holdings, &Target::latest()).unwrap();
    assert_eq!(
        (latest.base.snapshot.as_str(), latest.timeline),
        ("late", TimelineId(1))
    );
}

#[test]
fn t08_a_timeline_without_its_history_is_told_and_not_left_out() {
    let bases = [base("a", 1, 3)];
    let holdings = archive(&[(1, 1..=7), (2, 7..=9)]);
    let error = planned(&bases, &holdings, &Target::latest()).unwrap_err();
    assert!(
        matches!(&error, PlanError::NoHistory { name, .. } if name == "00000002.history"),
        "{error}"
    );
    assert!(planned(&bases, &holdings, &on(1)).is_ok());
    assert!(planned(&bases, &holdings, &aim(Goal::Immediate)).is_ok());
}

/// The beginning of a segment, stored as pieces that end at these offsets.
fn begun(holdings: &mut Holdings, timeline: u32, number: u64, ends: &[u64]) {
    let mut from = 0;
    let found: Vec<_> = ends
        .iter()
        .map(|to| {
            let piece = Piece {
                generation: 1,
                from: std::mem::replace(&mut from, *to),
                to: *to,
            };
            let stored = minute(i64::try_from(number).unwrap());
            (piece, stored)
        })
        .collect();
    let segment = Segment {
        timeline: TimelineId(timeline),
        number,
    };
    holdings.tails.insert(segment, Tail::of(&found).unwrap());
}

#[test]
fn the_beginning_of_the_segment_in_work_comes_back_too() {
    let bases = [base("a", 1, 3)];
    let mut holdings = archive(&[(1, 3..=7)]);
    begun(&mut holdings, 1, 8, &[0x1000, 0x3000]);
    let end = Lsn(8 * BYTES + 0x3000);
    let latest = planned(&bases, &holdings, &Target::latest()).unwrap();
    assert_eq!(latest.last.map(|last| last.number), Some(8));
    assert_eq!((latest.segments, latest.tail), (6, Some(end)));
    assert_eq!(latest.latest, minute(8));
    // Whoever aims behind it is told so.
    planned(&bases, &holdings, &aim(Goal::Lsn(end))).unwrap();
    let error = planned(&bases, &holdings, &aim(Goal::Lsn(Lsn(end.0 + 1)))).unwrap_err();
    assert!(matches!(error, PlanError::TooLate { .. }), "{error}");
    // The whole segment takes its place.
    let mut whole = archive(&[(1, 3..=8)]);
    begun(&mut whole, 1, 8, &[0x1000, 0x3000]);
    let plan = planned(&bases, &whole, &Target::latest()).unwrap();
    assert_eq!((plan.segments, plan.tail), (6, None));
}

#[test]
fn nothing_behind_a_beginning_comes_back() {
    let bases = [base("a", 1, 3)];
    let mut holdings = archive(&[(1, 3..=7), (1, 9..=9)]);
    begun(&mut holdings, 1, 8, &[0x1000]);
    let error = planned(&bases, &holdings, &Target::latest()).unwrap_err();
    let PlanError::Gap { missing, reachable } = &error else {
        panic!("{error}");
    };
    assert_eq!(missing, "000000010000000000000008");
    assert_eq!(*reachable, Lsn(8 * BYTES + 0x1000));
}

#[test]
fn a_beginning_that_is_older_than_the_snapshot_is_left_alone() {
    let bases = [base("a", 1, 3)];
    let mut holdings = Holdings::default();
    // The Snapshot itself ends at 0x1000 of this segment.
    begun(&mut holdings, 1, 3, &[0x800, 0x1000]);
    let plan = planned(&bases, &holdings, &Target::latest()).unwrap();
    assert_eq!((plan.segments, plan.last, plan.tail), (0, None, None));
    begun(&mut holdings, 1, 3, &[0x800, 0x1001]);
    let plan = planned(&bases, &holdings, &Target::latest()).unwrap();
    assert_eq!(
        (plan.segments, plan.tail),
        (1, Some(Lsn(3 * BYTES + 0x1001)))
    );
}

#[test]
fn t03_a_backup_that_brings_no_wal_needs_the_archive_from_its_beginning() {
    let begun = |stop| Base {
        start: Lsn(3 * BYTES + 0x28),
        archived_from: Lsn(3 * BYTES + 0x28),
        stop,
        ..base("base_a", 1, 5)
    };
    let whole = planned(&[begun(lsn(5))], &archive(&[(1, 3..=7)]), &Target::latest()).unwrap();
    assert_eq!(whole.segments, 5);
    assert_eq!(whole.needed(BYTES).next().unwrap().number, 3);
    let missing = |stop, holdings: std::ops::RangeInclusive<u64>, target: &Target| match planned(
        &[begun(stop)],
        &archive(&[(1, holdings)]),
        target,
    ) {
        Err(PlanError::NotConsistent { missing, .. }) => missing,
        other => panic!("{other:?}"),
    };
    let immediate = aim(Goal::Immediate);
    for target in [&Target::latest(), &immediate] {
        assert_eq!(missing(lsn(5), 4..=7, target), "000000010000000000000003");
        assert_eq!(missing(lsn(5), 3..=4, target), "000000010000000000000005");
    }
    // It ends where its last segment does.
    let exact = planned(
        &[begun(Lsn(5 * BYTES))],
        &archive(&[(1, 3..=4)]),
        &immediate,
    );
    assert_eq!(exact.unwrap().segments, 2);
    // Within the backup there is a gap, and all else behind it.
    let mut holdings = archive(&[(1, 3..=7)]);
    holdings.segments.retain(|segment, _| segment.number != 4);
    let gap = planned(&[begun(lsn(5))], &holdings, &immediate);
    assert!(
        matches!(&gap, Err(PlanError::NotConsistent { missing, .. }) if missing.ends_with('4')),
        "{gap:?}"
    );
}
