//! What the command line says before any server is asked.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    process::{Command, Stdio},
    thread,
};

struct Ran {
    stdout: String,
    stderr: String,
    code: Option<i32>,
}

/// Runs in a home where no server was ever configured.
fn kubedb_with_input(arguments: &[&str], input: &str) -> Ran {
    let home = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_kubedb"))
        .args(arguments)
        .env("HOME", home.path())
        .env("KUBECONFIG", home.path().join("nothing"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that ends without reading closes the pipe.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Ran {
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        code: output.status.code(),
    }
}

fn kubedb(arguments: &[&str]) -> Ran {
    kubedb_with_input(arguments, "")
}

#[test]
fn typing_errors_end_with_two() {
    let cases: &[(&[&str], &str)] = &[
        (
            &["get", "mongo"],
            "error: kubedb doesn't support a resource type \"mongo\"\n",
        ),
        (&["get"], "error: Required resource not specified.\n"),
        (
            &["get", "pg", "-o", "jpeg"],
            "error: output format \"jpeg\" not recognized",
        ),
        (
            &["get", "pg", "x", "-l", "a=b"],
            "error: name cannot be provided when a selector is specified",
        ),
        (
            &["get", "pg,snap", "-w"],
            "error: you may only specify a single resource type to watch",
        ),
        (
            &["edit", "snap", "x"],
            "error: resource type \"snap\" doesn't support edit operation",
        ),
        (&["describe"], "error: Required resource not specified.\n"),
        (
            &["delete", "pg"],
            "error: resource(s) were provided, but no name",
        ),
        (
            &["delete", "pg", "x", "--timeout", "soon"],
            "error: invalid value 'soon'",
        ),
        (
            &["connect", "snap", "x"],
            "error: resource type \"snap\" doesn't support connect operation",
        ),
        (&["create"], "Create objects from manifests"),
        (
            &["connect", "pg", "x", "--show-password"],
            "error: the following required arguments",
        ),
    ];
    for (arguments, message) in cases {
        let ran = kubedb(arguments);
        assert_eq!(ran.code, Some(2), "{arguments:?}: {}", ran.stderr);
        assert!(
            ran.stderr.starts_with(message),
            "{arguments:?}: {}",
            ran.stderr
        );
        assert_eq!(ran.stdout, "", "{arguments:?}");
    }
}

#[test]
fn a_missing_server_is_named_with_what_to_run() {
    for arguments in [
        &["get", "pg"][..],
        &["describe", "pg"],
        &["connect", "pg", "x"],
    ] {
        let ran = kubedb(arguments);
        assert_eq!(ran.code, Some(1));
        assert!(
            ran.stderr
                .starts_with("error: failed to find a server: no configuration at "),
            "{}",
            ran.stderr
        );
        assert!(
            ran.stderr.contains("nothing (KUBECONFIG)"),
            "{}",
            ran.stderr
        );
        assert!(
            ran.stderr.contains("\nhint: kubedb server"),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn a_server_that_is_down_is_named_with_its_address() {
    // Bound and closed: nobody listens there now.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{{name: a, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: \"http://127.0.0.1:{port}\"}}}}]\nusers: [{{name: u, user: {{}}}}]\n"
    );
    fs::write(&kubeconfig, text).unwrap();
    let path = kubeconfig.to_str().unwrap();
    let ran = kubedb(&["get", "pg", "--kubeconfig", path]);
    assert_eq!(ran.code, Some(1));
    let message = format!("error: failed to reach the server at http://127.0.0.1:{port}/\n");
    assert!(ran.stderr.starts_with(&message), "{}", ran.stderr);
    assert!(ran.stderr.contains("caused by: "), "{}", ran.stderr);
    let ran = kubedb(&["--context", "other", "get", "pg", "--kubeconfig", path]);
    assert!(
        ran.stderr
            .starts_with(&format!("error: failed to use the configuration {path}\n")),
        "{}",
        ran.stderr
    );
    let ran = kubedb(&["get", "pg", "--kubeconfig", "/does/not/exist"]);
    assert!(
        ran.stderr
            .starts_with("error: failed to use the configuration /does/not/exist\n"),
        "{}",
        ran.stderr
    );
}

const SECRET: &str = "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: demo}\n";

#[test]
fn manifests_are_refused_before_anything_is_sent() {
    let dormant = "apiVersion: kubedb.com/v1alpha1\nkind: DormantDatabase\nmetadata: {name: d}\n";
    let cases = [
        (
            dormant.to_owned(),
            "error: resource type \"DormantDatabase\" doesn't support create operation\n",
        ),
        (String::new(), "error: no objects passed to create\n"),
        (
            format!("{SECRET}---\nkind: [\n"),
            "error: failed to read STDIN\n",
        ),
        (
            SECRET.to_owned(),
            "error: the namespace from the provided object \"demo\" does not match the namespace \"x\". You must pass '--namespace=demo' to perform this operation.\n",
        ),
    ];
    for (input, message) in cases {
        let ran = kubedb_with_input(&["create", "-n", "x", "-f", "-"], &input);
        assert_eq!(ran.code, Some(1));
        assert_eq!(ran.stdout, "validating \"STDIN\"\n");
        assert!(ran.stderr.starts_with(message), "{}", ran.stderr);
    }
    let ran = kubedb(&["create", "-f", "/does/not/exist.yaml"]);
    assert_eq!(
        ran.stderr,
        "error: the path \"/does/not/exist.yaml\" does not exist\n"
    );
}

/// Answers requests as their paths ask, until the test ends.
fn web_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            reader.read_line(&mut line).unwrap();
            let mut header = String::from("-");
            while !header.trim().is_empty() {
                header.clear();
                reader.read_line(&mut header).unwrap();
            }
            let path = line.split(' ').nth(1).unwrap().to_owned();
            let (head, body) = match path.as_str() {
                "/secret.yaml" => ("200 OK", SECRET.to_owned()),
                "/moved" => ("302 Found\r\nLocation: /secret.yaml", String::new()),
                "/loop" => ("302 Found\r\nLocation: /loop", String::new()),
                "/big" => ("200 OK", "a".repeat((4 << 20) + 1)),
                _ => ("404 Not Found", String::new()),
            };
            let _ = write!(
                stream,
                "HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        }
    });
    address
}

#[test]
fn manifests_come_from_the_web() {
    let web = web_server();
    let create = |path: &str| kubedb(&["create", "-n", "x", "-f", &format!("{web}{path}")]);
    for path in ["/secret.yaml", "/moved"] {
        let ran = create(path);
        assert_eq!(ran.stdout, format!("validating \"{web}{path}\"\n"));
        assert!(
            ran.stderr.contains("provided object \"demo\""),
            "{}",
            ran.stderr
        );
    }
    let ran = create("/gone");
    assert!(
        ran.stderr
            .contains("server reported 404 Not Found, status code=404"),
        "{}",
        ran.stderr
    );
    let ran = create("/big");
    assert!(
        ran.stderr.contains("larger than 4194304 bytes"),
        "{}",
        ran.stderr
    );
    let ran = create("/loop");
    assert!(ran.stderr.contains("redirect"), "{}", ran.stderr);
    assert_eq!(ran.code, Some(1));
}

#[test]
fn scripts_for_shells_and_the_version_need_nothing() {
    assert_eq!(
        kubedb(&["version", "--short"]).stdout,
        concat!(env!("CARGO_PKG_VERSION"), "\n")
    );
    assert_eq!(
        kubedb(&["version"]).stdout,
        concat!("kubedb ", env!("CARGO_PKG_VERSION"), "\n")
    );
    assert!(kubedb(&["completion", "bash"]).stdout.contains("describe"));
}
