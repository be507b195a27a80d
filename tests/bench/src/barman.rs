//! barman-cloud, as its documentation sets it up: the same S3 server, two jobs, nothing compressed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    cluster::Cluster,
    failed,
    report::Peer,
    s3::{BUCKET, KEYS, S3},
    watch::{Cost, timed},
};

const PREFIX: &str = "barman";
/// What it calls the server, and the one backup that there is of it.
const SERVER: &str = "bench";

/// An installed barman-cloud, and where it stores.
#[derive(Debug)]
pub(crate) struct Barman {
    endpoint: String,
    authority: PathBuf,
    pub(crate) peer: Peer,
}

impl Barman {
    /// Prepares it, in `folder`.
    pub(crate) fn prepare(cluster: &Cluster, s3: &S3, folder: &Path) -> Result<Self, String> {
        cluster.owner.folder(folder)?;
        let authority = folder.join("authority.pem");
        fs::write(&authority, &s3.authority).map_err(failed("write the authority"))?;
        Ok(Self {
            endpoint: format!("https://127.0.0.1:{}", s3.port()),
            authority,
            peer: Peer::ask("barman-cloud", &["barman-cloud-backup", "--version"])?,
        })
    }

    fn command(&self, cluster: &Cluster, program: &str, arguments: &[&str]) -> Command {
        let mut command = cluster.owner.command(program);
        command
            .env("AWS_ACCESS_KEY_ID", KEYS.0)
            .env("AWS_SECRET_ACCESS_KEY", KEYS.1)
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .env("AWS_CA_BUNDLE", &self.authority)
            .args(["--endpoint-url", &self.endpoint])
            .args(arguments)
            .arg(format!("s3://{BUCKET}/{PREFIX}"))
            .arg(SERVER);
        command
    }

    /// A full backup, which is the only kind that it has.
    pub(crate) fn take(&self, cluster: &Cluster, s3: &S3) -> Result<Cost, String> {
        s3.forget(PREFIX)?;
        let (sockets, port) = (
            cluster.sockets().display().to_string(),
            cluster.port.to_string(),
        );
        let server = ["-h", &sockets, "-p", &port, "-U", "postgres"];
        let how = ["--immediate-checkpoint", "-J", "2", "--name", SERVER];
        let words = [server.as_slice(), how.as_slice()].concat();
        timed(&mut self.command(cluster, "barman-cloud-backup", &words))
    }

    /// Restores the newest into an empty folder.
    pub(crate) fn restore(&self, cluster: &Cluster, data: &Path) -> Result<Cost, String> {
        let mut command = self.command(cluster, "barman-cloud-restore", &[]);
        timed(command.arg(SERVER).arg(data))
    }

    /// Bytes that its backup takes.
    pub(crate) fn stored(s3: &S3) -> u64 {
        s3.stored(PREFIX)
    }
}
