//! Schedules of the real server with real PostgreSQL: killed again and again, and with names at the limit.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use kubedb_e2e::{
    tried::schedules::{self, postgres, snapshots},
    wait::eventually,
    world::World,
};

#[test]
fn a_server_that_is_killed_again_and_again_keeps_its_schedule() {
    schedules::whoever_is_killed_keeps_its_schedule(World::new());
}

#[test]
fn a_scheduled_backup_keeps_to_the_rate_and_the_limits_of_its_schedule() {
    schedules::a_scheduled_backup_keeps_to_its_rate(World::new());
}

/// On this machine alone: a StatefulSet's name may not be as long as these are.
#[test]
fn two_long_names_with_a_common_beginning_have_snapshots_of_their_own() {
    let mut world = World::new();
    let names = [
        format!("{}a", "d".repeat(59)),
        format!("{}b", "d".repeat(59)),
    ];
    let manifests: Vec<_> = names
        .iter()
        .map(|name| postgres(name, "@every 6h"))
        .collect();
    world.create(&manifests.join("---\n"));
    let all = eventually("two Snapshots", Duration::from_secs(180), || {
        let all = snapshots(&world)?;
        let is_good = all.iter().all(|(_, phase)| phase == "Succeeded");
        if is_good && all.len() == 2 {
            Ok(all)
        } else {
            Err(format!("{all:?}"))
        }
    });
    for name in &names {
        let folder = world.folder_in_bucket(name);
        let own = std::fs::read_dir(folder.join("snapshots")).unwrap();
        assert_eq!(own.count(), 1, "{all:?}");
    }
    assert!(all.iter().all(|(name, _)| name.len() <= 63), "{all:?}");
    assert!(world.server.stop(), "the server must stop cleanly");
}
