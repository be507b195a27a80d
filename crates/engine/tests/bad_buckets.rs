//! Buckets that hold what no writer of ours wrote: each is answered with exact words, without a panic, in bounded memory, and without a trace on disk
//! or in the bucket.

#![allow(clippy::unwrap_used)]

mod forged;

use std::{
    error::Error,
    fs,
    time::{Duration, Instant},
};

use forged::{Bucket, Parts, UID, sealed};
use kubedb_engine::repository::{
    delete_snapshot,
    map::{Codec, MAP_BYTES},
};
use serde_json::{Value, json};

/// Memory that one of these may cost: the largest map, unpacked and read.
const MEMORY: u64 = 400 << 20;

/// Each is refused by a look at some kilobytes, but for a few that take as much reading as anything of ours may.
const PATIENCE: Duration = Duration::from_secs(60);

/// A number of kilobytes that the system tells of this process, in bytes.
fn memory(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.unwrap().split_whitespace().next().unwrap();
    kib.parse::<u64>().unwrap() << 10
}

/// Forgets the highest memory until now; gives what is in use.
fn forget_peak() -> u64 {
    fs::write("/proc/self/clear_refs", "5").unwrap();
    memory("VmRSS:")
}

fn whole(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        if !text.contains(&next.to_string()) {
            text += &format!(": {next}");
        }
        cause = next.source();
    }
    text
}

