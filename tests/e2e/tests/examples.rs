//! The README's minute and the examples, as root and as anybody.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use kubedb_e2e::{
    kubedb::{Ran, Server, binary, copy_of_binary, run, scratch},
    process::Running,
    wait::eventually,
};

/// `nobody` on Debian and elsewhere.
const NOBODY: u32 = 65_534;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

/// The server checks each example as it would at a user's.
#[test]
fn every_example_is_accepted() {
    let folder = scratch().unwrap();
    let server = Server::start(&binary(), &folder.path().join("data"), &[]).unwrap();
    let demo = "apiVersion: v1\nkind: Namespace\nmetadata: {name: demo}\n";
    assert_eq!(server.kubedb(&["create", "-f", "-"], demo).unwrap().code, 0);
    let mut found = 0;
    for entry in fs::read_dir(examples()).unwrap() {
        let path = entry.unwrap().path();
        let path = path.to_str().unwrap();
        let ran = server
            .kubedb(&["create", "--dry-run", "-f", path], "")
            .unwrap();
        assert_eq!(ran.code, 0, "{path}: {}", ran.stderr);
        assert!(
            ran.stdout.ends_with("created (server dry run)\n"),
            "{}",
            ran.stdout
        );
        found += 1;
    }
    assert!(found > 1, "the examples are gone");
    assert!(server.objects("pg", "demo").unwrap().is_empty());
}

/// A user without a home of their own making: the server finds its folders, the client finds the server.
struct Newcomer {
    home: PathBuf,
    program: PathBuf,
    is_root: bool,
}

impl Newcomer {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .current_dir(&self.home)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", &self.home);
        if self.is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    fn kubedb(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments), "").unwrap()
    }
}

/// The commands of the README, as a user who is not root: a database, its first Snapshot, a query.
#[test]
fn a_newcomer_gets_a_database_in_a_minute() {
    let folder = scratch().unwrap();
    let home = folder.path().join("home");
    fs::create_dir(&home).unwrap();
    let is_root = fs::metadata("/proc/self")
        .is_ok_and(|found| std::os::unix::fs::MetadataExt::uid(&found) == 0);
    let program = copy_of_binary(&home).unwrap();
    let manifest = fs::read_to_string(examples().join("local-pg.yaml")).unwrap();
    let snapshots = home.join("snapshots");
    let manifest = manifest.replace("/var/tmp/kubedb-snapshots", snapshots.to_str().unwrap());
    fs::write(home.join("local-pg.yaml"), manifest).unwrap();
    if is_root {
        std::os::unix::fs::chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let newcomer = Newcomer {
        home,
        program,
        is_root,
    };
    let mut server =
        Running::start(&mut newcomer.command(&["server", "--listen", "127.0.0.1:0"])).unwrap();
    let kubeconfig = server
        .wait_for_line("kubeconfig: ", Duration::from_secs(60))
        .unwrap();
    let expected = newcomer.home.join(".local/share/kubedb/kubeconfig");
    assert_eq!(Path::new(&kubeconfig), expected);

    let ran = newcomer.kubedb(&["create", "-f", "local-pg.yaml"]);
    assert_eq!(
        ran.stdout, "validating \"local-pg.yaml\"\npostgres \"local-pg\" created\n",
        "{}",
        ran.stderr
    );
    let row = |arguments: &[&str], wanted: &str| {
        eventually(wanted, Duration::from_secs(60), || {
            let ran = newcomer.kubedb(arguments);
            if ran.stdout.contains(wanted) {
                Ok(())
            } else {
                Err(ran.stdout + &ran.stderr)
            }
        });
    };
    row(&["get", "pg"], "local-pg   Running   ");
    row(&["get", "snap"], "   pg/local-pg   Succeeded   ");
    let ran = newcomer.kubedb(&["connect", "pg", "local-pg", "--", "-AtXc", "select 6 * 7"]);
    assert_eq!((&*ran.stdout, ran.code), ("42\n", 0), "{}", ran.stderr);
    let ran = newcomer.kubedb(&["describe", "pg", "local-pg"]);
    assert!(ran.stdout.contains("\nSnapshots:\n"), "{}", ran.stdout);
    assert!(
        server
            .terminate(Duration::from_secs(60))
            .is_some_and(|status| status.success())
    );
}
