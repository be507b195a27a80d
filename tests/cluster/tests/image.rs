//! The image of a release: one static program and nothing else, that runs as nobody on an empty root.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use kubedb_e2e::kubedb::scratch;
use serde_json::{Value, json};

/// Where the archive is that is tried.
const IMAGE: &str = "KUBEDB_IMAGE";
/// Whoever that is, it has no rights.
const NOBODY: u32 = 65532;

/// Begins a container without an engine: its root, its user, the program's arguments. What it mounts goes with it.
const BEGIN: &str = r#"root=$1 user=$2
shift 2
mount --bind /proc "$root/proc"
exec chroot --userspec="$user" --groups= "$root" /kubedb "$@""#;

/// The archive's parts and its one layer, unpacked.
struct Unpacked {
    folder: tempfile::TempDir,
    config: Value,
    layer: PathBuf,
}

impl Unpacked {
    /// The layer, as the root of a container.
    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// The program on the image's root alone, as the image's user, with nothing beside it but what every container has: the kernel's processes, and a `PATH`.
    fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let root = self.root();
        fs::create_dir_all(root.join("proc")).unwrap();
        let mut command = Command::new("/usr/bin/unshare");
        command
            .args(["--mount", "--propagation", "private", "--", "sh", "-ec"])
            .arg(BEGIN)
            .arg("sh")
            .arg(&root)
            .arg(format!("{NOBODY}:{NOBODY}"))
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(environment.iter().copied());
        command.output().unwrap()
    }
}

#[expect(clippy::print_stderr, reason = "who runs tests must see it")]
fn unpacked() -> Option<Unpacked> {
    let Some(archive) = std::env::var_os(IMAGE) else {
        eprintln!("THE IMAGE OF A RELEASE IS NOT TRIED: run cargo xtask test --tier image");
        return None;
    };
    let folder = scratch().unwrap();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    unpack(Path::new(&archive), folder.path());
    let manifest: Value =
        serde_json::from_slice(&fs::read(folder.path().join("manifest.json")).unwrap()).unwrap();
    let [image] = manifest.as_array().unwrap().as_slice() else {
        panic!("not one image: {manifest}");
    };
    let [layer] = image["Layers"].as_array().unwrap().as_slice() else {
        panic!("not one layer: {image}");
    };
    let layer = folder.path().join(layer.as_str().unwrap());
    unpack(&layer, &root);
    let config = folder.path().join(image["Config"].as_str().unwrap());
    let config = serde_json::from_slice(&fs::read(config).unwrap()).unwrap();
    Some(Unpacked {
        folder,
        config,
        layer,
    })
}

fn unpack(archive: &Path, folder: &Path) {
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--file").arg(archive);
    let status = tar.arg("--directory").arg(folder).status().unwrap();
    assert!(status.success(), "{}", archive.display());
}

fn text(output: &Output) -> String {
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    format!("{}: {}", output.status, String::from_utf8_lossy(&said))
}

#[test]
fn there_is_one_file_in_it_and_nobody_is_root() {
    let Some(image) = unpacked() else { return };
    let mut tar = Command::new("tar");
    tar.args(["--list", "--verbose", "--numeric-owner", "--file"]);
    let listed = tar.arg(&image.layer).env("LC_ALL", "C").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let [line] = listed.lines().collect::<Vec<_>>()[..] else {
        panic!("{listed}");
    };
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!((words[0], words[1]), ("-rwxr-xr-x", "0/0"), "{line}");
    assert_eq!(words.last(), Some(&"kubedb"), "{line}");
    let said = &image.config["config"];
    assert_eq!(said["User"], format!("{NOBODY}:{NOBODY}"));
    assert_eq!(said["Entrypoint"], json!(["/kubedb"]));
}

#[test]
fn the_program_needs_no_other_file() {
    let Some(image) = unpacked() else { return };
    let mut readelf = Command::new("readelf");
    readelf.args(["--wide", "--program-headers", "--dynamic"]);
    let read = readelf.arg(image.root().join("kubedb")).output().unwrap();
    assert!(read.status.success(), "{}", text(&read));
    let read = String::from_utf8(read.stdout).unwrap();
    assert!(read.contains("LOAD"), "{read}");
    for needs in ["INTERP", "(NEEDED)", "program interpreter"] {
        assert!(!read.contains(needs), "{needs} in {read}");
    }
}

#[test]
fn it_runs_as_nobody_on_an_empty_root() {
    let Some(image) = unpacked() else { return };
    let version = image.run(&["--version"], &[]);
    let expected = concat!("kubedb ", env!("CARGO_PKG_VERSION"));
    assert!(version.status.success(), "{}", text(&version));
    assert!(text(&version).contains(expected), "{}", text(&version));
    let help = image.run(&["operator", "--help"], &[]);
    assert!(help.status.success(), "{}", text(&help));
    assert!(
        text(&help).contains("KUBEDB_WATCH_NAMESPACE"),
        "{}",
        text(&help)
    );

    // What it does in every pod of a database: it puts itself where PostgreSQL's container finds it.
    let target = image.root().join("opt");
    fs::create_dir(&target).unwrap();
    chown(&target, Some(NOBODY), Some(NOBODY)).unwrap();
    let installed = image.run(&["agent", "install", "/opt"], &[]);
    assert!(installed.status.success(), "{}", text(&installed));
    let copied =
        fs::read(target.join("kubedb")).unwrap() == fs::read(image.root().join("kubedb")).unwrap();
    assert!(copied, "what was installed is another program");

    // A name that has to be found without the system's own means, and a server that is not there.
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "c", "cluster": { "server": "https://localhost:1" } }],
        "users": [{ "name": "u", "user": { "token": "t" } }],
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
    });
    fs::write(image.root().join("config"), config.to_string()).unwrap();
    let asked = image.run(&["get", "pg"], &[("KUBECONFIG", "/config")]);
    assert_eq!(asked.status.code(), Some(1), "{}", text(&asked));
    assert!(text(&asked).contains("error: "), "{}", text(&asked));
}
