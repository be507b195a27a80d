//! What lies in a bucket.

use kubedb_engine::{
    readers,
    repository::{
        keys::{DatabaseFolder, is_data},
        manifest::Manifest,
        map::{Codec, FileEntry, Map, Unit, is_safe_path},
    },
};
use serde_json::{Value, json};

use super::{said, texts};

/// A manifest as it is, and with a hash that fits, without which nothing behind the hash would ever be reached.
pub(super) fn manifest(bytes: &[u8]) -> String {
    let plain = Manifest::decode("m", bytes);
    let sealed = serde_json::from_slice::<Value>(bytes).ok().map(seal);
    let sealed = sealed.map(|text| Manifest::decode("m", text.as_bytes()));
    for manifest in [Some(&plain), sealed.as_ref()]
        .into_iter()
        .flatten()
        .flatten()
    {
        let written = manifest.encode().expect("what was read can be written");
        let written: Vec<u8> = written.into_iter().flatten().collect();
        let again = Manifest::decode("m", &written).expect("what was written can be read");
        assert_eq!(&again, manifest);
        let objects = manifest.packs.iter().chain(&manifest.maps);
        objects.for_each(|object| assert!(is_data(&object.key), "{:?}", object.key));
    }
    said(sealed.unwrap_or(plain))
}

