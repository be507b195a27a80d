//! What the agent knows by itself: told whether PostgreSQL answers or not.

use jiff::Timestamp;
use kubedb_api::{
    agent_config::AgentConfig,
    metrics::seconds,
    protocol::{InstanceRole, InstanceStatus, TaskPhase},
};
use kubedb_core::{lsn::Lsn, metrics::Exposition};

use super::{
    families::*,
    volume::{Room, Volume},
};
use crate::archive::Figures;

const ROLES: [&str; 2] = ["primary", "standby"];
const PHASES: [&str; 8] = [
    "Waiting",
    "Bootstrapping",
    "Cloning",
    "Restoring",
    "Starting",
    "Running",
    "Stopped",
    "Failed",
];

/// Whose numbers they are.
pub(super) fn own(config: &AgentConfig) -> [&str; 3] {
    [&config.namespace, &config.database, &config.instance]
}

/// Adds what is known of the instance.
pub(super) fn instance(
    config: &AgentConfig,
    status: &InstanceStatus,
    begun: Timestamp,
    silence: f64,
    to: &mut Exposition,
) {
    let own = own(config);
    let [namespace, database, instance] = own;
    let version = env!("CARGO_PKG_VERSION");
    to.add(&INFO, &[namespace, database, instance, version], 1.0);
    to.add(&STARTED, &own, seconds(begun));
    to.add(&SILENCE, &own, silence);
    let role = status.role.map(|role| match role {
        InstanceRole::Primary => ROLES[0],
        InstanceRole::Standby => ROLES[1],
    });
    to.state(&ROLE, &own, &ROLES, role);
    to.state(&PHASE, &own, &PHASES, Some(&format!("{:?}", status.phase)));
    let flag = |is: bool| f64::from(u8::from(is));
    to.add(&READY, &own, flag(status.ready));
    to.maybe(&STREAMING, &own, status.streaming.map(flag));
    to.maybe(&TIMELINE, &own, status.timeline.map(f64::from));
    let lsn = status.lsn.as_ref().and_then(|lsn| lsn.parse::<Lsn>().ok());
    to.maybe(&LSN, &own, lsn.map(|lsn| lsn.0 as f64));
    let running = status.tasks.values();
    let mut running = running.filter(|task| task.phase == TaskPhase::Running);
    if let Some(progress) = running.find_map(|task| task.progress) {
        to.add(&PROGRESS_DONE, &own, progress.done_bytes as f64);
        to.add(&PROGRESS_TOTAL, &own, progress.total_bytes as f64);
    }
}

/// Adds what is known of the disk.
pub(super) fn volume(
    config: &AgentConfig,
    volume: &Volume,
    room: Option<Room>,
    to: &mut Exposition,
) {
    let own = own(config);
    to.maybe(&VOLUME, &own, room.map(|room| room.size as f64));
    to.maybe(&FREE, &own, room.map(|room| room.free as f64));
    to.maybe(&DATA, &own, volume.data_bytes().map(|bytes| bytes as f64));
}

/// Adds how archiving goes.
pub(super) fn archive(
    config: &AgentConfig,
    figures: &Figures,
    now: Timestamp,
    to: &mut Exposition,
) {
    let (own, status) = (own(config), &figures.status);
    to.add(&ARCHIVED, &own, figures.stored as f64);
    to.add(&ARCHIVE_FAILURES, &own, figures.failures as f64);
    let last = status.last_archived_time;
    to.maybe(&ARCHIVE_LAST, &own, last.map(seconds));
    let covered = status.covered_time;
    to.maybe(&ARCHIVE_COVERED, &own, covered.map(seconds));
    let lag = covered.map(|covered| (seconds(now) - seconds(covered)).max(0.0));
    to.maybe(&ARCHIVE_LAG, &own, lag);
    let waiting = f64::from(status.waiting_segments);
    to.add(&ARCHIVE_WAITING, &own, waiting);
    let bytes = figures.segment_bytes as f64;
    to.add(&ARCHIVE_WAITING_BYTES, &own, waiting * bytes);
    let failing = status.failing_since;
    to.add(
        &ARCHIVE_FAILING,
        &own,
        f64::from(u8::from(failing.is_some())),
    );
    to.maybe(&ARCHIVE_FAILING_SINCE, &own, failing.map(seconds));
    to.add(
        &ARCHIVE_SILENT,
        &own,
        f64::from(u8::from(figures.is_silent)),
    );
    let full = status.disk_full_time;
    to.maybe(&ARCHIVE_FULL, &own, full.map(seconds));
    to.maybe(&ARCHIVE_GAPS, &own, status.gaps.map(f64::from));
}

