//! A history of random writes, killed at every single write to a file and at every answer: what was acknowledged is there,
//! the write under way happened whole or not at all, versions never go back nor mean two things, and whoever watched goes on.

#![allow(clippy::unwrap_used)]

mod random;
mod tracer;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{
    DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::{Api, ResourceExt};
use kubedb_server::ApiServer;
use random::Random;
use serde_json::json;
use tracer::End;

const FOLDER: &str = "KUBEDB_TEST_EVERY_FOLDER";
const SEED: &str = "KUBEDB_TEST_EVERY_SEED";
const STEPS: &str = "KUBEDB_TEST_EVERY_STEPS";
/// Names written to: few, so that each is created, changed and deleted many times.
const NAMES: usize = 5;
/// Frames after which SQLite carries its log over into the file, and the bytes of one.
const CHECKPOINT: u64 = 1000 * (4096 + 24);
/// More than any of the histories has; whoever counts so far counts something else.
const MOST_WRITES: usize = 5000;
/// Histories are run side by side, each in a process and with a thread that follows it.
const SIDE_BY_SIDE: usize = 2;

/// Not a test by itself: the process that is killed. Says what it is about to do, what was acknowledged, and what a watch saw.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the tests of this file"]
async fn writer() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let number = |name: &str| -> u64 { std::env::var(name).unwrap().parse().unwrap() };
    let (mut random, steps) = (Random(number(SEED)), number(STEPS));
    say("ready".to_owned());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let server = ApiServer::open(&Path::new(&folder).join("kubedb.sqlite")).unwrap();
    let api: Api<ConfigMap> = Api::default_namespaced(server.client());
    let list = api.list(&ListParams::default()).await.unwrap();
    let watch = tokio::spawn(watch(api.clone(), list.metadata.resource_version.unwrap()));
    for step in 0..steps {
        one_step(&api, &mut random, step).await;
    }
    watch.abort();
    let _ = watch.await;
    say("done".to_owned());
}