/// One forgery by name.
type Case = (&'static str, Box<dyn Fn() -> Bucket>);

fn forged(name: &'static str, forge: impl Fn(&mut Parts) + 'static) -> Case {
    let make = move || {
        let mut parts = Parts::good();
        forge(&mut parts);
        parts.into_bucket()
    };
    (name, Box::new(make))
}

fn damaged(name: &'static str, damage: impl Fn(&mut Bucket) + 'static) -> Case {
    let make = move || {
        let mut bucket = Parts::good().into_bucket();
        damage(&mut bucket);
        bucket
    };
    (name, Box::new(make))
}

fn with_map(name: &'static str, map: impl Fn() -> Vec<u8> + 'static) -> Case {
    (
        name,
        Box::new(move || Parts::good().into_bucket_with(&map())),
    )
}

/// The manifest with one field changed, and a hash that fits.
fn field(pointer: &'static str, value: Value) -> Case {
    let name: &'static str = Box::leak(format!("{pointer} = {value}").into_boxed_str());
    forged(name, move |parts| {
        let mut place = &mut parts.manifest;
        for part in pointer.split('.') {
            place = &mut place[part];
        }
        *place = value.clone();
    })
}

async fn table(cases: Vec<Case>) -> String {
    let mut table = String::new();
    for (name, make) in cases {
        let bucket = make();
        let before = bucket.content();
        let (base, begun) = (forget_peak(), Instant::now());
        let said = match bucket.restore().await {
            Err(error) => {
                assert!(!error.is_retryable(), "{name}: {error}");
                bucket.words(&whole(&error))
            }
            Ok(()) => "IS RESTORED".to_owned(),
        };
        let grown = memory("VmHWM:").saturating_sub(base);
        assert!(grown < MEMORY, "{name}: {} MiB", grown >> 20);
        assert!(begun.elapsed() < PATIENCE, "{name}: {:?}", begun.elapsed());
        assert_eq!(bucket.content(), before, "{name}: {said}");
        table += &format!("{name}\n");
        for line in said.lines() {
            table += &format!("    {line}\n");
        }
    }
    table
}

/// Compares a table with the one that is kept.
fn keep(name: &str, table: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("forged/said");
    settings.set_prepend_module_to_snapshot(false);
    settings.bind(|| insta::assert_snapshot!(name, table));
}

#[tokio::test]
async fn a_good_bucket_is_restored() {
    let bucket = Parts::good().into_bucket();
    bucket.restore().await.unwrap();
}

fn manifests() -> Vec<Case> {
    let text = |name, content: &'static str| {
        damaged(name, move |bucket| {
            bucket.write(&bucket.manifest, content.as_bytes());
        })
    };
    let key = |name, key: &'static str| {
        damaged(name, move |bucket| {
            let content = fs::read(bucket.path(&bucket.manifest)).unwrap();
            bucket.write(key, &content);
            key.clone_into(&mut bucket.manifest);
        })
    };
    vec![
        damaged("no manifest", |bucket| bucket.remove(&bucket.manifest)),
        damaged("a folder in place of the manifest", |bucket| {
            bucket.remove(&bucket.manifest);
            fs::create_dir(bucket.path(&bucket.manifest)).unwrap();
        }),
        text("an empty object", ""),
        text(
            "a page of a proxy",
            "<html><body>502 Bad Gateway</body></html>",
        ),
        text("JSON that is a list", "[]"),
        text("JSON that is null", "null"),
        text(
            "JSON of somebody else",
            "{\"format\": \"pgbackrest\", \"version\": 1}",
        ),
        text(
            "a manifest of nothing else",
            "{\"format\": \"kubedb-snapshot\"}",
        ),
        damaged("half of the manifest", |bucket| {
            bucket.change(&bucket.manifest, |bytes| bytes.truncate(bytes.len() / 2));
        }),
        damaged("a bit of the manifest", |bucket| {
            bucket.change(&bucket.manifest, |bytes| {
                let at = bytes.windows(4).position(|four| four == b"snap").unwrap();
                bytes[at] ^= 1;
            });
        }),
        damaged("the manifest twice", |bucket| {
            bucket.change(&bucket.manifest, |bytes| bytes.extend(bytes.clone()));
        }),
        damaged("lists, a hundred thousand deep", |bucket| {
            bucket.write(&bucket.manifest, &b"[".repeat(100_000));
        }),
        damaged("twenty million empty lists", |bucket| {
            let lists = [b"[[]".to_vec(), b",[]".repeat(20_000_000), b"]".to_vec()].concat();
            bucket.write(&bucket.manifest, &lists);
        }),
        damaged("a manifest of a terabyte", |bucket| {
            let file = fs::File::create(bucket.path(&bucket.manifest)).unwrap();
            file.set_len(1 << 40).unwrap();
        }),
        field("version", Value::Null),
        field("version", json!(0)),
        field("version", json!(2)),
        field("version", json!(u64::MAX)),
        field("version", json!(-1)),
        field("version", json!("1")),
        field("version", json!(1.5)),
        field("format", json!("kubedb-snapshot\u{0}")),
        field("format", json!("KubeDB-Snapshot")),
        field("requiredFeatures", json!(["telepathy"])),
        field("requiredFeatures", json!(["a\u{1b}[31m\nb"])),
        field("requiredFeatures", json!("none")),
        field("blake3", json!("00")),
        field("blake3", Value::Null),
        field("cluster", Value::Null),
        field("cluster.pageBytes", json!(1_u64 << 60)),
        field("cluster.systemIdentifier", json!("18446744073709551616")),
        field("cluster.systemIdentifier", json!(7)),
        field("cluster.major", json!("16")),
        field(
            "cluster.postgresVersion",
            json!("16\u{1b}[2J\nerror: all is lost"),
        ),
        field("startLsn", json!("0/0/0")),
        field("stopLsn", json!(-1)),
        field("started", json!("yesterday")),
        field("attempt", json!(2)),
        field("snapshot", json!("snap-2")),
        field("snapshot", json!("Snap")),
        field("snapshot", json!("ѕnap")),
        field("snapshotUid", json!("other")),
        field("sizes.databaseBytes", json!(-1)),
        field("tablespaces", json!([{ "oid": -1, "folder": "/x" }])),
        key(
            "an intent in place of a manifest",
            "kubedb/demo/pg/snapshots/snap/attempt-0001-7c1f.json",
        ),
        key(
            "a name of another form",
            "kubedb/demo/pg/snapshots/snap/Manifest-0001-7c1f.json",
        ),
        key(
            "a name with Arabic digits",
            "kubedb/demo/pg/snapshots/snap/manifest-٠٠٠١-7c1f.json",
        ),
        key(
            "a name of another Snapshot",
            "kubedb/demo/pg/snapshots/snap-2/manifest-0001-7c1f.json",
        ),
        key("a name outside of the databases", "manifest-0001-7c1f.json"),
        damaged("a name that leads elsewhere", |bucket| {
            "kubedb/demo/../pg/snapshots/snap/manifest-0001-7c1f.json"
                .clone_into(&mut bucket.manifest);
        }),
    ]
}

