//! The command line against a real API server: what the guide types, and what goes wrong.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use kubedb_api::{Postgres, Snapshot};
use serde_json::{Value, json};

use support::{GUIDE, Ran, Server};

const SNAPSHOT: &str = "
apiVersion: kubedb.com/v1alpha1
kind: Snapshot
metadata:
  name: scheduled-pg-20180208-105341
  namespace: demo
  labels: {kubedb.com/kind: Postgres, kubedb.com/name: scheduled-pg}
spec:
  databaseName: scheduled-pg
  storageSecretName: gcs-secret
  gcs: {bucket: kubedb}
";

fn lines(ran: &Ran) -> Vec<&str> {
    ran.stdout.lines().collect()
}

/// A cell that is an age.
fn without_age(line: &str) -> &str {
    let (head, age) = line.rsplit_once(' ').unwrap();
    assert!(
        age.ends_with('s') && age.trim_end_matches('s').parse::<u32>().is_ok(),
        "{line}"
    );
    head
}

#[test]
fn the_guide_is_typed() {
    let server = Server::start();
    let ran = server.kubedb_with(&["create", "-f", "-"], GUIDE, &[]);
    let expected = "validating \"STDIN\"\nnamespace \"demo\" created\nsecret \"gcs-secret\" created\npostgres \"scheduled-pg\" created\n";
    assert_eq!(ran.stdout, expected, "{}", ran.stderr);
    assert_eq!(ran.code, Some(0));
    server.create(SNAPSHOT);
    server.set_status::<Snapshot>(
        "scheduled-pg-20180208-105341",
        &json!({ "phase": "Succeeded" }),
    );
    let selector = "--selector=kubedb.com/kind=Postgres,kubedb.com/name=scheduled-pg";
    let ran = server.kubedb(&["get", "snap", "-n", "demo", selector]);
    let rows = lines(&ran);
    assert_eq!(
        rows[0],
        "NAME                           DATABASE          STATUS      AGE"
    );
    assert_eq!(
        without_age(rows[1]),
        "scheduled-pg-20180208-105341   pg/scheduled-pg   Succeeded  "
    );
    assert_eq!(rows.len(), 2);
    let ran = server.kubedb(&["get", "all", "-n", "demo", "-o", "wide"]);
    let rows = lines(&ran);
    assert_eq!(rows[0], "NAME              VERSION   STATUS    AGE");
    assert_eq!(
        without_age(rows[1]),
        "pg/scheduled-pg   9.6       Unknown  "
    );
    assert_eq!(rows[2], "");
    assert!(rows[3].starts_with(
        "NAME                                DATABASE          BUCKET      STATUS      AGE"
    ));
    assert!(rows[4].starts_with(
        "snap/scheduled-pg-20180208-105341   pg/scheduled-pg   gs:kubedb   Succeeded   "
    ));
}

#[test]
fn objects_are_printed_in_every_way() {
    let server = Server::start();
    server.create(GUIDE);
    let ran = server.kubedb(&["get", "pg/scheduled-pg", "-n", "demo", "-o", "json"]);
    let object: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        object["spec"]["version"].to_string(),
        "9.6",
        "the bare number is kept"
    );
    assert_eq!(object["kind"], "Postgres");
    let ran = server.kubedb(&["get", "secret", "-n", "demo", "-o", "yaml"]);
    let list: Value = serde_yaml_ng::from_str(&ran.stdout).unwrap();
    assert_eq!(list["items"][0]["kind"], "Secret");
    let ran = server.kubedb(&["get", "pg,secret", "-A", "-o", "name"]);
    assert_eq!(ran.stdout, "postgres/scheduled-pg\nsecret/gcs-secret\n");
    let ran = server.kubedb(&["get", "pg", "-A", "--show-labels"]);
    let rows = lines(&ran);
    assert!(
        rows[0].starts_with("NAMESPACE   NAME           STATUS    AGE"),
        "{rows:?}"
    );
    assert!(rows[1].ends_with("   <none>"), "{rows:?}");
    let ran = server.kubedb(&["get", "pgversion"]);
    assert!(ran.stdout.contains("9.6.24"), "{}", ran.stdout);
    let ran = server.kubedb(&["get", "pg"]);
    assert_eq!(
        (&*ran.stdout, &*ran.stderr, ran.code),
        ("", "No resources found.\n", Some(0))
    );
}

