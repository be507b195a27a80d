//! WAL that waits, stored by each archiver in turn: the same segments, PostgreSQL's own archiver before each, and the same S3 server behind.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use kubedb_agent::archive::{Destination, answer_pushes, client};
use kubedb_engine::postgres::control::ControlFile;
use serde::{Deserialize, Serialize};

use crate::{
    cluster::Cluster,
    failed, ours,
    peer::PgBackRest,
    report::{Compared, Peer, Runs},
    s3::S3,
    say,
    watch::own_memory,
};

/// Segments that wait when a run begins.
const SEGMENTS: usize = 96;
/// No run takes longer.
const LIMIT: Duration = Duration::from_secs(600);
/// Lineage of the comparison's database: one that keys of encryption can be named after.
pub(crate) const LINEAGE: &str = "00000000-0000-4000-8000-000000000000";

/// What the process that stands for our agent is to do.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct Answering {
    pub(crate) socket: PathBuf,
    pub(crate) data: PathBuf,
}

/// Writes WAL until enough waits, and keeps all of it.
fn prepare(cluster: &Cluster) -> Result<Vec<String>, String> {
    archive_by(cluster, "false")?;
    say(&format!("writing {SEGMENTS} segments of WAL"));
    while ready(cluster)?.len() < SEGMENTS {
        cluster.transact()?;
    }
    let mut names = ready(cluster)?;
    names.truncate(SEGMENTS);
    Ok(names)
}

/// From here on this archiver is asked, to whom none of the WAL until now is left.
pub(crate) fn begin(cluster: &Cluster, command: &str) -> Result<(), String> {
    archive_by(cluster, "")?;
    settle(cluster)?;
    archive_by(cluster, command)
}

/// Nothing waits any more.
fn settle(cluster: &Cluster) -> Result<(), String> {
    for name in ready(cluster)? {
        rename(cluster, &name, "ready", "done")?;
    }
    Ok(())
}

/// The storing of WAL that waits.
pub(crate) fn compare(
    cluster: &Cluster,
    s3: &S3,
    pgbackrest: &PgBackRest,
    number_of_runs: usize,
) -> Result<Vec<Compared>, String> {
    let names = prepare(cluster)?;
    let (mut ours, mut theirs, mut bare) = (Runs::default(), Runs::default(), Runs::default());
    for number in 1..=number_of_runs {
        ours::forget(s3)?;
        let archiver = OurArchiver::start(cluster, s3)?;
        run(
            cluster,
            &names,
            &archiver.command,
            || vec![archiver.id()],
            &mut ours,
        )?;
        drop(archiver);
        bare.seconds.push(ours::put_again(cluster, s3)?);
        pgbackrest.make(cluster, s3)?;
        let command = pgbackrest.archive_command();
        let all = || processes_of("pgbackrest");
        run(cluster, &names, &command, all, &mut theirs)?;
        let last = |runs: &Runs| runs.seconds.last().copied().unwrap_or(f64::NAN);
        say(&format!(
            "wal-push {number}: ours {:.2} s, pgBackRest {:.2} s, the server alone {:.2} s",
            last(&ours),
            last(&theirs),
            last(&bare)
        ));
    }
    ours.stored = ours::stored(s3);
    theirs.stored = PgBackRest::stored(s3);
    bare.stored = ours.stored;
    let nobody = Peer {
        name: "the server alone",
        version: String::new(),
    };
    let row = |peer, codec, theirs| Compared {
        work: "wal-push",
        peer,
        cache: "warm",
        codec,
        bytes: names.len() as u64 * (16 << 20),
        ours: ours.clone(),
        theirs,
    };
    let peer = pgbackrest.peer.clone();
    Ok(vec![
        row(peer, "zstd-1, theirs lz4", theirs),
        row(nobody, "zstd-1, packed before", bare),
    ])
}

