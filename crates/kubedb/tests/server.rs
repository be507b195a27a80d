//! The command line against a real API server: what the guide types, and what goes wrong.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    time::Instant,
};

use kubedb_api::{Postgres, Snapshot};
use serde_json::{Value, json};

use support::{GUIDE, Ran, Server, wait_until};

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
    assert_eq!(ran.code, Some(3));
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
        Some(3)
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
    assert_eq!(ran.code, Some(4));
    server.patch_postgres(
        "scheduled-pg",
        &json!({ "metadata": { "finalizers": null } }),
    );
    assert_eq!(
        server
            .kubedb(&["get", "pg", "scheduled-pg", "-n", "demo"])
            .code,
        Some(3)
    );
    assert_eq!(server.kubedb(&delete).code, Some(3));
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

#[test]
fn a_watch_prints_what_changes() {
    let server = Server::start();
    server.create(GUIDE);
    let mut child = server.start_kubedb(&["get", "pg", "-n", "demo", "--watch"], &[]);
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

#[test]
fn a_watch_ends_with_its_reader_and_begins_with_its_object() {
    let server = Server::start();
    server.create(GUIDE);
    let ran = server.kubedb(&["get", "pg", "x", "-n", "demo", "--watch"]);
    assert_eq!(
        (&*ran.stdout, ran.code, &*ran.stderr),
        (
            "",
            Some(3),
            "Error from server (NotFound): postgreses.kubedb.com \"x\" not found\n"
        )
    );
    let mut child = server.start_kubedb(&["get", "pg", "-n", "demo", "--watch"], &[]);
    let mut rows = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(rows.next().unwrap().unwrap().starts_with("NAME"));
    rows.next().unwrap().unwrap();
    drop(rows);
    let ended = || {
        let phase = format!("{:?}", Instant::now());
        server.set_status::<Postgres>("scheduled-pg", &json!({ "reason": phase }));
        child.try_wait().unwrap().map(|status| status.code())
    };
    let ended = std::cell::RefCell::new(ended);
    let code = std::cell::Cell::new(None);
    wait_until(|| {
        code.set((ended.borrow_mut())());
        code.get().is_some()
    });
    assert_eq!(code.get(), Some(Some(0)));
}

#[test]
fn tables_have_the_columns_that_objects_have() {
    let server = Server::start();
    server.create(GUIDE);
    let ran = server.kubedb(&["get", "ns,secret", "-A"]);
    let rows = lines(&ran);
    assert!(
        rows[0].starts_with("NAME"),
        "a namespace lies in none: {rows:?}"
    );
    let second = rows.iter().position(|row| row.is_empty()).unwrap() + 1;
    assert!(rows[second].starts_with("NAMESPACE   NAME"), "{rows:?}");
    assert!(
        rows[second + 1].starts_with("demo        secret/gcs-secret   "),
        "{rows:?}"
    );
    let ran = server.kubedb(&["get", "pg", "x", "y", "-n", "demo"]);
    assert_eq!(
        ran.stderr,
        "Error from server (NotFound): postgreses.kubedb.com \"x\" not found\nError from server (NotFound): postgreses.kubedb.com \"y\" not found\n"
    );
    let ran = server.kubedb(&["get", "pg", "-n", "demo", "-l", "a in (b"]);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.stderr.starts_with("Error from server (BadRequest): "),
        "{}",
        ran.stderr
    );
    let ran = server.kubedb(&["get", "PG,Postgres,postgreses", "-n", "demo", "-o", "name"]);
    assert_eq!(ran.stdout, "postgres/scheduled-pg\n");
}

#[test]
fn a_deleted_database_leaves_its_data_and_says_so() {
    let server = Server::start();
    server.create(&GUIDE.replace("doNotPause: true", "doNotPause: false"));
    let ran = server.kubedb(&["delete", "pg", "scheduled-pg", "-n", "demo"]);
    assert_eq!(ran.stdout, "postgres \"scheduled-pg\" deleted\n");
    assert!(
        ran.stderr
            .starts_with("the data folder of a deleted database stays"),
        "{}",
        ran.stderr
    );
    let ran = server.kubedb(&["delete", "secret", "gcs-secret", "-n", "demo"]);
    assert_eq!((&*ran.stderr, ran.code), ("", Some(0)));
}

#[test]
fn a_snapshot_is_described_with_its_secret() {
    let server = Server::start();
    server.create(GUIDE);
    server.create(SNAPSHOT);
    let describe = ["describe", "snap", "scheduled-pg-2018", "-n", "demo"];
    let ran = server.kubedb(&describe);
    let parts = [
        "Name:              scheduled-pg-20180208-105341\nNamespace:         demo\nCreationTimestamp: ",
        "\nStorage:\n  Type:   GCS\n  Bucket: kubedb\n  Secret: gcs-secret\n",
        "\n\nDatabase Secret:\n  Name: gcs-secret\n  Type: Opaque\n  Data\n  ====\n  GOOGLE_PROJECT_ID:    4 bytes\n",
        "\n\nNo events.\n",
    ];
    let mut rest = &*ran.stdout;
    for part in parts {
        let place = rest.find(part);
        assert!(
            place.is_some(),
            "{part:?} is missing, or out of order, in\n{}",
            ran.stdout
        );
        rest = &rest[place.unwrap()..];
    }
    let ran = server.kubedb(&[&describe[..], &["-S=false"]].concat());
    assert!(
        ran.stdout.contains("\nSecrets:  gcs-secret\n"),
        "{}",
        ran.stdout
    );
}

