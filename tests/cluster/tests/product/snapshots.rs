//! What is tried of Snapshots with `kubedb server`, with pods.

use kubedb_e2e::tried::snapshots;

use crate::platform::on_cluster;

#[test]
fn whatever_dies_during_a_snapshot_of_15_it_comes_and_leaves_nothing_behind() {
    on_cluster("dies", |world| {
        snapshots::whatever_dies_the_snapshot_comes(world, "15")
    });
}

#[test]
fn whatever_dies_during_a_snapshot_of_9_6_it_comes_and_leaves_nothing_behind() {
    on_cluster("dies-old", |world| {
        snapshots::whatever_dies_the_snapshot_comes(world, "9.6")
    });
}

#[test]
fn a_store_that_stops_midway_or_is_emptied_is_told_and_the_next_snapshot_works() {
    on_cluster("emptied", snapshots::a_store_that_stops_or_is_emptied);
}

#[test]
fn instances_and_databases_that_go_away_take_no_snapshot_with_them() {
    on_cluster("away", snapshots::what_goes_away_takes_no_snapshot_with_it);
}

#[test]
fn a_snapshot_of_a_standby_holds_what_was_committed_before_it() {
    on_cluster("standby", snapshots::a_standby_has_what_was_committed);
}
