//! Restores into folders that hold something already, compared with restores into empty ones.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use kubedb_engine::{
    backup::{BackupOutcome, BackupProgress},
    encryption::{Keys, new_identity},
    restore::{self, Ground, RestoreError, RestoreRequest, Spared, Terms},
    store::Store,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

mod servers;
mod snapshots;

use servers::{Server, Version, hand_over};
use snapshots::{dialect, local, request, restore_into, take};

/// What lies under a path.
#[derive(Debug, PartialEq, Eq)]
enum Thing {
    Folder(u32),
    File(u32, blake3::Hash),
    Link(PathBuf),
}

/// Everything in a folder, links relative to it.
fn tree(root: &Path) -> BTreeMap<PathBuf, Thing> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let mode = metadata.mode() & 0o7777;
            let thing = if metadata.is_symlink() {
                let target = fs::read_link(&path).unwrap();
                Thing::Link(target.strip_prefix(root).unwrap_or(&target).to_owned())
            } else if metadata.is_dir() {
                folders.push(path.clone());
                Thing::Folder(mode)
            } else if metadata.is_file() {
                Thing::File(mode, blake3::hash(&fs::read(&path).unwrap()))
            } else {
                panic!("{}", path.display())
            };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), thing);
        }
    }
    found
}

fn assert_same(found: &BTreeMap<PathBuf, Thing>, wanted: &BTreeMap<PathBuf, Thing>, seed: u64) {
    for (path, thing) in wanted {
        assert_eq!(
            found.get(path),
            Some(thing),
            "{}, seed {seed}",
            path.display()
        );
    }
    let other: Vec<_> = found
        .keys()
        .filter(|path| !wanted.contains_key(*path))
        .collect();
    assert!(other.is_empty(), "{other:?}, seed {seed}");
}

/// A copy of a restored folder, with its tablespaces beside it.
fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(status.unwrap().success());
    let links = to.join("data/pg_tblspc");
    for entry in fs::read_dir(&links).unwrap() {
        let entry = entry.unwrap();
        fs::remove_file(entry.path()).unwrap();
        symlink(to.join("tablespaces").join(entry.file_name()), entry.path()).unwrap();
    }
}

fn wanted(store: &Store, outcome: &BackupOutcome, folder: &Path) -> RestoreRequest {
    RestoreRequest {
        store: store.clone(),
        manifest: outcome.manifest.clone(),
        data_folder: folder.to_owned(),
        dialect: dialect(Version::New),
        postgres_version: Version::New.number().to_owned(),
        threads: 2,
    }
}

async fn delta_with(request: RestoreRequest, terms: Terms) -> Result<Spared, RestoreError> {
    let (progress, told) = watch::channel(BackupProgress::default());
    let ground = Ground::Existing(terms);
    let written = restore::write(request, ground, progress, CancellationToken::new()).await?;
    let data = written.cluster.database_bytes;
    assert_eq!(told.borrow().done_bytes, data);
    let spared = written.spared;
    written.complete().await.map(|_| spared)
}

async fn delta(request: RestoreRequest) -> Result<Spared, RestoreError> {
    delta_with(request, Terms::default()).await
}

/// Numbers that look random, by xorshift.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end.max(1)
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }
}

