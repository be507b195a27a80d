//! Snapshots while something dies, with `kubedb server`. The bodies are tried on a Kubernetes, too.

use kubedb_e2e::{tried::snapshots, world::World};

#[test]
fn whatever_dies_during_a_snapshot_of_15_it_comes_and_leaves_nothing_behind() {
    snapshots::whatever_dies_the_snapshot_comes(World::new(), "15");
}

#[test]
fn whatever_dies_during_a_snapshot_of_9_6_it_comes_and_leaves_nothing_behind() {
    snapshots::whatever_dies_the_snapshot_comes(World::new(), "9.6");
}

#[test]
fn a_store_that_stops_midway_or_is_emptied_is_told_and_the_next_snapshot_works() {
    snapshots::a_store_that_stops_or_is_emptied(World::new());
}

#[test]
fn instances_and_databases_that_go_away_take_no_snapshot_with_them() {
    snapshots::what_goes_away_takes_no_snapshot_with_it(World::new());
}

#[test]
fn a_snapshot_of_a_standby_holds_what_was_committed_before_it() {
    snapshots::a_standby_has_what_was_committed(World::new());
}
