//! pgBackRest, as its documentation sets it up: S3, two processes, the same codec and level, pages verified.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    cluster::{Cluster, quiet},
    failed,
    report::Peer,
    s3::{BUCKET, KEYS, S3},
    watch::{Cost, timed},
};

const PREFIX: &str = "pgbackrest";

/// An installed pgBackRest with a configuration of its own.
#[derive(Debug)]
pub(crate) struct PgBackRest {
    configuration: PathBuf,
    spool: PathBuf,
    pub(crate) peer: Peer,
}

impl PgBackRest {
    /// Configures it for a database and a store, in `folder`.
    pub(crate) fn prepare(cluster: &Cluster, s3: &S3, folder: &Path) -> Result<Self, String> {
        let peer = Peer::ask("pgbackrest", &["pgbackrest", "version"])?;
        for name in ["log", "lock", "spool"] {
            cluster.owner.folder(&folder.join(name))?;
        }
        let below = |name: &str| folder.join(name).display().to_string();
        // Neither waits for WAL to be archived: there is no archive in this comparison.
        let text = format!(
            "[global]
repo1-type=s3
repo1-path=/{PREFIX}
repo1-s3-bucket={BUCKET}
repo1-s3-endpoint=127.0.0.1
repo1-storage-port={port}
repo1-storage-verify-tls=n
repo1-s3-region=us-east-1
repo1-s3-uri-style=path
repo1-s3-key={key}
repo1-s3-key-secret={secret}
compress-type=zst
compress-level=1
process-max=2
start-fast=y
archive-check=n
archive-mode-check=n
log-level-console=warn
log-level-file=off
log-path={log}
lock-path={lock}
spool-path={spool}

[bench]
pg1-path={data}
pg1-port={database}
pg1-socket-path={sockets}
pg1-user=postgres
",
            port = s3.port(),
            key = KEYS.0,
            secret = KEYS.1,
            log = below("log"),
            lock = below("lock"),
            spool = below("spool"),
            data = cluster.data.display(),
            database = cluster.port,
            sockets = cluster.sockets().display(),
        );
        let configuration = folder.join("pgbackrest.conf");
        fs::write(&configuration, text)
            .and_then(|()| fs::set_permissions(&configuration, fs::Permissions::from_mode(0o644)))
            .map_err(failed("write pgbackrest.conf"))?;
        Ok(Self {
            configuration,
            spool: folder.join("spool"),
            peer,
        })
    }

    fn command(&self, cluster: &Cluster, arguments: &[&str]) -> Command {
        let mut command = cluster.owner.command("pgbackrest");
        command
            .arg(format!("--config={}", self.configuration.display()))
            .arg("--stanza=bench")
            .args(arguments);
        command
    }

    /// A full backup into an empty repository.
    pub(crate) fn take(&self, cluster: &Cluster) -> Result<Cost, String> {
        timed(&mut self.command(cluster, &["--type=full", "backup"]))
    }

    /// A backup of what changed since the last.
    pub(crate) fn take_changes(&self, cluster: &Cluster) -> Result<Cost, String> {
        timed(&mut self.command(cluster, &["--type=incr", "backup"]))
    }

    /// Makes the repository, which is not part of what is timed. What it has noted of a former one goes.
    pub(crate) fn make(&self, cluster: &Cluster, s3: &S3) -> Result<(), String> {
        s3.forget(PREFIX)?;
        fs::remove_dir_all(&self.spool).map_err(failed("empty the spool"))?;
        cluster.owner.folder(&self.spool)?;
        quiet(&mut self.command(cluster, &["--no-online", "stanza-create"]))
    }

    /// Restores the newest into an empty folder.
    pub(crate) fn restore(&self, cluster: &Cluster, data: &Path) -> Result<Cost, String> {
        let place = format!("--pg1-path={}", data.display());
        timed(&mut self.command(cluster, &[&place, "restore"]))
    }

    /// Restores the newest into a folder that has it already.
    pub(crate) fn restore_delta(&self, cluster: &Cluster, data: &Path) -> Result<Cost, String> {
        let place = format!("--pg1-path={}", data.display());
        timed(&mut self.command(cluster, &[&place, "--delta", "restore"]))
    }

    /// What `archive_command` runs: by the spool, with two processes, by lz4, which is its fastest.
    pub(crate) fn archive_command(&self) -> String {
        format!(
            "pgbackrest --config={} --stanza=bench --archive-async --compress-type=lz4 --compress-level=1 archive-push %p",
            self.configuration.display()
        )
    }

    /// Bytes that its repository takes.
    pub(crate) fn stored(s3: &S3) -> u64 {
        s3.stored(PREFIX)
    }
}