/// Does something to a folder that a disk, a server or somebody may do.
fn spoil(root: &Path, dice: &mut Dice) {
    let all = tree(root);
    let files: Vec<PathBuf> = all
        .iter()
        .filter(|(path, thing)| {
            matches!(thing, Thing::File(..))
                && !path.ends_with("PG_VERSION")
                && path.starts_with("data/base")
                || path.starts_with("tablespaces") && matches!(thing, Thing::File(..))
        })
        .map(|(path, _)| root.join(path))
        .collect();
    let folders: Vec<PathBuf> = all
        .iter()
        .filter(|(_, thing)| matches!(thing, Thing::Folder(_)))
        .map(|(path, _)| root.join(path))
        .filter(|path| path.starts_with(root.join("data")))
        .collect();
    let file = dice.one(&files);
    let folder = dice.one(&folders);
    let length = fs::metadata(file).unwrap().len();
    let write = |at: u64, bytes: &[u8]| {
        let opened = File::options().write(true).open(file).unwrap();
        opened.write_all_at(bytes, at).unwrap();
    };
    match dice.below(14) {
        0 => write(dice.below(length), &[7; 8_192]),
        1 => write(dice.below(length), b"x"),
        2 => write(length + dice.below(3 << 20), &[9; 100]),
        3 => File::options()
            .write(true)
            .open(file)
            .unwrap()
            .set_len(dice.below(length))
            .unwrap(),
        4 => fs::remove_file(file).unwrap(),
        5 => {
            fs::remove_file(file).unwrap();
            fs::create_dir(file).unwrap();
            fs::write(file.join("within"), "x").unwrap();
        }
        6 => {
            fs::create_dir_all(folder.join("more/and more")).unwrap();
            fs::write(folder.join("more/and more/\u{fffd}.tmp"), "x").unwrap();
        }
        7 => fs::write(folder.join("kubedb-file"), vec![1; 100_000]).unwrap(),
        8 => {
            let _ = symlink("/etc/passwd", folder.join("link"));
        }
        9 => fs::set_permissions(file, fs::Permissions::from_mode(0o666)).unwrap(),
        10 => {
            // Through a second name, which must not change.
            fs::hard_link(file, root.join("data").join(format!("hard-{}", dice.0))).unwrap();
        }
        11 => {
            fs::remove_file(file).unwrap();
            symlink("/etc/hostname", file).unwrap();
        }
        12 => write(0, &vec![0; usize::try_from(length.min(2 << 20)).unwrap()]),
        _ => {
            let place = root.join("data/pg_replslot/slot");
            let _ = fs::create_dir(&place);
            fs::write(place.join("state"), "x").unwrap();
            fs::write(root.join("data/standby.signal"), "").unwrap();
            fs::write(root.join("data/postmaster.pid"), "999999999\n").unwrap();
        }
    }
}

/// Two Snapshots of a database, the second of which refers to the first, and both restored.
struct World {
    folder: tempfile::TempDir,
    store: Store,
    server: Server,
    outcomes: [BackupOutcome; 2],
}

impl World {
    async fn new() -> Self {
        Self::with_store(|store| store).await
    }

    /// One whose Snapshots are encrypted.
    async fn sealed() -> Self {
        let identity = new_identity().unwrap();
        let keys = Keys::writing(vec![identity], Vec::new()).unwrap();
        Self::with_store(|store| store.with_keys(keys)).await
    }

    async fn with_store(kind: impl FnOnce(Store) -> Store) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let store = kind(local(&folder.path().join("bucket")));
        let server = Server::create(Version::New, "scram-sha-256").await;
        server.make_tablespace().await;
        server
            .sql_by_socket(
                "CREATE TABLE kept AS SELECT i, md5(i::text) AS t FROM generate_series(1, 100000) i;
                 CREATE TABLE changed AS TABLE kept;
                 CREATE TABLE shrunk AS TABLE kept;
                 CREATE TABLE dropped AS TABLE kept;
                 CREATE TABLE wide TABLESPACE space AS TABLE kept;
                 CREATE INDEX ON wide (t) TABLESPACE space",
            )
            .await;
        server.sql_by_socket("CHECKPOINT").await;
        let first = take(request(&server, &store, "first")).await.unwrap();
        server
            .sql_by_socket(
                "UPDATE changed SET t = 'x' WHERE i % 5000 = 0;
                 DELETE FROM shrunk WHERE i > 1000; DROP TABLE dropped;
                 INSERT INTO wide SELECT i, 'more' FROM generate_series(1, 50000) i;
                 CREATE TABLE new AS TABLE kept",
            )
            .await;
        server.sql_by_socket("VACUUM shrunk").await;
        server.sql_by_socket("CHECKPOINT").await;
        let second = take(request(&server, &store, "second")).await.unwrap();
        assert_eq!(snapshots::since(&second), "first");
        let world = Self {
            folder,
            store,
            server,
            outcomes: [first, second],
        };
        for number in 0..2 {
            let data = world.whole(number).join("data");
            let manifest = &world.outcomes[number].manifest;
            restore_into(&data, Version::New, &world.store, manifest)
                .await
                .unwrap();
        }
        world
    }

    fn whole(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("whole-{number}"))
    }

    fn wanted(&self, number: usize, root: &Path) -> RestoreRequest {
        wanted(&self.store, &self.outcomes[number], &root.join("data"))
    }

    fn place(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A stopped server's folder, changed since the Snapshots.
    fn copy_of(&self, number: usize, name: &str) -> PathBuf {
        let place = self.place(name);
        copy(&self.whole(number), &place);
        place
    }
}

