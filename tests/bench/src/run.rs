//! The order of things: the same work by each tool in turn, so that a slow minute of the machine hits both.

use std::{fs, path::Path};

use crate::{
    Arguments,
    barman::Barman,
    base_backup,
    cluster::{Cluster, Owner, size},
    failed, latency, ours,
    peer::PgBackRest,
    report::{self, Compared, Peer, Runs},
    s3::S3,
    say, wal,
    watch::Cost,
};

/// Ours, and that of the peers that have it.
const CODEC: &str = "zstd-1";
/// barman-cloud has gzip, which takes minutes, and snappy, which Debian's Python cannot load.
const PLAIN: &str = "zstd-1, theirs none";

/// Whether files are in memory when a run begins.
#[derive(Clone, Copy)]
enum Cache {
    Cold,
    Warm,
}

impl Cache {
    fn word(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Warm => "warm",
        }
    }
}

impl Runs {
    const fn new() -> Self {
        Self {
            seconds: Vec::new(),
            megabytes: Vec::new(),
            stored: 0,
        }
    }

    fn add(&mut self, cost: &Cost) {
        self.seconds.push(cost.seconds);
        self.megabytes.push(cost.megabytes);
    }
}

/// Compares, prints, writes.
pub(crate) fn compare(arguments: &Arguments) -> Result<(), String> {
    let scratch = tempfile::Builder::new()
        .prefix("kubedb-bench-")
        .tempdir()
        .map_err(failed("make a scratch folder"))?;
    let owner = Owner::find()?;
    let (base, peer) = (scratch.path().join("base"), scratch.path().join("peer"));
    for folder in [scratch.path(), &base, &peer] {
        owner.folder(folder)?;
    }
    let s3 = S3::start(&scratch.path().join("s3"), arguments.encrypt)?;
    let runs = arguments.runs.clamp(1, 99);
    let mut compared = archiving(&owner, scratch.path(), &s3, runs)?;
    if !arguments.wal_only {
        compared.extend(snapshots(&owner, scratch.path(), &s3, arguments)?);
    }
    report::write(&compared, arguments.encrypt, &arguments.out)
}

/// Snapshots and restores.
fn snapshots(
    owner: &Owner,
    scratch: &Path,
    s3: &S3,
    arguments: &Arguments,
) -> Result<Vec<Compared>, String> {
    say(&format!(
        "making a database of {} GB (about {} s)",
        arguments.gigabytes,
        arguments.gigabytes * 40
    ));
    let cluster = Cluster::make(*owner, &scratch.join("base"), arguments.gigabytes)?;
    let pgbackrest = PgBackRest::prepare(&cluster, s3, &scratch.join("peer"))?;
    let barman = Barman::prepare(&cluster, s3, &scratch.join("barman"))?;
    let bench = Bench {
        cluster: &cluster,
        s3,
        pgbackrest: &pgbackrest,
        barman: &barman,
        scratch,
        runs: arguments.runs.clamp(1, 99),
    };
    let mut compared = bench.full(Cache::Cold)?;
    compared.extend(bench.full(Cache::Warm)?);
    compared.push(bench.changes("incremental-unchanged", || Ok(()))?);
    compared.push(bench.changes("incremental-10k-transactions", || cluster.transact())?);
    compared.extend(bench.restore()?);
    compared.push(bench.restore_delta(Cache::Cold)?);
    compared.push(bench.restore_delta(Cache::Warm)?);
    Ok(compared)
}

/// Settings of a server whose WAL is archived, none of which goes before it was stored by everybody.
const ARCHIVING: &str = "archive_mode = on\narchive_command = 'false'\nwal_keep_size = 20GB\n";

/// The storing of WAL, and what it costs those who write it.
fn archiving(owner: &Owner, scratch: &Path, s3: &S3, runs: usize) -> Result<Vec<Compared>, String> {
    let (base, peer) = (scratch.join("wal"), scratch.join("wal-peer"));
    for folder in [&base, &peer] {
        owner.folder(folder)?;
    }
    say("making a database of 1 GB for its WAL");
    let cluster = Cluster::make_with(*owner, &base, 1, ARCHIVING)?;
    let pgbackrest = PgBackRest::prepare(&cluster, s3, &peer)?;
    let mut compared = wal::compare(&cluster, s3, &pgbackrest, runs)?;
    compared.extend(latency::compare(&cluster, s3, &pgbackrest, runs)?);
    Ok(compared)
}

