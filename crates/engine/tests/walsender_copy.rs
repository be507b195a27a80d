//! Copies of real servers of 9.6 and 15: they run, they follow, and broken ones leave nothing.

#![allow(clippy::unwrap_used)]

mod servers;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use kubedb_engine::{
    postgres::control::{ClusterState, ControlFile},
    walsender::{CopyProgress, UnpackError, WalSender, WalSenderError},
};
use servers::{
    Server, Version,
    replication::{BOTH, config, dialect, walsender},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Copies a server into a folder.
async fn copy(port: u16, version: Version, target: &Path) -> Result<(), WalSenderError> {
    let (progress, _) = watch::channel(CopyProgress::default());
    let mut walsender = WalSender::connect(&config(port)).await?;
    let copied = walsender
        .base_backup(dialect(version), "test", target, &progress)
        .await;
    copied.map(|_| ())
}

/// Lets bytes of the server through up to a limit, then cuts the connection, or just stops.
async fn leaky_proxy(server_port: u16, limit: usize, cuts: bool) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(("127.0.0.1", server_port))
            .await
            .unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
        let mut left = limit;
        let mut buffer = vec![0; 64 << 10];
        while left > 0 {
            let most = left.min(buffer.len());
            let count = from_server.read(&mut buffer[..most]).await.unwrap();
            to_client.write_all(&buffer[..count]).await.unwrap();
            left -= count;
        }
        if !cuts {
            std::future::pending::<()>().await;
        }
    });
    port
}

/// Folder of the other tablespace. What its name holds is escaped in the `tablespace_map` of 15.
fn space(server: &Server) -> PathBuf {
    let name = if server.version == Version::Old {
        "a space"
    } else {
        "a space\nof 1 \\"
    };
    server.folder().join(name)
}

/// Rows in the main tablespace and in another, and a role for the standby.
async fn fill(server: &Server) -> String {
    let space = space(server);
    fs::create_dir(&space).unwrap();
    servers::hand_over(&space);
    server
        .sql_by_socket("CREATE ROLE standby LOGIN REPLICATION PASSWORD 'plain'")
        .await;
    server
        .sql_by_socket(&format!(
            "CREATE TABLESPACE space LOCATION '{}'",
            space.display()
        ))
        .await;
    server
        .sql_by_socket(
            "CREATE TABLE main AS SELECT n, repeat(md5(n::text), 20) t FROM generate_series(1, 20000) n;
             CREATE TABLE aside TABLESPACE space AS SELECT n FROM generate_series(1, 5000) n",
        )
        .await;
    server
        .value("SELECT oid FROM pg_tablespace WHERE spcname = 'space'")
        .await
}

/// Makes a copy follow its source.
fn follow(copy: &Server, source: &Server) {
    let conninfo = format!(
        "host=127.0.0.1 port={} user=standby password=plain",
        source.port
    );
    if copy.version == Version::Old {
        let settings = format!("standby_mode = on\nprimary_conninfo = '{conninfo}'\n");
        fs::write(copy.data.join("recovery.conf"), settings).unwrap();
    } else {
        fs::write(copy.data.join("standby.signal"), "").unwrap();
        copy.configure(&format!("primary_conninfo = '{conninfo}'"));
    }
}

fn assert_private(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        let mode = metadata.permissions().mode() & 0o777;
        if metadata.is_dir() {
            assert_eq!(mode, 0o700, "{}", entry.path().display());
            assert_private(&entry.path());
        } else if metadata.is_file() {
            assert_eq!(mode, 0o600, "{}", entry.path().display());
        }
    }
}

#[tokio::test]
async fn a_copy_becomes_a_standby_that_streams() {
    for (version, method) in BOTH {
        let source = Server::create(version, method).await;
        let oid = fill(&source).await;
        let mut copy = Server::empty(version).await;
        let (progress, seen) = watch::channel(CopyProgress::default());
        let mut walsender = walsender(&source).await;
        let label = "it's a label";
        let backup = walsender
            .base_backup(dialect(version), label, &copy.data, &progress)
            .await
            .unwrap();
        assert!(
            backup.start < backup.stop && backup.timeline == 1,
            "{backup:?}"
        );
        let seen = *seen.borrow();
        assert!(
            seen.done_bytes > 20 << 20 && seen.done_bytes == seen.total_bytes,
            "{seen:?}"
        );
        assert_private(copy.folder());
        let written = fs::read_to_string(copy.data.join("backup_label")).unwrap();
        assert!(
            written.contains(&format!("START WAL LOCATION: {}", backup.start)),
            "{written}"
        );
        assert!(written.contains(&format!("LABEL: {label}\n")), "{written}");
        let place = copy.folder().join("tablespaces").join(&oid);
        let link = fs::read_link(copy.data.join("pg_tblspc").join(&oid));
        assert_eq!(link.unwrap(), place);
        assert!(!copy.data.join("tablespace_map").exists());
        // The connection takes further commands.
        walsender.identify_system().await.unwrap();

        follow(&copy, &source);
        copy.start().await;
        let rows = "SELECT (SELECT count(*) FROM main) || ' ' || (SELECT count(*) FROM aside)";
        assert_eq!(copy.value(rows).await, "20000 5000");
        assert_eq!(copy.value("SELECT pg_is_in_recovery()").await, "t");
        let location = format!("SELECT pg_tablespace_location({oid})");
        assert_eq!(copy.value(&location).await, place.display().to_string());
        source
            .sql_by_socket("INSERT INTO main VALUES (0, 'late'); INSERT INTO aside VALUES (0)")
            .await;
        copy.wait_for(rows, "20001 5001").await;
        copy.stop("fast");
        let state = ControlFile::read(&copy.data).unwrap().state;
        assert_eq!(state, ClusterState::ShutDownInRecovery);
    }
}