#[tokio::test]
async fn every_bad_manifest_has_its_words() {
    keep("manifests", &table(manifests()).await);
}

fn object(list: &'static str, row: Value) -> Case {
    let name: &'static str = Box::leak(format!("{list}: {row}").into_boxed_str());
    forged(name, move |parts| parts.manifest[list] = json!([row]))
}

fn references() -> Vec<Case> {
    let mut cases = Vec::new();
    for key in [
        "packs/../../../../etc/passwd",
        "packs/../00ff",
        "packs/7c1f/../00ff",
        "/packs/7c1f/00ff",
        "packs/7c1f/00ff/",
        "packs/7c1f",
        "Packs/7c1f/00ff",
        "packs/7c1f/０0ff",
        "packs/7c1f\\..\\x/00",
        "packs/7c1f/00\u{0}",
        "packs/7c1f/00%2e%2e",
        "snapshots/snap/manifest-0001-7c1f.json",
        "",
    ] {
        cases.push(object("packs", json!({ "key": key })));
    }
    cases.extend([
        object("maps", json!({ "key": "maps/../../pg2/maps/00" })),
        object("maps", json!({ "key": "maps/other/00" })),
        object("maps", json!({ "bytes": u64::MAX })),
        object("maps", json!({ "bytes": 1 })),
        object("maps", json!({ "bytes": -1 })),
        object("maps", json!({ "blake3": "" })),
        object("packs", json!({ "bytes": u64::MAX })),
        object("packs", json!({ "bytes": 0 })),
        object("packs", json!(5)),
        field("maps", json!({})),
        damaged("no pack", |bucket| bucket.remove(&bucket.pack)),
        damaged("an empty pack", |bucket| bucket.write(&bucket.pack, b"")),
        damaged("half a pack", |bucket| {
            bucket.change(&bucket.pack, |bytes| bytes.truncate(bytes.len() / 2))
        }),
        damaged("a pack that is longer", |bucket| {
            bucket.change(&bucket.pack, |bytes| bytes.push(0))
        }),
        damaged("a pack of zeros", |bucket| {
            bucket.change(&bucket.pack, |bytes| bytes.fill(0))
        }),
        damaged("a folder in place of a pack", |bucket| {
            bucket.remove(&bucket.pack);
            fs::create_dir(bucket.path(&bucket.pack)).unwrap();
        }),
        damaged("no map", |bucket| bucket.remove(&bucket.map)),
        damaged("an empty map", |bucket| bucket.write(&bucket.map, b"")),
        damaged("half a map", |bucket| {
            bucket.change(&bucket.map, |bytes| bytes.truncate(bytes.len() / 2))
        }),
        damaged("a folder in place of a map", |bucket| {
            bucket.remove(&bucket.map);
            fs::create_dir(bucket.path(&bucket.map)).unwrap();
        }),
    ]);
    cases
}

#[tokio::test]
async fn every_bad_reference_has_its_words() {
    keep("references", &table(references()).await);
}

/// More than any object may unpack to.
const BOMB: u64 = 1 << 29;

/// A zstd frame of so many bytes of one kind.
fn frame(byte: u8, bytes: u64) -> Vec<u8> {
    let mut packed = Vec::new();
    let input = std::io::Read::take(std::io::repeat(byte), bytes);
    zstd::stream::copy_encode(input, &mut packed, 1).unwrap();
    packed
}

fn json_map(text: &str) -> Vec<u8> {
    zstd::bulk::compress(text.as_bytes(), 3).unwrap()
}