fn seal(mut value: Value) -> String {
    value.as_object_mut().map(|fields| fields.remove("blake3"));
    let mut value = sorted(value);
    let hash = blake3::hash(value.to_string().as_bytes()).to_hex();
    if value.is_object() {
        value["blake3"] = hash.as_str().into();
    }
    value.to_string()
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields: std::collections::BTreeMap<_, _> = fields.into_iter().collect();
            let fields = fields.into_iter();
            fields.map(|(key, value)| (key, sorted(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        plain => plain,
    }
}

pub(super) fn manifest_seeds() -> Vec<Vec<u8>> {
    let cluster = json!({
        "postgresVersion": "15.18", "major": "15", "systemIdentifier": "7300000000000000000", "controlVersion": 1300,
        "catalogVersion": 202_209_061, "pageBytes": 8_192, "segmentPages": 131_072, "walSegmentBytes": 16_777_216, "dataChecksums": true,
        "libc": "glibc 2.36",
        "locales": [{ "database": "postgres", "encoding": "UTF8", "collate": "C", "ctype": "C", "icu": null, "collationVersion": null }],
        "settings": { "max_connections": "100" }
    });
    let manifest = json!({
        "format": "kubedb-snapshot", "version": 1, "requiredFeatures": [], "optionalFeatures": ["x"], "writtenBy": "kubedb 0.1.0",
        "lineage": "b5ad6a0e", "namespace": "demo", "database": "pg", "snapshot": "snap", "snapshotUid": "7c1f", "attempt": 1,
        "started": "2026-11-24T00:00:00Z", "created": "2026-11-24T00:00:09Z", "cluster": cluster, "timeline": 2,
        "timelineHistory": "1\t0/3000060\tno recovery target specified\n", "startLsn": "0/2000028", "stopLsn": "0/2000100",
        "wal": ["000000020000000000000002"], "fromStandby": false, "tablespaces": [{ "oid": 16_384, "folder": "/x" }],
        "sizes": { "databaseBytes": 1, "readBytes": 1, "uploadedBytes": 1, "storedBytes": 1 },
        "maps": [{ "key": "maps/7c1f/00", "bytes": 1, "blake3": "00" }], "packs": [{ "key": "packs/7c1f/00", "bytes": 1, "blake3": "00" }]
    });
    texts(&[
        &manifest.to_string(),
        "{\"format\": \"kubedb-snapshot\", \"version\": 2}",
    ])
}

/// The list of files packed, and as text, which is packed here.
pub(super) fn map(bytes: &[u8]) -> String {
    let packed = Map::decode(bytes);
    let text = zstd::bulk::compress(bytes, 1).expect("anything can be packed");
    let text = Map::decode(&text);
    for map in [&packed, &text].into_iter().flatten() {
        let again = Map::decode(&map.encode().expect("what was read can be written"));
        assert_eq!(&again.expect("what was written can be read"), map);
        for file in &map.files {
            let path = std::path::Path::new(&file.path);
            assert!(
                is_safe_path(&file.path) && readers::stays_below(path),
                "{path:?}"
            );
            for unit in &file.units {
                let end = unit.at.checked_add(unit.raw.into());
                assert!(end.is_some_and(|end| end <= file.bytes), "{unit:?}");
                assert!((unit.pack as usize) < map.packs.len(), "{unit:?}");
                let end_of_part = unit.from.checked_add(unit.raw);
                assert!(
                    end_of_part.is_some_and(|end| end <= unit.whole()),
                    "{unit:?}"
                );
            }
        }
    }
    said(text.or(packed))
}

pub(super) fn map_seeds() -> Vec<Vec<u8>> {
    let unit = Unit {
        at: 0,
        raw: 8_192,
        pack: 0,
        offset: 10,
        stored: 100,
        codec: Codec::Zstd,
        blake3: "00".repeat(32),
        from: 0,
        of: None,
        part: None,
    };
    let part = Unit {
        at: 8_192,
        from: 16_384,
        of: Some(32_768),
        part: Some("11".repeat(32)),
        ..unit.clone()
    };
    let file = |path: &str, is_folder: bool, units: Vec<Unit>| FileEntry {
        path: path.to_owned(),
        is_folder,
        bytes: 16_384,
        units,
    };
    let map = Map {
        packs: vec!["packs/7c1f/00ff".to_owned()],
        files: vec![
            file("base", true, Vec::new()),
            file("base/1/1259", false, vec![unit.clone()]),
            file("base/1/1260", false, vec![part]),
            file("pg_tblspc/16384/PG_15/5", false, vec![unit]),
        ],
    };
    let text = serde_json::to_vec(&map).expect("a map can be written");
    [Some(text), map.encode().ok()]
        .into_iter()
        .flatten()
        .collect()
}

/// The first byte says how a unit is stored, the next three how long it is to be; what is behind them is the unit.
pub(super) fn pack(bytes: &[u8]) -> String {
    let Some(([codec, length @ ..], stored)) = bytes.split_first_chunk::<4>() else {
        return "too short".to_owned();
    };
    let codec = [Codec::Plain, Codec::Zstd][usize::from(codec % 2)];
    let length =
        usize::from(length[0]) | usize::from(length[1]) << 8 | usize::from(length[2]) << 16;
    let refused = readers::unit(codec, stored, length, "");
    assert!(refused.is_err(), "an empty hash fits nothing");
    let true_hash = zstd::bulk::decompress(stored, length).ok();
    let true_hash = true_hash.map(|raw| blake3::hash(&raw).to_hex().to_string());
    let read = readers::unit(codec, stored, length, &true_hash.unwrap_or_default());
    if let Ok(raw) = &read {
        assert_eq!(raw.len(), length);
    }
    said(read)
}

pub(super) fn pack_seeds() -> Vec<Vec<u8>> {
    let packed = |raw: &[u8]| {
        let length = u32::try_from(raw.len()).unwrap_or_default().to_le_bytes();
        let stored = zstd::bulk::compress(raw, 1).unwrap_or_default();
        [&[1, length[0], length[1], length[2]][..], &stored].concat()
    };
    vec![
        packed(b"PG_VERSION\n15\n"),
        packed(&[7; 8_192]),
        packed(&[]),
        b"\0\x03\0\0abc".to_vec(),
    ]
}

/// Names of records: what is taken apart can be put together again.
pub(super) fn keys(bytes: &[u8]) -> String {
    let key = String::from_utf8_lossy(bytes);
    let Some((folder, (record, id))) = DatabaseFolder::of(&key)
        .and_then(|folder| Some((folder.clone(), folder.read_record(&key)?)))
    else {
        let leads_elsewhere = key.split('/').any(|part| part == "..");
        assert!(!is_data(&key) || !leads_elsewhere, "{key:?}");
        return "no record".to_owned();
    };
    assert_eq!(folder.record(record, &id), key);
    format!("{record:?}")
}

pub(super) fn key_seeds() -> Vec<Vec<u8>> {
    texts(&[
        "kubedb/demo/pg/snapshots/snap/manifest-0001-7c1f.json",
        "kubedb/demo/pg/snapshots/snap/attempt-0001-7c1f.json",
        "kubedb/demo/pg/snapshots/snap-2/deleting-9999-7c1f-2.json",
        "packs/7c1f/00ff",
        "maps/7c1f/00ff",
    ])
}

/// What opens seals to the same again.
pub(super) fn sealed(bytes: &[u8]) -> String {
    let opened = readers::sealed(bytes);
    if let Ok(content) = &opened {
        let again = readers::sealed_example(content);
        assert_eq!(again.as_deref(), Some(bytes), "another object opens too");
    }
    said(opened)
}

pub(super) fn sealed_seeds() -> Vec<Vec<u8>> {
    let contents = [Vec::new(), b"content".to_vec(), vec![7; (1 << 20) + 9]];
    let sealed = contents
        .iter()
        .map(|content| readers::sealed_example(content));
    sealed.flatten().collect()
}

/// No object holds another key than its name says.
pub(super) fn wrapped_key(bytes: &[u8]) -> String {
    said(readers::wrapped_key(bytes))
}

pub(super) fn wrapped_key_seeds() -> Vec<Vec<u8>> {
    readers::wrapped_key_example().into_iter().collect()
}

/// A schema, however it is cut.
pub(super) fn statements(bytes: &[u8]) -> String {
    let whole = readers::statements(bytes, usize::MAX);
    for length in [509, 8_191] {
        let cut = readers::statements(bytes, length);
        // What is told of one that is refused may be shorter where less of it had come.
        assert_eq!(cut.as_ref().ok(), whole.as_ref().ok(), "{length}");
    }
    if let Ok(statements) = &whole {
        let texts = statements
            .iter()
            .filter(|text| text.first() != Some(&b'\\'));
        let came: usize = texts.map(Vec::len).sum();
        assert!(came <= bytes.len(), "{came}");
    }
    said(whole)
}

pub(super) fn statement_seeds() -> Vec<Vec<u8>> {
    texts(&[
        "-- x\n\\restrict a\nSET a = 'b; c';\nCREATE TABLE \"c;\"(d);\n/* /* */ */ SELECT $x$ ; $x$, E'\\'';\n",
        "CREATE FUNCTION f() BEGIN ATOMIC SELECT CASE WHEN 1 THEN 2 END; END;\nCREATE RULE r AS DO (SELECT 1; SELECT 2);\n\\unrestrict a\n",
    ])
}

pub(super) fn contents(bytes: &[u8]) -> String {
    said(readers::contents(bytes))
}

pub(super) fn contents_seeds() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"version":1,"pgDump":"15.18","superuser":"postgres","roles":[{"name":"a","attributes":["LOGIN"],"connectionLimit":-1}],"memberships":[],"settings":[],"parameters":[],"tablespaces":[],"databases":[{"name":"d","folder":"0001","owner":"a","encoding":"UTF8","collate":"C","ctype":"C","provider":"c","isTemplate":false,"connectionLimit":-1,"tables":[{"schema":"s","name":"t","columns":["a"],"parts":[{"file":"0001/tables/1.copy","rows":1,"bytes":2}]}]}]}"#,
    ])
}
