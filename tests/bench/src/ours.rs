//! Our engine at work, in a process of its own, so that its time and memory can be seen from outside.

use std::{collections::BTreeMap, path::PathBuf, process::Command};

use jiff::Timestamp;
use kubedb_core::effort::{Effort, Limits};
use kubedb_engine::{
    backup::{self, BackupRequest},
    encryption::{Identity, Keys},
    postgres::dialect::PgDialect,
    restore::{self, Ground, RestoreRequest, Terms},
    store::{Location, Store},
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    bare,
    cluster::Cluster,
    failed,
    s3::{BUCKET, KEYS, S3},
    wal::{self, Answering},
    watch::{Cost, timed},
};

/// Threads, as many as the peers are given.
const THREADS: usize = 2;
const PREFIX: &str = "ours";

/// What the process is to do.
#[derive(Serialize, Deserialize, Debug)]
struct Work {
    endpoint: String,
    authority: String,
    /// Whether what is stored is encrypted, under an identity that everybody knows.
    encrypts: bool,
    /// Taken when there is a server, else restored.
    server: Option<(PathBuf, u16)>,
    manifest: Option<String>,
    data: PathBuf,
    /// What is there already stays.
    delta: bool,
    /// WAL is stored as it is asked for.
    answering: Option<Answering>,
    /// What is stored already is put again.
    again: bool,
}

fn start(cluster: &Cluster, work: &Work) -> Result<Cost, String> {
    timed(&mut command(cluster, work)?)
}

fn command(cluster: &Cluster, work: &Work) -> Result<Command, String> {
    let program = std::env::current_exe().map_err(failed("find this program"))?;
    let work = serde_json::to_string(work).map_err(failed("describe the work"))?;
    let mut command: Command = cluster.owner.command(program);
    command.args(["--work", &work]);
    Ok(command)
}

fn work_on(s3: &S3, data: PathBuf) -> Work {
    Work {
        endpoint: format!("https://127.0.0.1:{}", s3.port()),
        authority: s3.authority.clone(),
        encrypts: s3.encrypts,
        server: None,
        manifest: None,
        data,
        delta: false,
        answering: None,
        again: false,
    }
}

/// Puts again what is stored, and gives the seconds that that took.
pub(crate) fn put_again(cluster: &Cluster, s3: &S3) -> Result<f64, String> {
    let mut work = work_on(s3, cluster.data.clone());
    work.again = true;
    let cost = start(cluster, &work)?;
    cost.output
        .trim()
        .parse()
        .map_err(failed("read its answer"))
}

/// A process that stores WAL as it is asked to.
pub(crate) fn process(cluster: &Cluster, s3: &S3, answering: Answering) -> Result<Command, String> {
    let mut work = work_on(s3, cluster.data.clone());
    work.answering = Some(answering);
    command(cluster, &work)
}

/// Takes a Snapshot; gives the key of its manifest too.
pub(crate) fn take(cluster: &Cluster, s3: &S3) -> Result<(Cost, String), String> {
    let mut work = work_on(s3, cluster.data.clone());
    work.server = Some((cluster.sockets().to_owned(), cluster.port));
    let cost = start(cluster, &work)?;
    let manifest = cost.output.trim().to_owned();
    Ok((cost, manifest))
}

/// Restores one: into a folder that is not there yet, or with `delta` into one that has it already.
pub(crate) fn restore(
    cluster: &Cluster,
    s3: &S3,
    manifest: &str,
    data: PathBuf,
    delta: bool,
) -> Result<Cost, String> {
    let mut work = work_on(s3, data);
    work.manifest = Some(manifest.to_owned());
    work.delta = delta;
    start(cluster, &work)
}

/// Bytes that our Snapshots take.
pub(crate) fn stored(s3: &S3) -> u64 {
    s3.stored(PREFIX)
}

/// Takes them away.
pub(crate) fn forget(s3: &S3) -> Result<(), String> {
    s3.forget(PREFIX)
}

/// What the process does.
pub(crate) fn work(text: &str) -> Result<(), String> {
    let work: Work = serde_json::from_str(text).map_err(failed("read the work"))?;
    let location = Location::S3 {
        endpoint: Some(work.endpoint.clone()),
        bucket: BUCKET.to_owned(),
        prefix: Some(PREFIX.to_owned()),
    };
    let secret = [
        ("AWS_ACCESS_KEY_ID", KEYS.0),
        ("AWS_SECRET_ACCESS_KEY", KEYS.1),
        ("CA_CERT_DATA", work.authority.as_str()),
    ];
    let secret: BTreeMap<String, Vec<u8>> = secret
        .map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec()))
        .into();
    let mut store = Store::open(&location, &secret).map_err(|error| error.to_string())?;
    if work.encrypts {
        let keys = Keys::writing(vec![Identity([7; 32])], Vec::new());
        store = store.with_keys(keys.map_err(chain)?);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(failed("start a runtime"))?;
    runtime.block_on(carry_out(work, store))
}

async fn carry_out(work: Work, store: Store) -> Result<(), String> {
    if let Some(answering) = work.answering {
        return wal::answer(answering, store).await;
    }
    if work.again {
        let seconds = bare::put_again(&store).await?;
        print(&seconds.to_string());
        return Ok(());
    }
    let (progress, _) = watch::channel(backup::BackupProgress::default());
    let cancel = CancellationToken::new();
    let dialect = PgDialect::of("15").map_err(chain)?;
    let Some((sockets, port)) = work.server else {
        let request = RestoreRequest {
            store,
            manifest: work.manifest.unwrap_or_default(),
            data_folder: work.data,
            dialect,
            postgres_version: "15".to_owned(),
            threads: THREADS,
        };
        let ground = if work.delta {
            Ground::Existing(Terms::default())
        } else {
            Ground::Empty
        };
        let written = restore::write(request, ground, progress, cancel).await;
        let restored = written.map_err(chain)?.complete().await;
        return restored.map(|_| ()).map_err(chain);
    };
    let mut connection = tokio_postgres::Config::new();
    connection
        .host_path(sockets)
        .port(port)
        .user("postgres")
        .dbname("postgres");
    let uid = uuid::Uuid::new_v4().to_string();
    let request = BackupRequest {
        store,
        namespace: "bench".to_owned(),
        database: "bench".to_owned(),
        snapshot: format!("snap-{}", uid.get(..8).unwrap_or_default()),
        snapshot_uid: uid,
        attempt: 1,
        lineage: wal::LINEAGE.to_owned(),
        data_folder: work.data,
        connection,
        dialect,
        postgres_version: "15".to_owned(),
        minimum_lsn: None,
        effort: Effort::within(&Limits::default(), THREADS),
        started: Timestamp::now(),
    };
    let taken = backup::take(request, progress, cancel)
        .await
        .map_err(chain)?;
    print(&taken.manifest);
    Ok(())
}

#[expect(
    clippy::print_stdout,
    reason = "the answer to the process that started this one"
)]
fn print(line: &str) {
    println!("{line}");
}

fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