fn maps() -> Vec<Case> {
    let path = |path: &'static str| {
        let name: &'static str = Box::leak(format!("path {path:?}").into_boxed_str());
        forged(name, move |parts| {
            parts.file("base/1").path = path.to_owned()
        })
    };
    let unit = |name, forge: fn(&mut Parts)| forged(name, forge);
    vec![
        with_map("a map that is no zstd", || {
            b"{\"packs\": [], \"files\": []}".to_vec()
        }),
        with_map("a map without files", || {
            json_map("{\"packs\": [], \"files\": []}")
        }),
        with_map("a map that is a list", || json_map("[]")),
        with_map("a map without fields", || json_map("{}")),
        with_map("a map of another codec", || {
            json_map(
                "{\"packs\":[\"packs/7c1f/00ff\"],\"files\":[{\"path\":\"a\",\"bytes\":1,\"units\":[{\"at\":0,\"raw\":1,\"pack\":0,\"offset\":0,\"stored\":1,\"codec\":\"lz4\",\"blake3\":\"\"}]}]}",
            )
        }),
        with_map("a map with negative sizes", || {
            json_map("{\"packs\":[],\"files\":[{\"path\":\"a\",\"bytes\":-1}]}")
        }),
        with_map("lists, a hundred thousand deep, packed", || {
            json_map(&"[".repeat(100_000))
        }),
        with_map("half a GiB of spaces, packed", || frame(b' ', BOMB)),
        with_map("half a GiB of zeros, packed", || frame(0, BOMB)),
        with_map("as many names as a map has room for", || {
            let count = usize::try_from(MAP_BYTES).unwrap() / 3 - 20;
            json_map(&format!(
                "{{\"packs\":[\"\"{}],\"files\":[]}}",
                ",\"\"".repeat(count)
            ))
        }),
        with_map("a frame that wants a window of two GiB", || {
            let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(31).unwrap();
            std::io::Write::write_all(&mut encoder, b"{\"packs\": [], \"files\": []}").unwrap();
            encoder.finish().unwrap()
        }),
        with_map("two frames, the second one empty", || {
            let mut map = Parts::good().map.encode().unwrap();
            map.extend(zstd::bulk::compress(b"", 3).unwrap());
            map.extend(b"and what follows");
            map
        }),
        path("/etc/passwd"),
        path("../data2/x"),
        path("base/../../x"),
        path("base//1"),
        path("base/./1"),
        path(""),
        path("."),
        path("base/1\u{0}"),
        path("base\\..\\1"),
        forged("a path that a terminal would obey", |parts| {
            let file = parts.file("base/1");
            file.path = "base/\u{1b}[2J\nerror: all is lost".to_owned();
            file.units[0].blake3 = "00".repeat(32);
        }),
        forged("a path of four thousand letters", |parts| {
            parts.file("base/1").path = "b".repeat(4_000)
        }),
        forged("a name of three hundred letters", |parts| {
            parts.file("base/1").path = format!("base/{}", "b".repeat(300))
        }),
        forged("a path twice", |parts| {
            let again = parts.file("base/1").clone();
            parts.map.files.insert(4, again);
        }),
        forged("paths in disorder", |parts| parts.map.files.swap(0, 1)),
        forged("a file below a file", |parts| {
            parts.file("global").path = "base/1/x".to_owned()
        }),
        forged("no PG_VERSION", |parts| drop(parts.map.files.remove(0))),
        forged("no backup_label", |parts| drop(parts.map.files.remove(1))),
        forged("no pg_control", |parts| drop(parts.map.files.pop())),
        forged("PG_VERSION in small letters", |parts| {
            let mut file = parts.map.files.remove(0);
            file.path = "pg_version".to_owned();
            parts.map.files.push(file);
        }),
        forged("a file of 2^60 pages", |parts| {
            parts.file("base/1").bytes = 1 << 63
        }),
        forged("files whose sizes have no sum", |parts| {
            parts.file("base/1").bytes = u64::MAX;
            parts.file("backup_label").bytes = u64::MAX;
        }),
        forged("a folder with content", |parts| {
            parts.file("base/1").is_folder = true
        }),
        unit("a unit that begins behind its file", |parts| {
            parts.unit("base/1").at = 1 << 40
        }),
        unit("a unit at the end of all numbers", |parts| {
            parts.unit("base/1").at = u64::MAX
        }),
        unit("a unit longer than its file", |parts| {
            parts.unit("base/1").raw += 1
        }),
        unit("a unit of four GiB", |parts| {
            parts.unit("base/1").raw = u32::MAX;
            parts.file("base/1").bytes = 1 << 40;
        }),
        unit("a unit of four GiB in the pack", |parts| {
            parts.unit("base/1").stored = u32::MAX
        }),
        unit("a unit behind its pack", |parts| {
            parts.unit("base/1").offset = 1 << 40
        }),
        unit("a unit whose end has no number", |parts| {
            parts.unit("base/1").offset = u64::MAX - 1;
            parts.manifest["packs"] = json!([{ "bytes": u64::MAX }]);
        }),
        unit("a unit of a pack that is not there", |parts| {
            parts.unit("base/1").pack = 9
        }),
        unit(
            "a unit of a pack that the manifest does not name",
            |parts| parts.map.packs[0] = "packs/other/00".to_owned(),
        ),
        unit("a unit of a pack elsewhere", |parts| {
            parts.map.packs[0] = "../../etc/passwd".to_owned()
        }),
        unit("a unit with the hash of another", |parts| {
            parts.unit("base/1").blake3 = "00".repeat(32)
        }),
        unit("a unit that is said to be plain", |parts| {
            parts.unit("base/1").codec = Codec::Plain
        }),
        unit("a part that goes beyond its whole", |parts| {
            let unit = parts.unit("base/1");
            (unit.from, unit.of) = (1, Some(unit.raw));
        }),
        unit("a part of something smaller than itself", |parts| {
            parts.unit("base/1").of = Some(1)
        }),
        unit("a part of another length than it has", |parts| {
            parts.unit("base/1").of = Some(1 << 20)
        }),
        unit("two files that disagree on what they share", |parts| {
            let shared = parts.unit("base/1").clone();
            let other = parts.unit("global/pg_control");
            *other = shared;
            (other.raw, other.of) = (8_192, Some(8_192));
        }),
        unit("a unit of no bytes", |parts| {
            parts.unit("base/1").stored = 0
        }),
        unit("a unit that unpacks to more than it says", |parts| {
            let unit = parts.unit("base/1");
            unit.raw = 100;
        }),
        unit("a unit that unpacks to less than it says", |parts| {
            parts.unit("base/1").raw = 16_385;
            parts.file("base/1").bytes = 16_385;
        }),
        unit("a unit that unpacks to half a GiB", |parts| {
            let packed = frame(0, BOMB);
            let (offset, stored) = (
                parts.pack.len() as u64,
                u32::try_from(packed.len()).unwrap(),
            );
            parts.pack.extend(packed);
            let unit = parts.unit("base/1");
            (unit.offset, unit.stored) = (offset, stored);
        }),
        unit("units that lie over each other", |parts| {
            let again = parts.unit("base/1").clone();
            parts.file("base/1").units.push(again);
        }),
        forged("a tablespace twice", |parts| {
            let space = json!({ "oid": 16_384, "folder": "/x" });
            parts.manifest["tablespaces"] = json!([space, space]);
        }),
        forged("a file in place of a tablespace", |parts| {
            parts.manifest["tablespaces"] = json!([{ "oid": 16_384, "folder": "/x" }]);
            let mut file = parts.file("base/1").clone();
            file.path = "pg_tblspc/16384".to_owned();
            parts.map.files.push(file);
        }),
    ]
}