struct Bench<'a> {
    cluster: &'a Cluster,
    s3: &'a S3,
    pgbackrest: &'a PgBackRest,
    barman: &'a Barman,
    scratch: &'a Path,
    runs: usize,
}

impl Bench<'_> {
    /// A whole Snapshot into an empty store.
    fn full(&self, cache: Cache) -> Result<Vec<Compared>, String> {
        let mut ours = Runs::default();
        let [mut pgbackrest, mut barman, mut base_backup] = [const { Runs::new() }; 3];
        for run in 1..=self.runs {
            let told = |who, cost: &Cost| tell(&format!("full, {}", cache.word()), run, who, cost);
            ours::forget(self.s3)?;
            self.ready(cache)?;
            let (cost, _) = ours::take(self.cluster, self.s3)?;
            told("ours", &cost);
            ours.add(&cost);
            self.pgbackrest.make(self.cluster, self.s3)?;
            self.ready(cache)?;
            let cost = self.pgbackrest.take(self.cluster)?;
            told("pgBackRest", &cost);
            pgbackrest.add(&cost);
            self.ready(cache)?;
            let cost = self.barman.take(self.cluster, self.s3)?;
            told("barman-cloud", &cost);
            barman.add(&cost);
            self.ready(cache)?;
            let place = self.scratch.join("base-backup");
            let (cost, stored) = base_backup::take(self.cluster, &place)?;
            told("pg_basebackup", &cost);
            base_backup.add(&cost);
            base_backup.stored = stored;
        }
        ours.stored = ours::stored(self.s3);
        pgbackrest.stored = PgBackRest::stored(self.s3);
        barman.stored = Barman::stored(self.s3);
        let compared =
            |peer, codec, theirs| self.compared("full", cache, (peer, codec, theirs), &ours);
        Ok(vec![
            compared(self.pgbackrest.peer.clone(), CODEC, pgbackrest),
            compared(self.barman.peer.clone(), PLAIN, barman),
            compared(base_backup::peer()?, CODEC, base_backup),
        ])
    }

    /// A row of the report.
    fn compared(
        &self,
        work: &'static str,
        cache: Cache,
        (peer, codec, theirs): (Peer, &'static str, Runs),
        ours: &Runs,
    ) -> Compared {
        Compared {
            work,
            peer,
            cache: cache.word(),
            codec,
            bytes: size(&self.cluster.data),
            ours: ours.clone(),
            theirs,
        }
    }

    /// A Snapshot of what `change` did since the last one, of files that are in memory. What is told as stored is what the last run added.
    fn changes(
        &self,
        work: &'static str,
        change: impl Fn() -> Result<(), String>,
    ) -> Result<Compared, String> {
        let (mut ours, mut theirs) = (Runs::default(), Runs::default());
        ours::forget(self.s3)?;
        ours::take(self.cluster, self.s3)?;
        self.pgbackrest.make(self.cluster, self.s3)?;
        self.pgbackrest.take(self.cluster)?;
        for run in 1..=self.runs {
            change()?;
            let before = ours::stored(self.s3);
            self.ready(Cache::Warm)?;
            let (cost, _) = ours::take(self.cluster, self.s3)?;
            ours.stored = ours::stored(self.s3).saturating_sub(before);
            tell(work, run, "ours", &cost);
            ours.add(&cost);
            let before = PgBackRest::stored(self.s3);
            self.ready(Cache::Warm)?;
            let cost = self.pgbackrest.take_changes(self.cluster)?;
            theirs.stored = PgBackRest::stored(self.s3).saturating_sub(before);
            tell(work, run, "pgBackRest", &cost);
            theirs.add(&cost);
        }
        let theirs = (self.pgbackrest.peer.clone(), CODEC, theirs);
        Ok(self.compared(work, Cache::Warm, theirs, &ours))
    }

    /// A restore into an empty folder, from files that are not in memory; ours is proved to be the same rows.
    fn restore(&self) -> Result<Vec<Compared>, String> {
        let (_, manifest) = ours::take(self.cluster, self.s3)?;
        let digest = self.cluster.digest()?;
        let [mut ours, mut theirs, mut barman] = [const { Runs::new() }; 3];
        let place = self.scratch.join("restored");
        for run in 1..=self.runs {
            let data = self.empty(&place)?;
            self.ready(Cache::Cold)?;
            let cost = ours::restore(self.cluster, self.s3, &manifest, data.clone(), false)?;
            tell("restore", run, "ours", &cost);
            ours.add(&cost);
            if run == 1 {
                self.prove(&data, &digest)?;
            }
            let data = self.empty(&place)?;
            self.cluster.owner.folder(&data)?;
            self.ready(Cache::Cold)?;
            let cost = self.pgbackrest.restore(self.cluster, &data)?;
            tell("restore", run, "pgBackRest", &cost);
            theirs.add(&cost);
            let data = self.empty(&place)?;
            self.ready(Cache::Cold)?;
            let cost = self.barman.restore(self.cluster, &data)?;
            tell("restore", run, "barman-cloud", &cost);
            barman.add(&cost);
        }
        ours.stored = ours::stored(self.s3);
        theirs.stored = PgBackRest::stored(self.s3);
        barman.stored = Barman::stored(self.s3);
        let compared = |peer: &Peer, codec, theirs| {
            self.compared("restore", Cache::Cold, (peer.clone(), codec, theirs), &ours)
        };
        Ok(vec![
            compared(&self.pgbackrest.peer, CODEC, theirs),
            compared(&self.barman.peer, PLAIN, barman),
        ])
    }

    /// A restore into a folder that has all of it already. Ours is of a Snapshot that refers to earlier ones, theirs the last of full and incremental
    /// ones, each into its own restored folder.
    fn restore_delta(&self, cache: Cache) -> Result<Compared, String> {
        let (_, manifest) = ours::take(self.cluster, self.s3)?;
        let digest = self.cluster.digest()?;
        let (mut ours, mut theirs) = (Runs::default(), Runs::default());
        let place = self.scratch.join("restored");
        let data = self.empty(&place)?;
        ours::restore(self.cluster, self.s3, &manifest, data.clone(), false)?;
        let other = self.scratch.join("restored-peer");
        let other = self.empty(&other)?;
        self.cluster.owner.folder(&other)?;
        self.pgbackrest.restore(self.cluster, &other)?;
        let ready = |data: &Path| {
            self.ready(cache)?;
            match cache {
                Cache::Cold => Ok(()),
                Cache::Warm => warm(data),
            }
        };
        for run in 1..=self.runs {
            ready(&data)?;
            let cost = ours::restore(self.cluster, self.s3, &manifest, data.clone(), true)?;
            tell("restore-delta-unchanged", run, "ours", &cost);
            ours.add(&cost);
            ready(&other)?;
            let cost = self.pgbackrest.restore_delta(self.cluster, &other)?;
            tell("restore-delta-unchanged", run, "pgBackRest", &cost);
            theirs.add(&cost);
        }
        self.prove(&data, &digest)?;
        ours.stored = ours::stored(self.s3);
        theirs.stored = PgBackRest::stored(self.s3);
        let theirs = (self.pgbackrest.peer.clone(), CODEC, theirs);
        Ok(self.compared("restore-delta-unchanged", cache, theirs, &ours))
    }

    /// A number is worth nothing when what was restored is not what was there.
    fn prove(&self, data: &Path, digest: &str) -> Result<(), String> {
        let restored = Cluster::start(self.cluster.owner, data.to_owned())?;
        if restored.digest()? == digest {
            say("the restored rows are those that were there");
            return Ok(());
        }
        Err("the restored rows are not those that were there".to_owned())
    }

    fn empty(&self, place: &Path) -> Result<std::path::PathBuf, String> {
        match fs::remove_dir_all(place) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("failed to empty {}: {error}", place.display()));
            }
            _ => {}
        }
        self.cluster.owner.folder(place)?;
        Ok(place.join("data"))
    }

    /// Nothing waits to be written when a run begins, and the cache is as it should be.
    fn ready(&self, cache: Cache) -> Result<(), String> {
        nix::unistd::sync();
        match cache {
            Cache::Cold => fs::write("/proc/sys/vm/drop_caches", "3")
                .map_err(failed("drop the page cache (are you root?)")),
            Cache::Warm => warm(&self.cluster.data),
        }
    }
}

/// Reads every file once.
fn warm(folder: &Path) -> Result<(), String> {
    let entries = fs::read_dir(folder).map_err(failed("list the data folder"))?;
    for entry in entries.filter_map(Result::ok) {
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            warm(&entry.path())?;
        } else if let Ok(mut file) = fs::File::open(entry.path()) {
            let _ = std::io::copy(&mut file, &mut std::io::sink());
        }
    }
    Ok(())
}

fn tell(work: &str, run: usize, who: &str, cost: &Cost) {
    say(&format!(
        "{work} {run}: {who} {:.2} s, {:.0} MB",
        cost.seconds, cost.megabytes
    ));
}