#[test]
fn the_servers_refusals_come_through() {
    let server = Server::start();
    server.create(GUIDE);
    let ran = server.kubedb(&["get", "pg", "x", "scheduled-pg", "-n", "demo"]);
    assert_eq!(
        ran.stderr,
        "Error from server (NotFound): postgreses.kubedb.com \"x\" not found\n"
    );
    assert!(
        ran.stdout.contains("scheduled-pg"),
        "the others are printed"
    );
    assert_eq!(ran.code, Some(1));
    let path = server.folder.path().join("again.yaml");
    let more = format!(
        "{GUIDE}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: new, namespace: demo}}\n"
    );
    fs::write(&path, more).unwrap();
    let path = path.to_str().unwrap();
    let ran = server.kubedb(&["create", "-f", path]);
    let line = format!(
        "Error from server (AlreadyExists): error when creating \"{path}\": postgreses.kubedb.com \"scheduled-pg\" already exists\n"
    );
    assert!(ran.stderr.contains(&line), "{}", ran.stderr);
    assert!(
        ran.stdout.ends_with("configmap \"new\" created\n"),
        "the rest is sent: {}",
        ran.stdout
    );
    assert_eq!(ran.code, Some(1));
    let wrong = GUIDE
        .replace("scheduled-pg", "other")
        .replace("@every 6h", "0 25 * * *");
    let ran = server.kubedb_with(&["create", "-f", "-"], &wrong, &[]);
    assert!(
        ran.stderr
            .contains("(Invalid): error when creating \"STDIN\": "),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("25 is above 23"), "{}", ran.stderr);
    let unknown = GUIDE
        .replace("scheduled-pg", "other")
        .replace("replicas:", "replicsa:");
    let ran = server.kubedb_with(&["create", "-f", "-"], &unknown, &[]);
    assert!(
        ran.stderr.contains("replicsa"),
        "a mistyped field is refused: {}",
        ran.stderr
    );
    let dry = GUIDE.replace("scheduled-pg", "other");
    let ran = server.kubedb_with(&["create", "--dry-run", "-f", "-"], &dry, &[]);
    assert!(
        ran.stdout
            .contains("postgres \"other\" created (server dry run)\n"),
        "{}",
        ran.stdout
    );
    assert_eq!(
        server.kubedb(&["get", "pg", "other", "-n", "demo"]).code,
        Some(1)
    );
    let ran = server.kubedb_with(
        &["create", "-f", "-"],
        &GUIDE
            .replace("demo", "elsewhere")
            .replace("name: elsewhere", "name: third"),
        &[],
    );
    assert!(
        ran.stderr.contains("namespaces \"elsewhere\" not found"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_locked_database_is_not_deleted() {
    let server = Server::start();
    server.create(GUIDE);
    let delete = ["delete", "pg", "scheduled-pg", "-n", "demo"];
    let ran = server.kubedb(&delete);
    let message = "error: postgres \"scheduled-pg\" can't be paused. To continue delete, unset spec.doNotPause and retry\n";
    assert!(ran.stderr.starts_with(message), "{}", ran.stderr);
    assert_eq!(ran.code, Some(1));
    server.patch_postgres(
        "scheduled-pg",
        &json!({ "spec": { "doNotPause": false }, "metadata": { "finalizers": ["kubedb.com"] } }),
    );
    let ran = server.kubedb(&[&delete[..], &["--timeout", "1s"]].concat());
    assert_eq!(ran.stdout, "postgres \"scheduled-pg\" deleted\n");
    assert!(
        ran.stderr
            .starts_with("error: timed out waiting for postgres \"scheduled-pg\" to be deleted\n"),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.code, Some(1));
    server.patch_postgres(
        "scheduled-pg",
        &json!({ "metadata": { "finalizers": null } }),
    );
    assert_eq!(
        server
            .kubedb(&["get", "pg", "scheduled-pg", "-n", "demo"])
            .code,
        Some(1)
    );
    assert_eq!(server.kubedb(&delete).code, Some(1));
    assert_eq!(
        server
            .kubedb(&[&delete[..], &["--ignore-not-found"]].concat())
            .code,
        Some(0)
    );
    let ran = server.kubedb(&["delete", "secret", "--all", "-n", "demo", "-o", "name"]);
    assert_eq!(ran.stdout, "secret/gcs-secret\n");
    let ran = server.kubedb(&["delete", "secret", "--all", "-n", "demo"]);
    assert_eq!((&*ran.stderr, ran.code), ("No resources found\n", Some(0)));
}

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
            "error: At least one of the following was changed:\n\tspec.version\n\tspec.standby\n"
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

fn wait_until(condition: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < until, "waited too long");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_watch_prints_what_changes() {
    let server = Server::start();
    server.create(GUIDE);
    let mut child = server.start_kubedb(&["get", "pg", "-n", "demo", "--watch"]);
    let mut rows = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || rows.next().unwrap().unwrap();
    assert_eq!(next(), "NAME           STATUS    AGE");
    assert!(next().starts_with("scheduled-pg   Unknown   "));
    server.set_status::<Postgres>("scheduled-pg", &json!({ "phase": "Creating" }));
    assert!(next().starts_with("scheduled-pg   Creating   "));
    server.set_status::<Postgres>("scheduled-pg", &json!({ "phase": "Running" }));
    assert!(next().starts_with("scheduled-pg   Running    "));
    let stopped = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(stopped.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_description_tells_the_story_and_no_secret() {
    let server = Server::start();
    server.create(GUIDE);
    server.create(SNAPSHOT);
    server.create("apiVersion: v1\nkind: Secret\nmetadata: {name: scheduled-pg-auth, namespace: demo}\nstringData: {POSTGRES_PASSWORD: sixteen-letters!}\n");
    server.patch_postgres(
        "scheduled-pg",
        &json!({ "spec": { "databaseSecret": { "secretName": "scheduled-pg-auth" } } }),
    );
    server.set_status::<Postgres>(
        "scheduled-pg",
        &json!({ "phase": "Running", "endpoints": { "primary": "127.0.0.1:1" } }),
    );
    let ran = server.kubedb(&["describe", "pg", "scheduled", "-n", "demo"]);
    for part in [
        "Name:           scheduled-pg\nNamespace:      demo\nStartTimestamp: ",
        "\nSchedule:\n  Expression: @every 6h\n  In words:   every 6 hours",
        "\nEndpoints:\n  Primary: 127.0.0.1:1\n",
        "\nDatabase Secret:\n  Name: scheduled-pg-auth\n  Type: Opaque\n  Data\n  ====\n  POSTGRES_PASSWORD:    16 bytes\n",
        "\nSnapshots:\n  Name                           Bucket      StartTime   CompletionTime   Phase\n",
        "\nNo events.\n",
    ] {
        assert!(
            ran.stdout.contains(part),
            "{part:?} is missing in\n{}{}",
            ran.stdout,
            ran.stderr
        );
    }
    assert!(!ran.stdout.contains("sixteen"), "{}", ran.stdout);
    let ran = server.kubedb(&[
        "describe",
        "pg",
        "scheduled-pg",
        "-n",
        "demo",
        "-S=false",
        "-W=false",
        "-E=false",
    ]);
    assert!(
        ran.stdout
            .contains("\nEndpoints:      127.0.0.1:1\nSecrets:        scheduled-pg-auth\n"),
        "{}",
        ran.stdout
    );
    assert!(!ran.stdout.contains("vents"), "{}", ran.stdout);
    let ran = server.kubedb(&["describe", "pg", "x", "-n", "demo"]);
    assert_eq!(
        ran.stderr,
        "Error from server (NotFound): postgreses.kubedb.com \"x\" not found\n"
    );
}

#[test]
fn addresses_carry_the_password_only_when_asked() {
    let server = Server::start();
    server.create(GUIDE);
    let connect = ["connect", "pg", "scheduled-pg", "-n", "demo", "--url"];
    let ran = server.kubedb(&connect);
    assert!(
        ran.stderr
            .starts_with("error: postgres \"scheduled-pg\" has no primary"),
        "{}",
        ran.stderr
    );
    server.create("apiVersion: v1\nkind: Secret\nmetadata: {name: scheduled-pg-auth, namespace: demo}\nstringData: {POSTGRES_PASSWORD: s3cret}\n");
    server.set_status::<Postgres>(
        "scheduled-pg",
        &json!({ "endpoints": { "primary": "127.0.0.1:1" } }),
    );
    let ran = server.kubedb(&connect);
    assert_eq!(ran.stdout, "postgresql://postgres@127.0.0.1:1/postgres\n");
    assert_eq!(
        ran.stderr,
        "the password is in Secret scheduled-pg-auth, key POSTGRES_PASSWORD\n"
    );
    let ran = server.kubedb(&[&connect[..], &["--show-password"]].concat());
    assert_eq!(
        ran.stdout,
        "postgresql://postgres:s3cret@127.0.0.1:1/postgres\n"
    );
}

/// psql gets the address as an argument and the password in its environment, and its exit code is ours.
#[test]
fn the_password_reaches_psql_by_its_environment_alone() {
    let server = Server::start();
    server.create(GUIDE);
    server.create("apiVersion: v1\nkind: Secret\nmetadata: {name: scheduled-pg-auth, namespace: demo}\nstringData: {POSTGRES_PASSWORD: s3cret}\n");
    let endpoints =
        json!({ "endpoints": { "primary": "127.0.0.1:1", "standbys": ["127.0.0.1:2"] } });
    server.set_status::<Postgres>("scheduled-pg", &endpoints);
    let psql = server.folder.path().join("psql");
    fs::write(
        &psql,
        "#!/bin/sh\necho \"$#:$1:$2:$3\"\necho \"$PGPASSWORD\"\nexit 7\n",
    )
    .unwrap();
    fs::set_permissions(&psql, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", server.folder.path().display());
    let connect = [
        "connect",
        "pg",
        "scheduled-pg",
        "-n",
        "demo",
        "--standby",
        "--",
        "-c",
        "select 1",
    ];
    let ran = server.kubedb_with(&connect, "", &[("PATH", &path)]);
    assert_eq!(
        ran.stdout, "3:postgresql://postgres@127.0.0.1:2/postgres:-c:select 1\ns3cret\n",
        "{}",
        ran.stderr
    );
    assert_eq!(ran.code, Some(7));
}
