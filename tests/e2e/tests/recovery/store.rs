//! Objects of an archive, changed behind its back by the store's own API.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use kubedb_e2e::world::World;

fn key(world: &World, path: &Path) -> String {
    let key = path.strip_prefix(world.gcs.objects().join("kubedb"));
    key.unwrap().to_string_lossy().replace('/', "%2F")
}

/// Removes an object by the store's own API.
pub(crate) fn remove(world: &World, path: &Path) {
    let (endpoint, key) = (world.gcs.endpoint(), key(world, path));
    curl(
        &[
            "-X",
            "DELETE",
            &format!("{endpoint}/storage/v1/b/kubedb/o/{key}"),
        ],
        &[],
    );
}

/// Stores an object by the store's own API.
pub(crate) fn put(world: &World, path: &Path, content: &[u8]) {
    let (endpoint, key) = (world.gcs.endpoint(), key(world, path));
    let url = format!("{endpoint}/upload/storage/v1/b/kubedb/o?uploadType=media&name={key}");
    curl(
        &["-X", "POST", "-o", "/dev/null", "--data-binary", "@-", &url],
        content,
    );
}

fn curl(arguments: &[&str], content: &[u8]) {
    let mut command = Command::new("curl");
    command.arg("-sf").args(arguments).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(content).unwrap();
    assert!(child.wait().unwrap().success(), "{arguments:?}");
}