/// Seconds and memory of one archiver for these segments.
fn run(
    cluster: &Cluster,
    names: &[String],
    command: &str,
    processes: impl Fn() -> Vec<u32>,
    runs: &mut Runs,
) -> Result<(), String> {
    settle(cluster)?;
    for name in names {
        rename(cluster, name, "done", "ready")?;
    }
    nix::unistd::sync();
    let mut most = 0.0_f64;
    let begun = Instant::now();
    archive_by(cluster, command)?;
    while names
        .iter()
        .any(|name| status(cluster, name, "ready").exists())
    {
        if begun.elapsed() > LIMIT {
            return Err(format!("{command} does not store WAL"));
        }
        most = most.max(processes().into_iter().map(own_memory).sum());
        thread::sleep(Duration::from_millis(20));
    }
    let seconds = begun.elapsed().as_secs_f64();
    archive_by(cluster, "false")?;
    runs.seconds.push(seconds);
    runs.megabytes.push(most);
    Ok(())
}

/// Processes of a program.
pub(crate) fn processes_of(program: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let ids = entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| {
        let name = fs::read_to_string(format!("/proc/{id}/comm"));
        name.is_ok_and(|name| name.trim_end() == program)
    })
    .collect()
}

fn archive_by(cluster: &Cluster, command: &str) -> Result<(), String> {
    let quoted = command.replace('\'', "''");
    cluster.sql(&format!("ALTER SYSTEM SET archive_command = '{quoted}'"))?;
    cluster.sql("SELECT pg_reload_conf()")?;
    // After a failure its archiver sleeps for a minute; a new segment wakes it.
    if !["", "false"].contains(&command) {
        cluster.sql("SELECT pg_switch_wal()")?;
    }
    Ok(())
}

fn status(cluster: &Cluster, name: &str, end: &str) -> PathBuf {
    cluster
        .data
        .join("pg_wal/archive_status")
        .join(format!("{name}.{end}"))
}

fn rename(cluster: &Cluster, name: &str, from: &str, to: &str) -> Result<(), String> {
    let (from, to) = (status(cluster, name, from), status(cluster, name, to));
    match fs::rename(&from, to) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("failed to rename {}: {error}", from.display()))
        }
        _ => Ok(()),
    }
}

/// Segments that wait, the oldest first.
fn ready(cluster: &Cluster) -> Result<Vec<String>, String> {
    let folder = cluster.data.join("pg_wal/archive_status");
    let entries = fs::read_dir(folder).map_err(failed("list what waits"))?;
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            name.strip_suffix(".ready").map(str::to_owned)
        })
        .filter(|name| name.len() == 24)
        .collect();
    names.sort();
    Ok(names)
}

/// Our agent's part, in a process of its own, and the command that asks it.
pub(crate) struct OurArchiver {
    child: std::process::Child,
    pub(crate) command: String,
}

impl OurArchiver {
    pub(crate) fn start(cluster: &Cluster, s3: &S3) -> Result<Self, String> {
        let socket = cluster.sockets().join("kubedb.wal");
        let program = std::env::current_exe().map_err(failed("find this program"))?;
        let answering = Answering {
            socket: socket.clone(),
            data: cluster.data.clone(),
        };
        let mut command: Command = ours::process(cluster, s3, answering)?;
        let child = command.spawn().map_err(failed("start our archiver"))?;
        let archiver = Self {
            child,
            command: format!(
                "exec {} --wal-push {} --name %f",
                program.display(),
                socket.display()
            ),
        };
        let end = Instant::now() + Duration::from_secs(20);
        while !socket.exists() {
            if Instant::now() > end {
                return Err("our archiver does not listen".to_owned());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(archiver)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for OurArchiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `archive_command` runs for us.
pub(crate) fn push(socket: &Path, name: &str) -> Result<(), String> {
    match client::push(socket, name).map_err(failed("ask"))? {
        client::Answer::Done => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// Answers until the process is ended.
pub(crate) async fn answer(
    answering: Answering,
    store: kubedb_engine::store::Store,
) -> Result<(), String> {
    let control = ControlFile::read(&answering.data).map_err(|error| error.to_string())?;
    let to = Destination {
        storage: kubedb_api::storage::SnapshotStorage::default(),
        namespace: "bench".to_owned(),
        database: "bench".to_owned(),
        lineage: LINEAGE.to_owned(),
        system_identifier: control.system_identifier,
        segment_bytes: control.wal_segment_bytes.into(),
        folder: answering.data.join("pg_wal"),
    };
    let listening = answer_pushes(&answering.socket, store, to);
    let listening = listening.map_err(failed("listen"))?;
    listening.await.map_err(|error| error.to_string())
}
