//! `pg_control` as we read it against what servers and `pg_controldata` say of the same clusters.

#![allow(clippy::unwrap_used)]

mod servers;

use std::{collections::HashMap, path::Path, process::Command};

use kubedb_core::lsn::Lsn;
use kubedb_engine::postgres::control::{CONTROL_FILE, ClusterState, ControlFile, ReadControlError};
use servers::{Server, Version};

/// What `pg_controldata` prints, by label.
fn printed(data: &Path) -> HashMap<String, String> {
    let output = Command::new("/usr/lib/postgresql/15/bin/pg_controldata")
        .arg(data)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect()
}

/// Settings no two of which are equal, so that no field can stand in for another.
const SETTINGS: &str = "max_connections = 41\nmax_worker_processes = 9\nmax_wal_senders = 7\n\
    max_prepared_transactions = 3\nmax_locks_per_transaction = 77";

#[tokio::test]
async fn every_field_of_15_is_what_pg_controldata_prints() {
    let mut server = Server::create(Version::New, "scram-sha-256").await;
    server.stop("fast");
    server.configure(SETTINGS);
    server.start().await;
    server
        .sql_by_socket("CREATE TABLE t AS SELECT generate_series(1, 1000) n; CHECKPOINT;")
        .await;
    for (mode, state) in [
        ("immediate", ClusterState::InProduction),
        ("fast", ClusterState::ShutDown),
    ] {
        server.stop(mode);
        let control = ControlFile::read(&server.data).unwrap();
        let printed = printed(&server.data);
        let number = |key: &str| printed[key].parse::<u64>().unwrap();
        let lsn = |key: &str| printed[key].parse::<Lsn>().unwrap();
        assert_eq!(control.state, state);
        assert_eq!(
            control.system_identifier,
            number("Database system identifier")
        );
        assert_eq!(
            u64::from(control.control_version),
            number("pg_control version number")
        );
        assert_eq!(
            u64::from(control.catalog_version),
            number("Catalog version number")
        );
        assert_eq!(control.checkpoint, lsn("Latest checkpoint location"));
        assert_eq!(control.redo, lsn("Latest checkpoint's REDO location"));
        assert_eq!(
            u64::from(control.timeline),
            number("Latest checkpoint's TimeLineID")
        );
        assert_eq!(
            control.minimum_recovery_end,
            lsn("Minimum recovery ending location")
        );
        assert_eq!(control.backup_start, lsn("Backup start location"));
        assert_eq!(
            u64::from(control.max_connections),
            number("max_connections setting")
        );
        assert_eq!(
            u64::from(control.max_worker_processes),
            number("max_worker_processes setting")
        );
        assert_eq!(
            control.max_wal_senders.map(u64::from),
            Some(number("max_wal_senders setting"))
        );
        assert_eq!(
            u64::from(control.max_prepared_transactions),
            number("max_prepared_xacts setting")
        );
        assert_eq!(
            u64::from(control.max_locks_per_transaction),
            number("max_locks_per_xact setting")
        );
        assert_eq!(
            u64::from(control.block_bytes),
            number("Database block size")
        );
        assert_eq!(
            u64::from(control.segment_blocks),
            number("Blocks per segment of large relation")
        );
        assert_eq!(
            u64::from(control.wal_segment_bytes),
            number("Bytes per WAL segment")
        );
        assert_eq!(
            u64::from(control.checksum_version),
            number("Data page checksum version")
        );
        assert_eq!(control.max_connections, 41);
        server.start().await;
    }
}

#[tokio::test]
async fn every_field_of_9_6_to_13_is_what_the_server_says() {
    for version in [
        Version::Old,
        Version::Of(10),
        Version::Of(11),
        Version::Of(12),
        Version::Of(13),
    ] {
        is_what_the_server_says(version).await;
    }
}

#[tokio::test]
async fn every_field_of_14_to_18_is_what_the_server_says() {
    for major in 14..=18 {
        is_what_the_server_says(Version::Of(major)).await;
    }
}

