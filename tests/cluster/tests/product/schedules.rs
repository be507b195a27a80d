//! What is tried of schedules with `kubedb server`, with pods.

use kubedb_e2e::tried::schedules;

use crate::platform::on_cluster;

#[test]
fn operators_that_are_killed_again_and_again_keep_a_schedule() {
    on_cluster("ticks", schedules::whoever_is_killed_keeps_its_schedule);
}

#[test]
fn a_scheduled_backup_keeps_to_the_rate_and_the_limits_of_its_schedule() {
    on_cluster("rate", schedules::a_scheduled_backup_keeps_to_its_rate);
}
