//! What archiving costs those who use the database: pgbench at a fixed rate, without archiving and with each archiver in turn.

use std::time::Duration;

use crate::{
    cluster::Cluster,
    failed, ours,
    peer::PgBackRest,
    report::{Compared, Peer, Runs},
    s3::S3,
    say, wal,
    watch::{own_memory, watched},
};

/// Transactions a second: about half of what two processors do, a segment of WAL every second or two.
const RATE: &str = "400";
/// How long each run is.
const SECONDS: &str = "20";
/// A run never takes longer.
const LIMIT: Duration = Duration::from_secs(120);

/// Compares the average latency of transactions.
pub(crate) fn compare(
    cluster: &Cluster,
    s3: &S3,
    pgbackrest: &PgBackRest,
    runs: usize,
) -> Result<Vec<Compared>, String> {
    let (mut ours, mut theirs, mut none) = (Runs::default(), Runs::default(), Runs::default());
    // What the first run after a load meets is none of anybody's.
    load(cluster, &mut Runs::default())?;
    for number in 1..=runs {
        wal::begin(cluster, "")?;
        load(cluster, &mut none)?;
        ours::forget(s3)?;
        let archiver = wal::OurArchiver::start(cluster, s3)?;
        wal::begin(cluster, &archiver.command)?;
        load(cluster, &mut ours)?;
        ours.megabytes.push(own_memory(archiver.id()));
        wal::begin(cluster, "")?;
        drop(archiver);
        pgbackrest.make(cluster, s3)?;
        wal::begin(cluster, &pgbackrest.archive_command())?;
        load(cluster, &mut theirs)?;
        let all = wal::processes_of("pgbackrest").into_iter();
        theirs.megabytes.push(all.map(own_memory).sum());
        let last = |runs: &Runs| runs.seconds.last().copied().unwrap_or(f64::NAN) * 1e3;
        say(&format!(
            "pgbench-latency {number}: without archiving {:.2} ms, ours {:.2} ms, pgBackRest {:.2} ms",
            last(&none),
            last(&ours),
            last(&theirs)
        ));
    }
    wal::begin(cluster, "")?;
    ours.stored = ours::stored(s3);
    theirs.stored = PgBackRest::stored(s3);
    let nobody = Peer {
        name: "no archiving",
        version: String::new(),
    };
    let compared = |peer: Peer, theirs| Compared {
        work: "pgbench-latency",
        peer,
        cache: "warm",
        codec: "zstd-1, theirs lz4",
        bytes: crate::cluster::size(&cluster.data),
        ours: ours.clone(),
        theirs,
    };
    Ok(vec![
        compared(nobody, none),
        compared(pgbackrest.peer.clone(), theirs),
    ])
}

/// Seconds that a transaction took on the average, from when it was due.
fn load(cluster: &Cluster, runs: &mut Runs) -> Result<(), String> {
    let mut command = cluster.client("pgbench");
    command.args(["-n", "-c", "4", "-j", "2", "-R", RATE, "-T", SECONDS]);
    let cost = watched(command.arg("postgres"), LIMIT)?;
    let average = cost.output.lines().find_map(|line| {
        let rest = line.strip_prefix("latency average = ")?;
        rest.split(' ').next()?.parse::<f64>().ok()
    });
    let average = average
        .ok_or("no latency")
        .map_err(failed("read pgbench"))?;
    runs.seconds.push(average / 1e3);
    Ok(())
}