#[tokio::test]
async fn every_bad_map_has_its_words() {
    keep("maps", &table(maps()).await);
}

/// A second Snapshot of the database, whose name begins like the first one's.
fn beside(bucket: &Bucket, change: impl FnOnce(&mut Value)) -> String {
    let uid = "7c1f-2";
    let text = fs::read_to_string(bucket.path(&bucket.manifest)).unwrap();
    let mut manifest: Value = serde_json::from_str(&text.replace(UID, uid)).unwrap();
    manifest["snapshot"] = "snap-2".into();
    manifest.as_object_mut().unwrap().remove("blake3");
    change(&mut manifest);
    let key = format!("kubedb/demo/pg/snapshots/snap-2/manifest-0001-{uid}.json");
    bucket.write(&key, sealed(manifest).as_bytes());
    bucket.write(&bucket.pack.replace(UID, uid), b"a pack");
    key
}

async fn deleted(bucket: &Bucket, database: [&str; 2], snapshot: [&str; 2]) -> String {
    let store = bucket.store();
    let gone = delete_snapshot(&store, database[0], database[1], snapshot[0], snapshot[1]);
    match gone.await {
        Ok(deleted) => format!("deleted {} objects", deleted.objects),
        Err(error) => bucket.words(&whole(&error)),
    }
}

