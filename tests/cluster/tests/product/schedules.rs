//! What is tried of schedules with `kubedb server`, with pods.

use kubedb_e2e::tried::schedules;

use crate::platform::on_cluster;

#[test]
fn operators_that_are_killed_again_and_again_keep_a_schedule() {
    let Some(world) = on_cluster("ticks") else {
        return;
    };
    schedules::whoever_is_killed_keeps_its_schedule(world);
}

#[test]
fn a_scheduled_backup_keeps_to_the_rate_and_the_limits_of_its_schedule() {
    let Some(world) = on_cluster("rate") else {
        return;
    };
    schedules::a_scheduled_backup_keeps_to_its_rate(world);
}