fn say(mut line: String) {
    line.push('\n');
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

async fn watch(api: Api<ConfigMap>, from: String) {
    let mut events = Box::pin(api.watch(&WatchParams::default(), &from).await.unwrap());
    while let Some(event) = events.try_next().await.unwrap() {
        let (map, value) = seen(event);
        let version = map.resource_version().unwrap();
        say(format!("saw {version} {} {value}", map.name_any()));
    }
}

/// The object of an event, and its value; `-` for a deletion.
fn seen(event: WatchEvent<ConfigMap>) -> (ConfigMap, String) {
    match event {
        WatchEvent::Added(map) | WatchEvent::Modified(map) => {
            let value = map.data.as_ref().unwrap()["v"].clone();
            (map, value)
        }
        WatchEvent::Deleted(map) => (map, "-".to_owned()),
        other => panic!("{other:?}"),
    }
}

async fn one_step(api: &Api<ConfigMap>, random: &mut Random, step: u64) {
    let name = format!("m{}", random.below(NAMES));
    let value = format!("{step}-{}", random.next());
    let filler = "x".repeat(if random.one_in(4) { 12_000 } else { 100 });
    let data = json!({"data": {"v": value, "filler": filler}});
    let known = api.get_opt(&name).await.unwrap();
    let version = match (known, random.below(8)) {
        (None, _) => {
            say(format!("try {name} {value}"));
            let mut map = data;
            map["metadata"] = json!({"name": name});
            let map: ConfigMap = serde_json::from_value(map).unwrap();
            api.create(&PostParams::default(), &map).await.unwrap()
        }
        (Some(_), 0) => {
            say(format!("try {name} -"));
            api.delete(&name, &DeleteParams::default()).await.unwrap();
            say(format!("ack 0 {name} -"));
            return;
        }
        (Some(_), 1) => {
            let names: Vec<String> = (0..NAMES).map(|index| format!("m{index}")).collect();
            let all = names.join(",");
            say(format!("try {all} -"));
            let (delete, list) = (DeleteParams::default(), ListParams::default());
            api.delete_collection(&delete, &list).await.unwrap();
            say(format!("ack 0 {all} -"));
            return;
        }
        (Some(_), _) => {
            say(format!("try {name} {value}"));
            let patch = Patch::Merge(data);
            api.patch(&name, &PatchParams::default(), &patch)
                .await
                .unwrap()
        }
    };
    let version = version.resource_version().unwrap();
    say(format!("ack {version} {name} {value}"));
}

fn start(folder: &Path, seed: u64, steps: u64) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["writer", "--exact", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env(SEED, seed.to_string())
        .env(STEPS, steps.to_string())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // Byte by byte, so that nothing of what comes later is taken.
    let stderr = child.stderr.as_mut().unwrap();
    let (mut said, mut byte) = (Vec::new(), [0]);
    while !said.ends_with(b"ready\n") {
        stderr.read_exact(&mut byte).unwrap();
        said.push(byte[0]);
    }
    child
}

/// What the killed process said.
#[derive(Debug, Default)]
struct Told {
    /// Last acknowledged value of each name; `-` for a deletion.
    acknowledged: BTreeMap<String, String>,
    /// What was begun last, and may or may not have happened.
    begun: Option<(Vec<String>, String)>,
    /// What a version is, to those who were told.
    meanings: BTreeMap<u64, (String, String)>,
    seen: u64,
    done: bool,
}

impl Told {
    fn note(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let names = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        match words.as_slice() {
            ["try", all, value] => self.begun = Some((names(all), (*value).to_owned())),
            ["ack", version, all, value] => {
                for name in names(all) {
                    self.acknowledged.insert(name, (*value).to_owned());
                }
                self.begun = None;
                self.mean(version, all, value);
            }
            ["saw", version, name, value] => {
                let version = self.mean(version, name, value);
                assert!(version > self.seen, "{version} after {}", self.seen);
                self.seen = version;
            }
            ["done"] => self.done = true,
            // The test harness writes too.
            _ => {}
        }
    }

    fn mean(&mut self, version: &str, name: &str, value: &str) -> u64 {
        let version: u64 = version.parse().unwrap();
        let meaning = (name.to_owned(), value.to_owned());
        if version > 0 {
            let known = self.meanings.insert(version, meaning.clone());
            assert!(known.is_none_or(|known| known == meaning), "{version}");
        }
        version
    }

    fn highest(&self) -> u64 {
        self.meanings.keys().next_back().copied().unwrap_or(0)
    }
}

/// Runs the history up to its n-th write, and looks at what is left. Whether the history was killed, and what it said.
#[expect(clippy::zombie_processes, reason = "the tracer waits for it")]
fn life(folder: &Path, seed: u64, steps: u64, wanted: usize, told: &mut Told) -> End {
    let mut child = start(folder, seed, steps);
    let mut stdin = child.stdin.take().unwrap();
    let end = tracer::kill_at(child.id(), wanted, move || {
        stdin.write_all(b"go\n").unwrap()
    });
    // It is no zombie any more: it was waited for.
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        told.note(&line.unwrap());
    }
    if let End::Itself { code, .. } = end {
        assert!(code == 0 && told.done, "{wanted}: {told:?}");
    }
    end
}

/// Opens the file as the next life does, and compares.
async fn check(file: &Path, told: &Told) {
    let server = ApiServer::open(file).unwrap();
    let api: Api<ConfigMap> = Api::default_namespaced(server.client());
    let list = api.list(&ListParams::default()).await.unwrap();
    let now: u64 = list.metadata.resource_version.unwrap().parse().unwrap();
    assert!(now >= told.highest(), "{now} after {}", told.highest());
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for map in &list.items {
        let data = map.data.as_ref().unwrap();
        assert!([100, 12_000].contains(&data["filler"].len()));
        found.insert(map.name_any(), data["v"].clone());
    }
    let is = |name: &str| found.get(name).map_or("-", String::as_str);
    let (begun, wanted) = told.begun.clone().unwrap_or_default();
    for index in 0..NAMES {
        let name = format!("m{index}");
        let before = told.acknowledged.get(&name).map_or("-", String::as_str);
        let may_be = is(&name) == wanted && begun.contains(&name);
        assert!(
            may_be || is(&name) == before,
            "{name} is {}, was {before}",
            is(&name)
        );
    }
    resume(&api, told, now, &found).await;
    let next: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "next"}})).unwrap();
    let next = api.create(&PostParams::default(), &next).await.unwrap();
    let next: u64 = next.resource_version().unwrap().parse().unwrap();
    assert!(next > now, "{next} after {now}");
}