async fn is_what_the_server_says(version: Version) {
    let mut server = Server::create(version, "md5").await;
    server.stop("fast");
    server.configure(SETTINGS);
    server.start().await;
    server
        .sql_by_socket("CREATE TABLE t AS SELECT generate_series(1, 1000) n; CHECKPOINT;")
        .await;
    let control = ControlFile::read(&server.data).unwrap();
    let says =
        async |what: &str, from: &str| server.value(&format!("SELECT {what} FROM {from}")).await;
    let setting = async |name: &str| {
        says(
            &format!("current_setting('{name}')"),
            "generate_series(1, 1)",
        )
        .await
    };
    let word = if version == Version::Old {
        "location"
    } else {
        "lsn"
    };
    let position = |name: &str| format!("{name}_{word}");
    assert_eq!(control.state, ClusterState::InProduction);
    for (ours, theirs) in [
        (
            control.system_identifier.to_string(),
            says("system_identifier", "pg_control_system()").await,
        ),
        (
            control.control_version.to_string(),
            says("pg_control_version", "pg_control_system()").await,
        ),
        (
            control.catalog_version.to_string(),
            says("catalog_version_no", "pg_control_system()").await,
        ),
        (
            control.checkpoint.to_string(),
            says(&position("checkpoint"), "pg_control_checkpoint()").await,
        ),
        (
            control.redo.to_string(),
            says(&position("redo"), "pg_control_checkpoint()").await,
        ),
        (
            control.timeline.to_string(),
            says("timeline_id", "pg_control_checkpoint()").await,
        ),
        (
            control.minimum_recovery_end.to_string(),
            says(&position("min_recovery_end"), "pg_control_recovery()").await,
        ),
        (
            control.backup_start.to_string(),
            says(&position("backup_start"), "pg_control_recovery()").await,
        ),
        (
            control.block_bytes.to_string(),
            says("database_block_size", "pg_control_init()").await,
        ),
        (
            control.segment_blocks.to_string(),
            says("blocks_per_segment", "pg_control_init()").await,
        ),
        (
            control.wal_segment_bytes.to_string(),
            says("bytes_per_wal_segment", "pg_control_init()").await,
        ),
        (
            control.checksum_version.to_string(),
            says("data_page_checksum_version", "pg_control_init()").await,
        ),
        (
            control.max_connections.to_string(),
            setting("max_connections").await,
        ),
        (
            control.max_worker_processes.to_string(),
            setting("max_worker_processes").await,
        ),
        (
            control.max_prepared_transactions.to_string(),
            setting("max_prepared_transactions").await,
        ),
        (
            control.max_locks_per_transaction.to_string(),
            setting("max_locks_per_transaction").await,
        ),
    ] {
        assert_eq!(ours, theirs, "{version:?}: {control:?}");
    }
    let knows_senders = !matches!(version, Version::Old | Version::Of(10 | 11));
    assert_eq!(control.max_wal_senders, knows_senders.then_some(7));
    assert!(
        control.redo < control.checkpoint,
        "an online checkpoint begins before its record"
    );

    server.stop("fast");
    let control = ControlFile::read(&server.data).unwrap();
    assert_eq!(control.state, ClusterState::ShutDown);
    assert_eq!(control.redo, control.checkpoint);
}

#[tokio::test]
async fn a_flipped_bit_and_a_cut_are_found() {
    for (version, covered) in [
        (Version::Old, 260),
        (Version::Of(11), 284),
        (Version::New, 292),
        (Version::Of(18), 296),
    ] {
        let mut server = Server::create(version, "md5").await;
        server.stop("fast");
        let good = std::fs::read(server.data.join(CONTROL_FILE)).unwrap();
        for at in (0..covered).filter(|at| !(8..12).contains(at)) {
            let mut bad = good.clone();
            bad[at] ^= 0x08;
            let found = ControlFile::parse(&bad);
            assert!(
                matches!(found, Err(ReadControlError::Checksum { .. })),
                "{at}: {found:?}"
            );
        }
        assert!(ControlFile::parse(&good[..covered]).is_ok());
        let cut = ControlFile::parse(&good[..covered - 1]);
        assert!(matches!(cut, Err(ReadControlError::Short { .. })));
    }
    let missing = ControlFile::read(Path::new("/nonexistent")).unwrap_err();
    assert_eq!(
        missing.to_string(),
        format!("failed to read /nonexistent/{CONTROL_FILE}")
    );
}
