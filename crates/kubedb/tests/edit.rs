//! `kubedb edit` against a real API server, with editors that are scripts.

#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, os::unix::fs::PermissionsExt as _};

use kubedb_api::Postgres;
use serde_json::{Value, json};

use support::{GUIDE, Ran, Server, wait_until};

fn edit(server: &Server, editor: &str) -> Ran {
    let folder = server.folder.path().to_str().unwrap();
    let environment = [("KUBEDB_EDITOR", editor), ("TMPDIR", folder)];
    server.kubedb_with(
        &["edit", "pg", "scheduled-pg", "-n", "demo"],
        "",
        &environment,
    )
}

/// The path in the last words of a failed edit.
fn kept_copy(ran: &Ran) -> String {
    let line = ran.stderr.lines().last().unwrap();
    let path = line
        .strip_prefix("A copy of your changes has been stored to \"")
        .unwrap();
    fs::read_to_string(path.trim_end_matches('"')).unwrap()
}

#[test]
fn edits_are_sent_and_refused() {
    let server = Server::start();
    server.create(GUIDE);
    let ran = edit(&server, "sed -i 's/replicas: 3/replicas: 2/'");
    assert_eq!(
        ran.stdout, "postgres \"scheduled-pg\" edited\n",
        "{}",
        ran.stderr
    );
    let ran = edit(&server, "true");
    assert_eq!(
        (&*ran.stderr, ran.code),
        ("Edit cancelled, no changes made.\n", Some(0))
    );
    let ran = edit(&server, "sed -i 's/version: 9.6/version: \"15\"/'");
    assert!(
        ran.stderr.starts_with(
            "error: At least one of the following was changed:\n\tspec.version\n\tspec.standbyMode\n"
        ),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.code, Some(1));
    assert!(kept_copy(&ran).contains("version: \"15\""));
    let ran = edit(
        &server,
        "sh -c 'echo \"status: {phase: Running}\" >> \"$0\"'",
    );
    assert!(
        ran.stderr
            .starts_with("error: At least one of the following was changed:\n\tapiVersion\n"),
        "{}",
        ran.stderr
    );
    let ran = edit(&server, "sed -i 's/replicas: 2/replicas: [/'");
    assert!(
        ran.stderr
            .starts_with("error: Edit cancelled, no valid changes were saved.\n"),
        "{}",
        ran.stderr
    );
    assert!(kept_copy(&ran).contains("# The edited file had a syntax error: "));
    let ran = edit(&server, "sed -i \"s/@every 6h/0 25 * * */\"");
    assert!(ran.stderr.contains("25 is above 23"), "{}", ran.stderr);
    let copy = kept_copy(&ran);
    assert!(
        copy.contains("# postgreses \"scheduled-pg\" was not valid:\n# * "),
        "{copy}"
    );
    let removes = "sed -i '/backupSchedule:/,/storageSecretName/d'";
    assert_eq!(
        edit(&server, removes).stdout,
        "postgres \"scheduled-pg\" edited\n"
    );
    let ran = server.kubedb(&["get", "pg", "scheduled-pg", "-n", "demo", "-o", "json"]);
    let object: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (
            object["spec"].get("backupSchedule"),
            &object["spec"]["replicas"]
        ),
        (None, &json!(2))
    );
}

/// Agents write the status every second; that must not throw away what a user typed. Another user's change must.
#[test]
fn a_moving_status_is_no_conflict() {
    let server = Server::start();
    server.create(GUIDE);
    let folder = server.folder.path();
    // The editor waits until the test has changed the object behind its back.
    let script = folder.join("editor.sh");
    let (opened, go) = (folder.join("opened"), folder.join("go"));
    let text = format!(
        "#!/bin/sh\nsed -i 's/replicas: 3/replicas: 2/' \"$1\"\ntouch {}\nwhile [ ! -e {} ]; do sleep 0.05; done\n",
        opened.display(),
        go.display()
    );
    fs::write(&script, text).unwrap();
    let editor = format!("sh {}", script.display());
    let run = |change: &dyn Fn()| {
        let _ = fs::remove_file(&opened);
        let _ = fs::remove_file(&go);
        std::thread::scope(|scope| {
            let edited = scope.spawn(|| edit(&server, &editor));
            wait_until(|| opened.exists());
            change();
            fs::write(&go, "").unwrap();
            edited.join().unwrap()
        })
    };
    let ran =
        run(&|| server.set_status::<Postgres>("scheduled-pg", &json!({ "phase": "Running" })));
    assert_eq!(
        ran.stdout, "postgres \"scheduled-pg\" edited\n",
        "{}",
        ran.stderr
    );
    server.patch_postgres("scheduled-pg", &json!({ "spec": { "replicas": 3 } }));
    let ran =
        run(&|| server.patch_postgres("scheduled-pg", &json!({ "spec": { "doNotPause": false } })));
    assert!(
        ran.stderr.starts_with("Error from server (Conflict): "),
        "{}",
        ran.stderr
    );
    assert!(kept_copy(&ran).contains("replicas: 2"));
}