/// Whoever watched before is told everything since, and what it was told before is what happened.
async fn resume(api: &Api<ConfigMap>, told: &Told, now: u64, found: &BTreeMap<String, String>) {
    let first = told.meanings.keys().next().map_or(now, |first| first - 1);
    for from in [first, told.seen.max(first)] {
        let parameters = WatchParams::default().timeout(5);
        let events = api.watch(&parameters, &from.to_string()).await.unwrap();
        let mut events = std::pin::pin!(events);
        let (mut version, mut state) = (from, BTreeMap::new());
        let last = told.meanings.range(from + 1..).next_back();
        // Others than these objects change too: the last of these is what counts.
        let last = last.map_or(from, |(version, _)| *version);
        while version < last {
            let event = events.try_next().await.unwrap().expect("the watch goes on");
            let (map, value) = seen(event);
            let next: u64 = map.resource_version().unwrap().parse().unwrap();
            assert!(next > version, "{next} after {version}");
            version = next;
            let meaning = (map.name_any(), value);
            let known = told.meanings.get(&version);
            assert!(
                known.is_none_or(|known| *known == meaning),
                "{version}: {meaning:?}"
            );
            state.insert(meaning.0, meaning.1);
        }
        let all_told = version >= now;
        for (name, value) in state.iter().filter(|_| all_told) {
            let is = found.get(name).map_or("-", String::as_str);
            assert_eq!(is, value, "{name}");
        }
    }
}

/// Kills the history at its first write, at its second, and so on until it ends by itself. Tells after how many, and how often
/// the file itself (not its log) had been changed in the midst of it.
fn at_every_write(base: Option<&Path>, seed: u64, steps: u64) -> (usize, usize) {
    let one = |offset: usize| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let mut carried = 0;
        for wanted in (offset..).step_by(SIDE_BY_SIDE) {
            assert!(wanted < MOST_WRITES, "the history does not end");
            let folder = in_memory();
            let file = folder.path().join("kubedb.sqlite");
            if let Some(base) = base {
                copy(base, folder.path());
            }
            let before = std::fs::read(&file).unwrap_or_default();
            let mut told = Told::default();
            if let Some(base) = base {
                runtime.block_on(remember(base, &mut told));
            }
            let end = life(folder.path(), seed, steps, wanted, &mut told);
            carried +=
                usize::from(!told.done && std::fs::read(&file).unwrap_or_default() != before);
            // Killed before the first file: there is nothing to look at.
            runtime.block_on(check(&file, &told));
            if let End::Itself { writes, .. } = end {
                return (writes, carried);
            }
        }
        unreachable!("it returns or fails")
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=SIDE_BY_SIDE)
            .map(|offset| scope.spawn(move || one(offset)))
            .collect();
        let ends: Vec<(usize, usize)> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        let carried = ends.iter().map(|(_, carried)| carried).sum();
        (ends[0].0, carried)
    })
}

/// What is in the file that a history begins with counts as acknowledged.
async fn remember(base: &Path, told: &mut Told) {
    let folder = in_memory();
    copy(base, folder.path());
    let server = ApiServer::open(&folder.path().join("kubedb.sqlite")).unwrap();
    let api: Api<ConfigMap> = Api::default_namespaced(server.client());
    for map in api.list(&ListParams::default()).await.unwrap().items {
        let value = map.data.as_ref().unwrap()["v"].clone();
        told.acknowledged.insert(map.name_any(), value);
    }
}

/// A kill takes nothing from the kernel, so nothing need reach a disk, and flushes are free here.
fn in_memory() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() {
        tempfile::tempdir_in(shared).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn from_nothing_every_kill_is_survived() {
    let (writes, _) = at_every_write(None, 20_260_101, 14);
    // Each step is a transaction of several pages, a flush, and an answer.
    assert!(writes > 14 * 4, "{writes}");
}

/// SQLite carries its log over into the file after a thousand pages: a kill in the midst of that, and at every write around it.
#[test]
fn every_kill_is_survived_while_the_log_is_carried_over() {
    let base = in_memory();
    let log = base.path().join("kubedb.sqlite-wal");
    let mut child = start(base.path(), 7, 1_000_000);
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let length = || std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        if line.unwrap().starts_with("ack") && length() > CHECKPOINT * 19 / 20 {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(length() < CHECKPOINT, "{}", length());
    let (writes, carried) = at_every_write(Some(base.path()), 8, 16);
    assert!(carried > 10, "{carried} of {writes}");
}