#[tokio::test]
async fn t35_a_copy_holds_the_wal_it_needs() {
    for (version, method) in BOTH {
        let mut source = Server::create(version, method).await;
        fill(&source).await;
        let mut server = Server::empty(version).await;
        fs::create_dir(&server.data).unwrap();
        fs::set_permissions(&server.data, fs::Permissions::from_mode(0o700)).unwrap();
        copy(source.port, version, &server.data).await.unwrap();
        source.stop("immediate");
        fs::rename(space(&source), source.folder().join("gone")).unwrap();
        server.start().await;
        assert_eq!(server.value("SELECT pg_is_in_recovery()").await, "f");
        assert_eq!(server.value("SELECT count(*) FROM main").await, "20000");
        assert_eq!(server.value("SELECT sum(n) FROM aside").await, "12502500");
        assert_eq!(server.value("SHOW data_checksums").await, "on");
    }
}

#[tokio::test]
async fn a_cut_connection_is_an_error_and_leaves_nothing() {
    for (version, method) in BOTH {
        let source = Server::create(version, method).await;
        fill(&source).await;
        // Within the answer before the archives, early, and late; the whole is more than 40 MB.
        for limit in [500, 100_000, 5_000_001, 25_000_000] {
            let port = leaky_proxy(source.port, limit, true).await;
            let place = tempfile::tempdir().unwrap();
            let target = place.path().join("data");
            let error = copy(port, version, &target).await.unwrap_err();
            assert!(
                matches!(error, WalSenderError::Cut { .. }),
                "{limit}: {error:?}"
            );
            let left: Vec<_> = fs::read_dir(place.path())
                .unwrap()
                .map(|e| e.unwrap().path())
                .collect();
            let folder = place.path().join("tablespaces");
            assert!(left.iter().all(|path| *path == folder), "{limit}: {left:?}");
            assert!(!folder.exists() || fs::read_dir(folder).unwrap().next().is_none());
        }
        // What was there before stays.
        let place = tempfile::tempdir().unwrap();
        let port = leaky_proxy(source.port, 5_000_000, true).await;
        copy(port, version, place.path()).await.unwrap_err();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        fs::write(place.path().join("precious"), "x").unwrap();
        let error = copy(source.port, version, place.path()).await.unwrap_err();
        let is_told = matches!(&error, WalSenderError::Unpack { source: UnpackError::NotEmpty { path } } if path == place.path());
        assert!(is_told, "{error:?}");
        assert!(place.path().join("precious").exists());
    }
}

#[tokio::test]
async fn a_cancelled_copy_is_removed() {
    let source = Server::create(Version::New, "scram-sha-256").await;
    let port = leaky_proxy(source.port, 10_000_000, false).await;
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("data");
    let copying = tokio::spawn({
        let target = target.clone();
        async move { copy(port, Version::New, &target).await }
    });
    let patience = Instant::now() + Duration::from_secs(30);
    while !target.join("base").exists() {
        assert!(Instant::now() < patience && !copying.is_finished());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    copying.abort();
    while target.exists() {
        assert!(Instant::now() < patience, "the copy is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_tablespace_that_9_6_would_leave_out_is_told() {
    let source = Server::create(Version::Old, "md5").await;
    let space = source.folder().join("line\nend");
    fs::create_dir(&space).unwrap();
    servers::hand_over(&space);
    let create = format!("CREATE TABLESPACE space LOCATION '{}'", space.display());
    source.sql_by_socket(&create).await;
    let place = tempfile::tempdir().unwrap();
    let error = copy(source.port, Version::Old, &place.path().join("data"))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("because of the line end"),
        "{error}"
    );
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_standby_can_be_copied_and_its_slot_holds_wal() {
    for (version, method) in BOTH {
        let source = Server::create(version, method).await;
        fill(&source).await;
        let mut standby = Server::empty(version).await;
        copy(source.port, version, &standby.data).await.unwrap();
        follow(&standby, &source);
        standby.start().await;
        let rows = "SELECT count(*) FROM main";
        source
            .sql_by_socket("INSERT INTO main VALUES (0, 'late')")
            .await;
        standby.wait_for(rows, "20001").await;

        let mut walsender = walsender(&standby).await;
        walsender
            .create_physical_slot("held", dialect(version))
            .await
            .unwrap();
        let held =
            "SELECT restart_lsn IS NOT NULL FROM pg_replication_slots WHERE slot_name = 'held'";
        assert_eq!(standby.value(held).await, "t");

        // Of a standby, the copy is consistent only where the standby's own replay was: it must follow on.
        let mut second = Server::empty(version).await;
        copy(standby.port, version, &second.data).await.unwrap();
        if version == Version::Old {
            fs::remove_file(second.data.join("recovery.conf")).unwrap_or_default();
        }
        follow(&second, &source);
        second.start().await;
        source
            .sql_by_socket("INSERT INTO main VALUES (-1, 'later')")
            .await;
        second.wait_for(rows, "20002").await;
        walsender.drop_slot("held").await.unwrap();
        walsender.close().await;
    }
}