#[tokio::test]
async fn what_cannot_be_deleted_is_said_and_touches_nothing() {
    let mut table = String::new();
    let mut add = |name: &str, said: &str| table += &format!("{name}\n    {said}\n");
    let demo = ["demo", "pg"];
    type Change = fn(&mut Value);
    let others: [(&str, Change); 5] = [
        ("another Snapshot of a later format", |manifest| {
            manifest["version"] = json!(2)
        }),
        ("another Snapshot that needs a feature", |manifest| {
            manifest["requiredFeatures"] = json!(["telepathy"])
        }),
        ("another Snapshot without its hash", |manifest| {
            manifest["blake3"] = json!("00")
        }),
        ("another Snapshot that refers to elsewhere", |manifest| {
            manifest["packs"] = json!([{ "key": "packs/../x/00", "bytes": 1, "blake3": "" }]);
        }),
        (
            "another Snapshot under a name that is not its own",
            |manifest| manifest["snapshot"] = json!("snap"),
        ),
    ];
    for (name, change) in others {
        let bucket = Parts::good().into_bucket();
        beside(&bucket, change);
        let before = bucket.content();
        let said = deleted(&bucket, demo, ["snap", UID]).await;
        assert_eq!(bucket.content(), before, "{name}");
        add(name, &said);
    }
    let bucket = Parts::good().into_bucket();
    let before = bucket.content();
    for names in [
        (["..", "pg"], ["snap", UID]),
        (["demo", "pg/.."], ["snap", UID]),
        (demo, ["../snap", UID]),
        (demo, ["snap", ""]),
        (demo, ["ѕnap", UID]),
        (demo, ["snap", "7c1f/"]),
        (demo, ["SNAP", UID]),
        (demo, ["sna", UID]),
        (demo, ["snap", "7c1"]),
        (["Demo", "pg"], ["snap", UID]),
    ] {
        let said = deleted(&bucket, names.0, names.1).await;
        // A uid that nobody else has may clear its own folders of packs; these names have none.
        assert!(
            bucket.content() == before || names.1 == ["SNAP", UID] || names.1 == ["sna", UID],
            "{names:?}"
        );
        add(&format!("{names:?}"), &said);
    }
    keep("deletions", &table);
}

/// `snap` and `snap-2`, foreign files, and a manifest that was damaged: exactly what is the Snapshot's own goes.
#[tokio::test]
async fn deleting_leaves_what_only_looks_alike() {
    let bucket = Parts::good().into_bucket();
    let other = beside(&bucket, |_| {});
    bucket.write("kubedb/demo/pg/README.txt", b"mine");
    bucket.write("kubedb/demo/pg/snapshots/snap/notes.txt", b"mine");
    bucket.write(
        "kubedb/demo/pg2/snapshots/snap/manifest-0001-7c1f.json",
        b"of another database",
    );
    bucket.write("kubedb/demo/pg/packs/7c1f-2/01", b"an attempt's");
    bucket.change(&bucket.manifest, |bytes| bytes.truncate(9));
    let said = deleted(&bucket, ["demo", "pg"], ["snap", UID]).await;
    assert_eq!(said, "deleted 3 objects");
    for key in [
        &other,
        "kubedb/demo/pg/README.txt",
        "kubedb/demo/pg/snapshots/snap/notes.txt",
        "kubedb/demo/pg2/snapshots/snap/manifest-0001-7c1f.json",
        "kubedb/demo/pg/packs/7c1f-2/00ff",
        "kubedb/demo/pg/packs/7c1f-2/01",
    ] {
        assert!(bucket.path(key).is_file(), "{key}");
    }
    for key in [&bucket.manifest, &bucket.map, &bucket.pack] {
        assert!(!bucket.path(key).exists(), "{key}");
    }
}
