//! The store servers that other tests stand on really start, hold objects and end.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use kubedb_e2e::{
    stores::{FakeGcs, get},
    wait::eventually,
};

#[test]
fn fake_gcs_server_serves_its_buckets_and_ends_with_its_owner() {
    let folder = tempfile::tempdir().unwrap();
    let server = FakeGcs::start(folder.path(), &["kubedb", "other"]).unwrap();
    let port: u16 = server
        .endpoint()
        .rsplit(':')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let reply = get(port, "/storage/v1/b").unwrap();
    assert!(
        reply.contains("\"kubedb\"") && reply.contains("\"other\""),
        "{reply}"
    );
    drop(server);
    eventually("end of the server", Duration::from_secs(10), || {
        get(port, "/storage/v1/b").map_or(Ok(()), |_| Err("it still answers".to_owned()))
    });
}