/// Whoever gives a restore up leaves a thread that ends by itself, once it has done the step that it is at, and holds the marker until then. What it leaves
/// is a server's folder as it was, or one that no server starts on and that says so.
async fn has_ended(data: &Path, seed: u64) {
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let has_control = data.join("global/pg_control").exists();
        let is_free = match fs::File::open(data.join("kubedb-restore.json")) {
            Err(_) => has_control,
            // Between the marker and the end of pg_control both are there, and nothing is changed.
            Ok(marker) => !has_control && marker.try_lock().is_ok(),
        };
        if is_free {
            return;
        }
        let now = tokio::time::Instant::now();
        assert!(now < end, "seed {seed}: {has_control}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t19_t20_what_was_spoilt_comes_out_as_a_whole_restore_does() {
    let world = World::new().await;
    let trees = [tree(&world.whole(0)), tree(&world.whole(1))];
    let cases = std::env::var("KUBEDB_DELTA_CASES").map_or(24, |cases| cases.parse().unwrap());
    let outside = world.place("outside");
    fs::write(&outside, "mine").unwrap();
    let (mut kept, mut written) = (0, 0);
    for seed in 1..=cases {
        let mut dice = Dice(u64::wrapping_mul(seed, 0x9E37_79B9_7F4A_7C15));
        let (from, to) = (dice.below(2) as usize, dice.below(2) as usize);
        let root = world.copy_of(from, "spoilt");
        for _ in 0..dice.below(8) {
            spoil(&root, &mut dice);
        }
        // Through a link, or under a second name, nothing of others is touched.
        fs::hard_link(&outside, root.join("data/global/pg_internal.init")).unwrap();
        if dice.below(2) == 0 {
            // Cut off somewhere; then somebody does more harm.
            let (progress, _) = watch::channel(BackupProgress::default());
            let cancel = CancellationToken::new();
            let ground = Ground::Existing(Terms::default());
            let write = restore::write(world.wanted(to, &root), ground, progress, cancel.clone());
            let patience = Duration::from_millis(dice.below(150));
            match tokio::time::timeout(patience, write).await {
                Err(_) => cancel.cancel(),
                Ok(written) => written.unwrap().discard().await,
            }
            has_ended(&root.join("data"), seed).await;
            spoil(&root, &mut dice);
        }
        let told = delta(world.wanted(to, &root)).await;
        let told = told.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_same(&tree(&root), &trees[to], seed);
        kept += told.kept_bytes;
        written += told.written_bytes;
        fs::remove_dir_all(&root).unwrap();
    }
    // Of one alone so much may be spoilt that it is otherwise.
    assert!(kept > 2 * written, "{kept} kept, {written} written");
    assert_eq!(fs::read_to_string(&outside).unwrap(), "mine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_an_unchanged_folder_next_to_nothing_is_fetched() {
    next_to_nothing(World::new().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_an_unchanged_folder_next_to_nothing_is_decrypted() {
    next_to_nothing(World::sealed().await).await;
}

async fn next_to_nothing(world: World) {
    for number in 0..2 {
        let root = world.whole(number);
        let before = tree(&root);
        let told = delta(world.wanted(number, &root)).await.unwrap();
        // The control file alone, which is taken away first.
        assert_eq!(told.written_bytes, 8_192, "{told:?}");
        assert!(told.fetched_bytes < 8_192, "{told:?}");
        assert_eq!(told.removed, 0);
        let data: u64 = before
            .keys()
            .map(|path| fs::symlink_metadata(root.join(path)).unwrap())
            .filter(fs::Metadata::is_file)
            .map(|found| found.len())
            .sum();
        assert_eq!(told.kept_bytes + told.written_bytes, data);
        assert_same(&tree(&root), &before, 0);
    }
    // From the one to the other only what differs.
    let root = world.copy_of(0, "from");
    let told = delta(world.wanted(1, &root)).await.unwrap();
    assert!(
        told.fetched_bytes < world.outcomes[1].stored_bytes / 2,
        "{told:?}"
    );
    // Nothing is there at all: all of it comes.
    let told = delta(world.wanted(1, &world.place("none"))).await.unwrap();
    assert_eq!(told.kept_bytes + told.removed, 0);
    assert_same(&tree(&world.place("none")), &tree(&root), 0);
}

/// A copy that ran on its own, as the folder of a server that is to go back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t18_a_server_goes_back_to_its_snapshot_in_its_own_folder() {
    let world = World::new().await;
    let mut copy = snapshots::primary_of(&world.store, &world.outcomes[0], Version::New).await;
    copy.sql_by_socket(
        "UPDATE kept SET t = 'lost' WHERE i % 100 = 0; DROP TABLE changed; CREATE TABLE lost AS TABLE wide",
    )
    .await;
    let wanted = wanted(&world.store, &world.outcomes[1], &copy.data);
    let before = fs::read(copy.data.join("global/pg_control")).unwrap();
    let refused = delta(wanted.clone()).await;
    assert!(
        matches!(refused, Err(RestoreError::Living { .. })),
        "{refused:?}"
    );
    copy.sql_by_socket("SELECT 1").await;
    let _ = before;
    // As a crash leaves it, postmaster.pid and all.
    copy.stop("immediate");
    fs::write(copy.data.join("postmaster.pid"), "999999999\n").unwrap();
    let told = delta(wanted).await.unwrap();
    assert!(told.kept_bytes > told.written_bytes && told.removed > 0);
    // What root made belongs to the folder's owner.
    let owner = fs::metadata(&copy.data).unwrap().uid();
    for path in tree(copy.folder())
        .keys()
        .filter(|path| path.starts_with("data"))
    {
        let found = fs::symlink_metadata(copy.folder().join(path)).unwrap();
        assert_eq!(found.uid(), owner, "{}", path.display());
    }
    copy.start().await;
    copy.wait_for("SELECT pg_is_in_recovery()", "f").await;
    let counted = "SELECT (SELECT count(*) FROM kept WHERE t = 'lost') || ' ' || (SELECT count(*) FROM changed WHERE t = 'x') || ' ' || (SELECT count(*) FROM shrunk) || ' ' || (SELECT count(*) FROM wide) || ' ' || (SELECT count(*) FROM new)";
    assert_eq!(copy.value(counted).await, "0 20 1000 150000 100000");
    copy.sql_by_socket("CREATE EXTENSION amcheck").await;
    copy.value("SELECT count(bt_index_parent_check(c.oid, true)) FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE relkind = 'i' AND amname = 'btree'")
        .await;
    // The source has seen nothing of it.
    assert_eq!(
        world.server.value("SELECT count(*) FROM wide").await,
        "150000"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t20_what_is_not_of_the_same_cluster_is_refused_and_stays_as_it_is() {
    let world = World::new().await;
    let mut other = Server::create(Version::New, "md5").await;
    other.stop("fast");
    let root = other.folder().to_owned();
    let before = tree(&root);
    let refused = delta(world.wanted(1, &root)).await;
    assert!(
        matches!(refused, Err(RestoreError::OtherCluster { .. })),
        "{refused:?}"
    );
    let mine = world.place("mine");
    fs::create_dir_all(mine.join("data/photos")).unwrap();
    let forced = Terms {
        other_cluster: true,
        ..Terms::default()
    };
    for terms in [Terms::default(), forced] {
        let refused = delta_with(world.wanted(1, &mine), terms).await;
        assert!(
            matches!(refused, Err(RestoreError::NoCluster { .. })),
            "{refused:?}"
        );
    }
    assert!(mine.join("data/photos").exists());
    assert_same(&tree(&root), &before, 0);
    // By the user's word it is overwritten; half of it goes on without.
    fs::remove_file(root.join("server.log")).unwrap();
    fs::remove_file(root.join("password")).unwrap();
    delta_with(world.wanted(1, &root), forced).await.unwrap();
    let whole = world.whole(1);
    assert_same(&tree(&root), &tree(&whole), 0);

    // Of a damaged control file nobody knows whose it is.
    let root = world.copy_of(1, "damaged");
    fs::write(root.join("data/global/pg_control"), [1; 8_192]).unwrap();
    let refused = delta(world.wanted(1, &root)).await;
    assert!(
        matches!(refused, Err(RestoreError::UnknownCluster { .. })),
        "{refused:?}"
    );
    delta_with(world.wanted(1, &root), forced).await.unwrap();
    assert_same(&tree(&root), &tree(&whole), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t30_tablespaces_that_others_may_use_are_left_alone() {
    let world = World::new().await;
    // A folder that was copied without its tablespaces leads to those of its source.
    let source = world.copy_of(0, "source");
    let beside = source.join("copy");
    let status = Command::new("cp")
        .arg("-a")
        .arg(source.join("data"))
        .arg(&beside)
        .status();
    assert!(status.unwrap().success());
    let before = tree(&source);
    let refused = delta(wanted(&world.store, &world.outcomes[1], &beside)).await;
    assert!(
        matches!(refused, Err(RestoreError::SharedTablespace { .. })),
        "{refused:?}"
    );
    let far = world.place("far");
    fs::create_dir(&far).unwrap();
    fs::rename(&beside, far.join("data")).unwrap();
    let refused = delta(world.wanted(1, &far)).await;
    assert!(
        matches!(refused, Err(RestoreError::ForeignTablespace { .. })),
        "{refused:?}"
    );
    let mut before = before;
    before.retain(|path, _| !path.starts_with("copy"));
    assert_same(&tree(&source), &before, 0);

    // By the user's word it is restored there, beside what others have there.
    let oid = tree(&source.join("tablespaces"))
        .into_keys()
        .next()
        .unwrap();
    let space = source.join("tablespaces").join(&oid);
    fs::create_dir(space.join("PG_14_202107181")).unwrap();
    fs::write(space.join("PG_14_202107181/16384"), "theirs").unwrap();
    let keep = Terms {
        keep_tablespaces: true,
        ..Terms::default()
    };
    let told = delta_with(world.wanted(1, &far), keep).await.unwrap();
    assert!(told.kept_bytes > told.written_bytes);
    assert!(!far.join("tablespaces").exists());
    assert_eq!(
        fs::read_to_string(space.join("PG_14_202107181/16384")).unwrap(),
        "theirs"
    );
    fs::remove_dir_all(space.join("PG_14_202107181")).unwrap();
    let whole = world.whole(1).join("tablespaces").join(&oid);
    assert_same(&tree(&space), &tree(&whole), 0);

    // Something lies where it would go, and no link leads there.
    let lost = world.copy_of(1, "lost");
    fs::remove_file(lost.join("data/pg_tblspc").join(&oid)).unwrap();
    let refused = delta(world.wanted(1, &lost)).await;
    assert!(
        matches!(refused, Err(RestoreError::NotEmpty { .. })),
        "{refused:?}"
    );
}

/// What was put into the folder behind the Snapshot may fail: then nothing is left of either, tablespaces included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn until_it_is_complete_no_server_starts_and_all_of_it_can_be_taken_back() {
    let world = World::new().await;
    let root = world.place("discarded");
    let (progress, _) = watch::channel(BackupProgress::default());
    let request = world.wanted(1, &root);
    let written = restore::write(request, Ground::Empty, progress, CancellationToken::new());
    let written = written.await.unwrap();
    let has = |name: &str| root.join(name).exists();
    assert!(has("data/PG_VERSION") && has("data/kubedb-restore.json") && has("tablespaces"));
    assert!(!has("data/global/pg_control"));
    let again = delta(world.wanted(1, &root)).await;
    assert!(matches!(again, Err(RestoreError::Busy { .. })), "{again:?}");
    hand_over(&root);
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let user = ["--reuid=postgres", "--regid=postgres", "--clear-groups"];
    let start = Command::new("setpriv")
        .args(user.iter().filter(|_| is_root))
        .args(["/usr/lib/postgresql/15/bin/postgres", "-D"])
        .arg(root.join("data"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&start.stderr).into_owned();
    assert!(
        !start.status.success() && said.contains("global/pg_control"),
        "{said}"
    );
    written.discard().await;
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
}

/// The WAL on a disk of its own stays there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_to_the_wal_is_kept() {
    let world = World::new().await;
    let root = world.copy_of(0, "linked");
    let disk = world.place("disk");
    fs::rename(root.join("data/pg_wal"), &disk).unwrap();
    symlink(&disk, root.join("data/pg_wal")).unwrap();
    fs::write(disk.join("0000000100000000000000FF"), "old").unwrap();
    delta(world.wanted(1, &root)).await.unwrap();
    assert_eq!(fs::read_link(root.join("data/pg_wal")).unwrap(), disk);
    assert_same(&tree(&disk), &tree(&world.whole(1).join("data/pg_wal")), 0);
}
