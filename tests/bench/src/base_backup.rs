//! `pg_basebackup`: one stream, compressed by the server, into a folder. It has no store, so that nothing here is sent anywhere, and it compares no pages.

use std::{fs, path::Path};

use crate::{
    cluster::{Cluster, size},
    failed,
    report::Peer,
    watch::{Cost, timed},
};

const PROGRAM: &str = "/usr/lib/postgresql/15/bin/pg_basebackup";

/// Its version.
pub(crate) fn peer() -> Result<Peer, String> {
    Peer::ask("pg_basebackup", &[PROGRAM, "--version"])
}

/// Takes one; says how many bytes it left.
pub(crate) fn take(cluster: &Cluster, folder: &Path) -> Result<(Cost, u64), String> {
    let port = cluster.port.to_string();
    let mut command = cluster.owner.command(PROGRAM);
    command
        .arg("-h")
        .arg(cluster.sockets())
        .args(["-p", &port, "-U", "postgres", "--checkpoint=fast"])
        .args(["--format=tar", "--wal-method=fetch"])
        .args(["--compress=server-zstd:level=1,workers=2", "--pgdata"])
        .arg(folder);
    let cost = timed(&mut command)?;
    let stored = size(folder);
    fs::remove_dir_all(folder).map_err(failed("remove what pg_basebackup left"))?;
    Ok((cost, stored))
}
