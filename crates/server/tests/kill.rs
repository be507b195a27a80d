//! A server that is killed: what it acknowledged is there, and revisions go on.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{Api, ListParams, PostParams};
use kubedb_server::ApiServer;

const FOLDER: &str = "KUBEDB_TEST_KILL_FOLDER";
/// Kills, each at another moment of the writer.
const ROUNDS: usize = 4;
/// Acknowledged writes before the first kill.
const WRITES: usize = 25;

fn map(name: String) -> ConfigMap {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name);
    map
}

/// Not a test by itself: the process that is killed. Tells every acknowledged write.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by a_killed_server_forgets_nothing"]
async fn writer() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let server = ApiServer::open(&Path::new(&folder).join("kubedb.sqlite")).unwrap();
    let api: Api<ConfigMap> = Api::default_namespaced(server.client());
    let start = std::process::id();
    for index in 0..100_000 {
        let made = api
            .create(&PostParams::default(), &map(format!("m-{start}-{index}")))
            .await
            .unwrap();
        let line = format!(
            "ack {} {}\n",
            made.name_any(),
            made.resource_version().unwrap()
        );
        let mut out = std::io::stderr();
        out.write_all(line.as_bytes()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_forgets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    let mut last = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["writer", "--exact", "--ignored", "--nocapture"])
            .env(FOLDER, folder.path())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = 0;
        while seen < WRITES + round * 7 {
            let line = lines
                .next()
                .expect("the writer must not end by itself")
                .unwrap();
            seen += usize::from(note(&line, &mut acknowledged, &mut last));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it told between our last look and its end counts too.
        for line in lines.map_while(Result::ok) {
            note(&line, &mut acknowledged, &mut last);
        }
    }
    let server = ApiServer::open(&folder.path().join("kubedb.sqlite")).unwrap();
    let api: Api<ConfigMap> = Api::default_namespaced(server.client());
    let list = api.list(&ListParams::default()).await.unwrap();
    let found: BTreeMap<String, u64> = list
        .items
        .iter()
        .map(|map| {
            (
                map.name_any(),
                map.resource_version().unwrap().parse().unwrap(),
            )
        })
        .collect();
    for (name, revision) in &acknowledged {
        assert_eq!(found.get(name), Some(revision), "{name} was acknowledged");
    }
    let next = api
        .create(&PostParams::default(), &map("next".to_owned()))
        .await
        .unwrap();
    let next: u64 = next.resource_version().unwrap().parse().unwrap();
    let highest = found.values().max().copied().unwrap();
    assert!(
        next > last && next == highest + 1,
        "{next} after {last} and {highest}"
    );
}

/// Whether the line tells a write; its revision must be above all before, over all lives of the server.
fn note(line: &str, acknowledged: &mut BTreeMap<String, u64>, last: &mut u64) -> bool {
    let mut words = line.split_whitespace();
    // The test harness writes too, and a kill may cut the last line.
    let (Some("ack"), Some(name), Some(revision), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return false;
    };
    let revision: u64 = revision.parse().unwrap();
    assert!(revision > *last, "{revision} after {last}");
    *last = revision;
    acknowledged.insert(name.to_owned(), revision);
    true
}