/// The editor's command line as users set it; an empty variable is as good as none.
#[test]
fn the_editor_is_the_users() {
    let server = Server::start();
    server.create(GUIDE);
    let folder = server.folder.path();
    let script = folder.join("my editor.sh");
    fs::write(&script, "#!/bin/sh\necho \"$#:$1\" >&2\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let editor = format!("'{}' --wait", script.display());
    for environment in [
        [("KUBEDB_EDITOR", &*editor), ("EDITOR", "false")],
        [("KUBEDB_EDITOR", ""), ("EDITOR", &*editor)],
    ] {
        let ran = server.kubedb_with(&["edit", "pg/scheduled-pg", "-n", "demo"], "", &environment);
        assert_eq!(
            ran.stderr, "2:--wait\nEdit cancelled, no changes made.\n",
            "{environment:?}"
        );
        assert_eq!(ran.code, Some(0));
    }
    let ran = edit(&server, "/does/not/exist");
    assert!(
        ran.stderr
            .contains("error: there was a problem with the editor \"/does/not/exist\": "),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains("stored to"), "{}", ran.stderr);
    // Saved, and then the editor fell over.
    let ran = edit(&server, "sh -c 'sed -i s/9.6/10.2/ \"$0\"; exit 3'");
    assert!(kept_copy(&ran).contains("version: 10.2"));
    assert_eq!(ran.code, Some(1));
}

#[test]
fn edits_of_what_is_gone_are_kept() {
    let server = Server::start();
    server.create(&GUIDE.replace("doNotPause: true", "doNotPause: false"));
    // The editor deletes the object behind the command's back.
    let editor = format!(
        "sh -c 'sed -i s/9.6/10.2/ \"$0\"; sed -i \"s/version: 10.2/version: 9.6/; s/replicas: 3/replicas: 1/\" \"$0\"; {} delete pg scheduled-pg -n demo >/dev/null 2>&1'",
        env!("CARGO_BIN_EXE_kubedb")
    );
    let ran = edit(&server, &editor);
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(
        lines[0],
        "Error from server (NotFound): postgreses.kubedb.com \"scheduled-pg\" not found"
    );
    let path = lines[1]
        .strip_prefix("The edits you made on deleted resources have been saved to \"")
        .unwrap()
        .trim_end_matches('"');
    assert!(fs::read_to_string(path).unwrap().contains("replicas: 1"));
    assert_eq!(ran.code, Some(3));
}

/// What names the database or cannot follow is refused, in the original's words and with what it was.
#[test]
fn refused_edits_say_which_field() {
    let server = Server::start();
    server.create(GUIDE);
    let ran = edit(&server, "sed -i 's/standbyMode: warm/standbyMode: hot/'");
    let expected = "error: At least one of the following was changed:\n\tspec.version\n\tspec.standbyMode\n\tspec.streamingMode\n\tspec.archiver\n\tspec.databaseSecret\n\tspec.storage\n\tspec.nodeSelector\n\tspec.init\n\nhint: changed here: spec.standbyMode\n";
    assert!(ran.stderr.starts_with(expected), "{}", ran.stderr);
    let ran = edit(&server, "sed -i 's/name: scheduled-pg/name: other/'");
    let expected = "error: At least one of the following was changed:\n\tapiVersion\n\tkind\n\tname\n\tnamespace\n\tstatus\n\nhint: changed here: name\n";
    assert!(ran.stderr.starts_with(expected), "{}", ran.stderr);
    // The same version in quotes is the same version.
    let ran = edit(&server, "sed -i 's/version: 9.6/version: \"9.6\"/'");
    assert_eq!(
        ran.stdout, "postgres \"scheduled-pg\" edited\n",
        "{}",
        ran.stderr
    );
}