#[cfg(test)]
mod tests {
    use kubedb_api::{archiver::ArchiveStatus, protocol::InstancePhase};

    use super::*;

    fn config() -> AgentConfig {
        serde_json::from_value(serde_json::json!({
            "namespace": "demo", "database": "pg", "databaseUid": "u", "instance": "pg-0", "ordinal": 0, "directory": "/d",
            "socketDirectory": "/s", "binDirectory": "/b", "postgresVersion": "15.1", "listenAddress": "127.0.0.1", "port": 1,
        }))
        .unwrap()
    }

    #[test]
    fn what_keeps_a_primary_from_archiving_is_told_in_numbers() {
        let at = |second: i64| Timestamp::from_second(1_795_000_000 + second).unwrap();
        let mut figures = Figures {
            status: ArchiveStatus {
                covered_time: Some(at(10)),
                waiting_segments: 3,
                failing_since: Some(at(20)),
                disk_full_time: Some(at(900)),
                ..ArchiveStatus::default()
            },
            stored: 7,
            failures: 2,
            is_silent: false,
            segment_bytes: 16 << 20,
        };
        let told = |figures: &Figures| {
            let mut exposition = Exposition::new();
            archive(&config(), figures, at(40), &mut exposition);
            exposition.text()
        };
        let text = told(&figures);
        for wanted in [
            "kubedb_archive_lag_seconds{} 30",
            "kubedb_archive_waiting_bytes{} 50331648",
            "kubedb_archive_failing{} 1",
            "kubedb_archive_failures_total{} 2",
            "kubedb_archive_disk_full_timestamp_seconds{} 1795000900",
        ] {
            let wanted = wanted.replace(
                "{}",
                "{namespace=\"demo\",database=\"pg\",instance=\"pg-0\"}",
            );
            assert!(text.contains(&wanted), "{wanted}\n{text}");
        }
        assert!(!text.contains("gaps"), "{text}");
        figures.status = ArchiveStatus::default();
        let text = told(&figures);
        assert!(
            !text.contains("_lag_seconds{") && !text.contains("_since_"),
            "{text}"
        );
    }

    #[test]
    fn an_instance_is_in_one_phase_and_one_role() {
        let status = InstanceStatus {
            role: Some(InstanceRole::Standby),
            phase: InstancePhase::Cloning,
            lsn: Some("1/10".to_owned()),
            ..InstanceStatus::default()
        };
        let mut exposition = Exposition::new();
        instance(
            &config(),
            &status,
            Timestamp::UNIX_EPOCH,
            0.5,
            &mut exposition,
        );
        let text = exposition.text();
        let ones = text.lines().filter(|line| line.ends_with("\"} 1"));
        let ones: Vec<&str> = ones.filter(|line| !line.contains("info")).collect();
        assert_eq!(ones.len(), 2, "{ones:?}");
        assert!(ones[0].contains("phase=\"Cloning\"") && ones[1].contains("role=\"standby\""));
        assert!(text.contains(
            "lsn_bytes{namespace=\"demo\",database=\"pg\",instance=\"pg-0\"} 4294967312"
        ));
        for name in exposition.names() {
            assert!(OURS.iter().any(|family| family.name == name), "{name}");
        }
    }
}
