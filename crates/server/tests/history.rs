//! A long random history of writes, with the process killed again and again at any moment of it: what was acknowledged is
//! there, versions never go back, and a watch that was open either goes on or is told to begin anew.

#![allow(clippy::unwrap_used)]

mod random;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{
    DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::{Api, ResourceExt};
use kubedb_server::ApiServer;
use random::Random;
use serde_json::json;

const FOLDER: &str = "KUBEDB_TEST_HISTORY_FOLDER";
const SEED: &str = "KUBEDB_TEST_HISTORY_SEED";
/// Lives of the server.
const LIVES: u64 = 12;
/// Names written to: few, so that each is created, changed and deleted many times.
const NAMES: usize = 9;

/// Not a test by itself: the process that is killed. Says what it is about to do, and what was acknowledged.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by what_was_acknowledged_survives_any_kill"]
async fn writer() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let mut random = Random(std::env::var(SEED).unwrap().parse().unwrap());
    let server = ApiServer::open(&Path::new(&folder).join("kubedb.sqlite")).unwrap();
    let api: Api<ConfigMap> = Api::default_namespaced(server.client());
    let mut out = std::io::stderr();
    let mut say = |line: String| out.write_all(line.as_bytes()).unwrap();
    for step in 0..1_000_000_u64 {
        let name = format!("m{}", random.below(NAMES));
        let value = format!("{step}-{}", random.next());
        let known = api.get_opt(&name).await.unwrap();
        match (known, random.below(5)) {
            (None, _) => {
                say(format!("try {name} {value}\n"));
                let map: ConfigMap = serde_json::from_value(
                    json!({"metadata": {"name": name}, "data": {"v": value}}),
                )
                .unwrap();
                let made = api.create(&PostParams::default(), &map).await.unwrap();
                say(format!(
                    "ack {name} {value} {}\n",
                    made.resource_version().unwrap()
                ));
            }
            (Some(_), 0) => {
                say(format!("try {name} -\n"));
                api.delete(&name, &DeleteParams::default()).await.unwrap();
                say(format!("ack {name} - 0\n"));
            }
            (Some(_), _) => {
                say(format!("try {name} {value}\n"));
                let patch = Patch::Merge(json!({"data": {"v": value}}));
                let made = api
                    .patch(&name, &PatchParams::default(), &patch)
                    .await
                    .unwrap();
                say(format!(
                    "ack {name} {value} {}\n",
                    made.resource_version().unwrap()
                ));
            }
        }
    }
}

/// What the killed process said.
#[derive(Default)]
struct Told {
    /// Last acknowledged value of each name; `-` for a deletion.
    acknowledged: BTreeMap<String, String>,
    /// What was begun last, and may or may not have happened.
    begun: Option<(String, String)>,
    highest: u64,
    acks: usize,
}

impl Told {
    fn note(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["try", name, value] => self.begun = Some(((*name).to_owned(), (*value).to_owned())),
            ["ack", name, value, version] => {
                let version: u64 = version.parse().unwrap();
                assert!(
                    version == 0 || version > self.highest,
                    "{version} after {}",
                    self.highest
                );
                self.highest = self.highest.max(version);
                self.acknowledged
                    .insert((*name).to_owned(), (*value).to_owned());
                self.begun = None;
                self.acks += 1;
            }
            // The test harness writes too, and a kill may cut the last line.
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_any_kill() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kubedb.sqlite");
    let mut random = Random(20_260_101);
    let mut told = Told::default();
    let mut last_seen = 0;
    for life in 0..LIVES {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["writer", "--exact", "--ignored", "--nocapture"])
            .env(FOLDER, folder.path())
            .env(SEED, life.to_string())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let enough = told.acks + 1 + random.below(60);
        // Half of the lives end while a write is under way, the others just after one.
        let in_the_middle = random.one_in(2);
        while told.acks < enough || (in_the_middle && told.begun.is_none()) {
            told.note(
                &lines
                    .next()
                    .expect("the writer must not end by itself")
                    .unwrap(),
            );
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            told.note(&line);
        }
        last_seen = check(&file, &mut told, last_seen).await;
    }
    assert!(told.acks > 100, "{}", told.acks);
}

/// Opens the file as the next life does, and compares; returns the version that a watcher has seen.
async fn check(file: &Path, told: &mut Told, last_seen: u64) -> u64 {
    let server = ApiServer::open(file).unwrap();
    let api: Api<ConfigMap> = Api::default_namespaced(server.client());
    let list = api.list(&ListParams::default()).await.unwrap();
    let now: u64 = list.metadata.resource_version.unwrap().parse().unwrap();
    assert!(now >= told.highest, "version {now} after {}", told.highest);
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for map in &list.items {
        found.insert(map.name_any(), map.data.as_ref().unwrap()["v"].clone());
    }
    // The write that was under way happened whole, or not at all.
    if let Some((name, value)) = told.begun.take() {
        let is = found.get(&name).map_or("-", String::as_str);
        let before = told.acknowledged.get(&name).map_or("-", String::as_str);
        assert!(
            is == value || is == before,
            "{name} is {is}, was {before}, was to be {value}"
        );
        told.acknowledged.insert(name, is.to_owned());
    }
    let mut wanted = told.acknowledged.clone();
    wanted.retain(|_, value| value != "-");
    assert_eq!(found, wanted);
    told.highest = told.highest.max(now);
    // Whoever watched before is told everything since.
    if last_seen > 0 {
        resume(&api, last_seen, now, &found).await;
    }
    now
}

async fn resume(api: &Api<ConfigMap>, from: u64, now: u64, found: &BTreeMap<String, String>) {
    use futures::TryStreamExt;
    let parameters = WatchParams::default().timeout(5);
    let stream = api.watch(&parameters, &from.to_string()).await.unwrap();
    let mut stream = std::pin::pin!(stream);
    let (mut version, mut state) = (from, BTreeMap::new());
    while version < now {
        let event = stream.try_next().await.unwrap().expect("the watch goes on");
        let (map, value) = match event {
            WatchEvent::Added(map) | WatchEvent::Modified(map) => {
                let value = map.data.as_ref().unwrap()["v"].clone();
                (map, value)
            }
            WatchEvent::Deleted(map) => (map, "-".to_owned()),
            other => panic!("{other:?}"),
        };
        let next: u64 = map.resource_version().unwrap().parse().unwrap();
        assert!(next > version, "{next} after {version}");
        version = next;
        state.insert(map.name_any(), value);
    }
    for (name, value) in state {
        assert_eq!(
            found.get(&name).map_or("-", String::as_str),
            value,
            "{name}"
        );
    }
}