/// Two files of KUBECONFIG make one configuration; a missing one is passed over.
#[test]
fn configurations_are_found_and_refused_in_words() {
    let server = Server::start();
    server.create(GUIDE);
    let folder = server.folder.path();
    let text = fs::read_to_string(&server.kubeconfig).unwrap();
    let both = folder.join("contexts");
    fs::write(
        &both,
        "apiVersion: v1\nkind: Config\ncontexts: [{name: spare, context: {cluster: c, user: u}}]\n",
    )
    .unwrap();
    let joined = format!(
        "{}:/does/not/exist:{}",
        both.display(),
        server.kubeconfig.display()
    );
    let get = ["get", "pg", "-n", "demo", "-o", "name"];
    let ran = server.kubedb_with(&get, "", &[("KUBECONFIG", &joined)]);
    assert_eq!(ran.stdout, "postgres/scheduled-pg\n", "{}", ran.stderr);

    let with = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap().to_owned();
        let ran = server.kubedb_with(&get, "", &[("KUBECONFIG", &path)]);
        assert_eq!((&*ran.stdout, ran.code), ("", Some(1)), "{name}");
        for word in [
            "Kind(",
            "Error {",
            "hyper",
            "Some(",
            "kube::",
            "ServiceError",
        ] {
            assert!(!ran.stderr.contains(word), "{name}: {word}: {}", ran.stderr);
        }
        assert!(ran.stderr.contains("\nhint: "), "{name}: {}", ran.stderr);
        ran.stderr
    };
    let line = |key: &str| {
        text.lines()
            .find(|line| line.contains(key))
            .unwrap()
            .to_owned()
    };
    let token = line("token:");
    let (head, _) = token.split_once("token:").unwrap();
    let said = with(
        "token",
        &text.replace(&token, &format!("{head}token: wrong")),
    );
    assert!(
        said.starts_with("Error from server (Unauthorized): "),
        "{said}"
    );
    let other = Server::start();
    let other = fs::read_to_string(&other.kubeconfig).unwrap();
    let authority = |text: &str| {
        let key = "certificate-authority-data:";
        text.lines()
            .find(|line| line.contains(key))
            .unwrap()
            .to_owned()
    };
    let said = with(
        "authority",
        &text.replace(&authority(&text), &authority(&other)),
    );
    assert!(
        said.starts_with("error: failed to trust the server at https://127.0.0.1:"),
        "{said}"
    );
    assert!(
        said.contains("not the server that wrote this configuration"),
        "{said}"
    );
    let said = with("empty", "");
    assert!(
        said.starts_with("error: failed to use the configuration "),
        "{said}"
    );
    let said = with("broken", "a: [");
    assert!(
        said.starts_with("error: failed to use the configuration "),
        "{said}"
    );
}

/// What was created before the server went away is said, and what was not even sent.
#[test]
fn manifests_in_folders_and_lists_are_created() {
    let server = Server::start();
    server.create(GUIDE);
    let folder = server.folder.path().join("manifests");
    fs::create_dir_all(folder.join("more")).unwrap();
    let map = |name: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: demo}}\n")
    };
    fs::write(
        folder.join("a.yaml"),
        format!("\u{feff}{}", map("a").replace('\n', "\r\n")),
    )
    .unwrap();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "b1", "namespace": "demo" } },
        { "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "b2", "namespace": "demo" } },
    ] });
    fs::write(folder.join("b.json"), list.to_string()).unwrap();
    fs::write(folder.join("more/c.yml"), map("c")).unwrap();
    fs::write(folder.join("notes.txt"), "not a manifest").unwrap();
    let path = folder.to_str().unwrap();
    let single = folder.join("more/c.yml");
    let ran = server.kubedb(&["create", "-f", path, "-f", single.to_str().unwrap()]);
    let expected = format!(
        "validating \"{path}/a.yaml\"\nvalidating \"{path}/b.json\"\nvalidating \"{path}/more/c.yml\"\nconfigmap \"a\" created\nconfigmap \"b1\" created\nconfigmap \"b2\" created\nconfigmap \"c\" created\n"
    );
    assert_eq!(ran.stdout, expected, "{}", ran.stderr);
    let ran = server.kubedb(&["delete", "-R", "-f", path]);
    let expected = "configmap \"a\" deleted\nconfigmap \"b1\" deleted\nconfigmap \"b2\" deleted\nconfigmap \"c\" deleted\n";
    assert_eq!(ran.stdout, expected, "{}", ran.stderr);
}
