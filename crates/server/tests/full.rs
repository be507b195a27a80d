//! A disk that is full is an error to whoever writes. It is no damage, and whoever reads does not notice.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use kubedb_server::ApiServer;
use serde_json::json;

const FOLDER: &str = "KUBEDB_TEST_FULL_FOLDER";
/// In blocks of 512 bytes: no file may grow beyond 2 MiB.
const LIMIT: &str = "4096";
/// Of 100 KiB each: many times what fits.
const WRITES: usize = 200;

fn map(name: &str) -> ConfigMap {
    let value = "x".repeat(100 << 10);
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"v": value}})).unwrap()
}

/// Not a test by itself: the process whose files must not grow.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by a_full_disk_is_an_error_and_no_damage"]
async fn writer() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let server = ApiServer::open(&Path::new(&folder).join("kubedb.sqlite")).unwrap();
    let api: Api<ConfigMap> = Api::default_namespaced(server.client());
    let mut out = std::io::stderr();
    let mut say = |line: String| out.write_all(line.as_bytes()).unwrap();
    let mut refused = 0;
    for index in 0..WRITES {
        match api
            .create(&PostParams::default(), &map(&format!("m{index}")))
            .await
        {
            Ok(made) => say(format!("ack {}\n", made.name_any())),
            Err(kube::Error::Api(status)) => {
                say(format!("full {} {}\n", status.code, status.reason));
                refused += 1;
                if refused == 3 {
                    break;
                }
            }
            Err(other) => panic!("{other}"),
        }
    }
    let left = api.list(&ListParams::default()).await.unwrap().items.len();
    say(format!("left {left}\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_an_error_and_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    // An ignored signal stays ignored in the program: its writes fail instead of ending it.
    let script = format!("trap '' XFSZ; ulimit -f {LIMIT}; exec \"$0\" \"$@\"");
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .args(["writer", "--exact", "--ignored", "--nocapture"])
        .env(FOLDER, folder.path())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let (mut acknowledged, mut refusals, mut left) = (Vec::new(), Vec::new(), None);
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["ack", name] => acknowledged.push((*name).to_owned()),
            ["full", code, reason] => refusals.push(format!("{code} {reason}")),
            ["left", count] => left = Some(count.parse::<usize>().unwrap()),
            _ => {}
        }
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(refusals, ["500 InternalError"; 3], "{acknowledged:?}");
    assert!(!acknowledged.is_empty());
    assert_eq!(
        left,
        Some(acknowledged.len()),
        "what was there is read all the same"
    );

    let server = ApiServer::open(&folder.path().join("kubedb.sqlite")).unwrap();
    let api: Api<ConfigMap> = Api::default_namespaced(server.client());
    let mut found: Vec<String> = Vec::new();
    for map in api.list(&ListParams::default()).await.unwrap().items {
        assert_eq!(map.data.as_ref().unwrap()["v"].len(), 100 << 10);
        found.push(map.name_any());
    }
    acknowledged.sort();
    assert_eq!(found, acknowledged);
    api.create(&PostParams::default(), &map("after"))
        .await
        .unwrap();
}
