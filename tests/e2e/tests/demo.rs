//! `kubedb demo`: the whole story, and its end in the middle.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use kubedb_e2e::{
    kubedb::{binary, run, scratch},
    process::{Running, signal},
    wait::eventually,
};

/// A folder for scratch folders whose name a careless shell, YAML file or socket path would stumble over.
fn odd_folder(root: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = root.join("it's a: # scratch folder");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o711)).unwrap();
    folder
}

fn demo(folder: &Path) -> Command {
    let mut command = Command::new(binary());
    command.arg("demo").env("TMPDIR", folder);
    // What is fetched once is kept by whoever runs the tests; without a home it must be named.
    if let (None, Some(home)) = (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        command.env("XDG_CACHE_HOME", Path::new(&home).join(".cache"));
    }
    command.env_remove("HOME").env_remove("KUBECONFIG");
    command
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

/// Processes whose command line or working folder lies in `folder`, also those of other users.
fn processes_in(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let path = entry.path();
        let command = fs::read(path.join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let place = fs::read_link(path.join("cwd")).unwrap_or_default();
        if command.contains(folder) || place.starts_with(folder) {
            found.push(format!("{}: {command}", path.display()));
        }
    }
    found
}

#[test]
fn the_story_is_told_to_its_end() {
    let root = scratch().unwrap();
    let folder = odd_folder(root.path());
    let ran = run(&mut demo(&folder), "").unwrap();
    assert_eq!(ran.code, 0, "{}\n{}", ran.stdout, ran.stderr);
    assert_eq!(ran.stderr, "");
    let mut rest = &*ran.stdout;
    for part in [
        "\n$ kubedb server --data-dir data --listen 127.0.0.1:0 &\n",
        "\n$ cat scheduled-pg.yaml\n",
        "    cronExpression: \"@every 10s\"\n",
        "\n$ kubedb create -f scheduled-pg.yaml\nvalidating \"scheduled-pg.yaml\"\nnamespace \"demo\" created\npostgres \"scheduled-pg\" created\n",
        "\n$ kubedb get pg -n demo -o wide\nNAME           VERSION   STATUS    AGE\nscheduled-pg   9.6       Running   ",
        "\n$ kubedb get snap -n demo --selector=kubedb.com/kind=Postgres,kubedb.com/name=scheduled-pg\nNAME                           DATABASE          STATUS      AGE\nscheduled-pg-20",
        "\npostgres=# INSERT INTO story ",
        "\n$ kubedb create -f recovered-pg.yaml\n",
        "\nscheduled-pg, first 1000 rows: 1000 rows, digest ",
        "\nrecovered-pg, all rows:        1000 rows, digest ",
        "\n$ KUBEDB_EDITOR=./remove-schedule.sh kubedb edit pg scheduled-pg -n demo\npostgres \"scheduled-pg\" edited\n",
        "\n$ kubedb delete pg recovered-pg scheduled-pg -n demo\n",
        "\nAll of it held. It took ",
    ] {
        let place = rest.find(part);
        assert!(
            place.is_some(),
            "{part:?} is missing, or out of order, in\n{}",
            ran.stdout
        );
        rest = &rest[place.unwrap()..];
    }
    assert!(is_empty(&folder), "the scratch folder is left");
    assert_eq!(processes_in(&folder), Vec::<String>::new());
}

/// Ctrl-C, and what a terminal that closes or a supervisor sends: the server and the databases end, the folder goes.
#[test]
fn whoever_interrupts_the_story_leaves_nothing_behind() {
    let root = scratch().unwrap();
    let folder = odd_folder(root.path());
    for number in [libc::SIGINT, libc::SIGTERM] {
        let mut story = Running::start(demo(&folder).stderr(Stdio::null())).unwrap();
        story
            .wait_for_line("postgres \"scheduled-pg\" created", Duration::from_secs(60))
            .unwrap();
        eventually("a PostgreSQL", Duration::from_secs(240), || {
            let all = processes_in(&folder);
            if all.iter().any(|line| line.contains("bin/postgres")) {
                Ok(())
            } else {
                Err(format!("{all:?}"))
            }
        });
        signal(story.id(), number);
        let code = eventually("end of the story", Duration::from_secs(60), || {
            story.ended().ok_or_else(|| "it goes on".to_owned())
        });
        assert_eq!(code.code(), Some(130));
        assert_eq!(processes_in(&folder), Vec::<String>::new());
        assert!(is_empty(&folder), "the scratch folder is left");
    }
}

/// Folders where nothing can be done: said, with the reason, and nothing is left.
#[test]
fn what_stops_the_story_is_said() {
    let root = scratch().unwrap();
    let gone = root.path().join("gone");
    let ran = run(&mut demo(&gone), "").unwrap();
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr
            .contains("make a scratch folder: is TMPDIR a folder?"),
        "{}",
        ran.stderr
    );
    let quoted = root.path().join("a \"quoted\" folder");
    fs::create_dir(&quoted).unwrap();
    let ran = run(&mut demo(&quoted), "").unwrap();
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("set TMPDIR to another folder"),
        "{}",
        ran.stderr
    );
    assert!(is_empty(&quoted));
}
