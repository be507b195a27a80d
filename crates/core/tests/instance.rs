//! Decisions of an instance, one situation each.

#![allow(clippy::unwrap_used)]

use kubedb_core::instance::{
    Action, DataState, DatabaseView, LeaseView, Observation, PrimaryView, ProcessState, Role, Seen,
    SourceView, decide,
};

fn empty(ordinal: u32) -> Observation {
    Observation {
        instance: format!("pg-{ordinal}"),
        ordinal,
        database: Seen::Known(DatabaseView {
            is_ours: true,
            source: SourceView::Fresh,
        }),
        lease: Seen::Known(LeaseView { holder: None }),
        primary: None,
        last_primary: None,
        data: DataState::Empty,
        process: ProcessState::Down,
        follows: None,
    }
}

fn held_by(holder: &str) -> Seen<LeaseView> {
    Seen::Known(LeaseView {
        holder: Some(holder.to_owned()),
    })
}

fn primary(ready: bool) -> Option<PrimaryView> {
    Some(PrimaryView {
        endpoint: "127.0.0.1:40000".to_owned(),
        ready,
    })
}

#[test]
fn only_the_first_instance_begins_a_database() {
    assert_eq!(decide(&empty(0)).action, Action::TakeLease);
    assert_eq!(decide(&empty(1)).action, Action::Wait);
    let mut first = empty(0);
    first.lease = held_by("pg-0");
    assert_eq!(decide(&first).action, Action::Initialise);
}

#[test]
fn an_unknown_lease_initialises_nothing() {
    let mut first = empty(0);
    first.lease = Seen::Unknown;
    assert_eq!(decide(&first).action, Action::Wait);
    first.lease = Seen::Known(LeaseView { holder: None });
    first.database = Seen::Unknown;
    assert_eq!(decide(&first).action, Action::Wait);
}

#[test]
fn a_snapshot_must_be_resolved_before_anything_is_written() {
    for lease in [Seen::Known(LeaseView { holder: None }), held_by("pg-0")] {
        let mut first = empty(0);
        first.lease = lease;
        first.database = Seen::Known(DatabaseView {
            is_ours: true,
            source: SourceView::Unresolved,
        });
        assert_eq!(decide(&first).action, Action::Wait);
    }
}

#[test]
fn an_empty_first_instance_clones_when_another_is_primary() {
    // The first instance lost its disk after a failover: it must not begin a second database.
    let mut first = empty(0);
    first.lease = held_by("pg-1");
    first.primary = primary(false);
    assert_eq!(decide(&first).action, Action::Wait);
    first.primary = primary(true);
    assert!(matches!(decide(&first).action, Action::Clone { .. }));
}

#[test]
fn without_the_api_the_last_role_goes_on() {
    let mut instance = empty(0);
    instance.data = DataState::Initialised(Role::Primary);
    instance.lease = Seen::Unknown;
    instance.database = Seen::Unknown;
    assert_eq!(decide(&instance).action, Action::StartPrimary);
    instance.process = ProcessState::Up { in_recovery: false };
    assert_eq!(decide(&instance).action, Action::Keep);
    instance.data = DataState::Initialised(Role::Standby);
    instance.process = ProcessState::Down;
    assert_eq!(decide(&instance).action, Action::Wait);
    instance.last_primary = Some("127.0.0.1:1".to_owned());
    assert!(matches!(
        decide(&instance).action,
        Action::StartStandby { .. }
    ));
}

#[test]
fn a_primary_without_the_lease_does_not_accept_writes() {
    let mut instance = empty(0);
    instance.data = DataState::Initialised(Role::Primary);
    instance.lease = held_by("pg-1");
    assert_eq!(decide(&instance).action, Action::Wait);
    instance.process = ProcessState::Up { in_recovery: false };
    assert_eq!(decide(&instance).action, Action::Stop);
}

#[test]
fn a_standby_follows_a_primary_that_moved() {
    let mut instance = empty(1);
    instance.data = DataState::Initialised(Role::Standby);
    instance.lease = held_by("pg-0");
    instance.primary = primary(false);
    instance.process = ProcessState::Up { in_recovery: true };
    instance.follows = Some("127.0.0.1:39999".to_owned());
    assert!(matches!(decide(&instance).action, Action::Follow { .. }));
    instance.follows = Some("127.0.0.1:40000".to_owned());
    assert_eq!(decide(&instance).action, Action::Keep);
}

#[test]
fn an_instance_of_a_deleted_database_stops() {
    let mut instance = empty(0);
    instance.database = Seen::Known(DatabaseView {
        is_ours: false,
        source: SourceView::Fresh,
    });
    for data in [DataState::Empty, DataState::Initialised(Role::Primary)] {
        instance.data = data;
        assert_eq!(decide(&instance).action, Action::Stop);
    }
}

#[test]
fn where_the_data_of_a_resumed_database_is_missing_nothing_is_begun() {
    let mut first = empty(0);
    first.database = Seen::Known(DatabaseView {
        is_ours: true,
        source: SourceView::Kept,
    });
    for lease in [Seen::Known(LeaseView { holder: None }), held_by("pg-0")] {
        first.lease = lease;
        let decision = decide(&first);
        assert_eq!(decision.action, Action::Wait);
        assert!(decision.reason.contains("put it back"), "{decision:?}");
    }
    // A standby whose data is gone is copied as ever.
    let mut second = empty(1);
    second.database = first.database.clone();
    second.lease = held_by("pg-0");
    second.primary = primary(true);
    assert!(matches!(decide(&second).action, Action::Clone { .. }));
    // With its data the first goes on as what it was.
    first.data = DataState::Initialised(Role::Primary);
    first.lease = Seen::Known(LeaseView { holder: None });
    assert_eq!(decide(&first).action, Action::TakeLease);
}
