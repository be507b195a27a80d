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
    let three = ["a", "b", "c"].map(|name| SECRET.replace("name: s", &format!("name: {name}")));
    let arguments = ["create", "-f", "-", "--kubeconfig", path];
    let ran = kubedb_with_input(&arguments, &three.join("---\n"));
    assert!(ran.stderr.starts_with(&message), "{}", ran.stderr);
    assert!(
        ran.stderr
            .ends_with("\nnot sent: secret \"b\", secret \"c\"\n"),
        "{}",
        ran.stderr
    );
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
            "error: failed to read STDIN, document 2: did not find expected node content at line 6 column 1",
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
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let ran = kubedb(&["create", "-f", &format!("http://{closed}/x.yaml")]);
    let message =
        format!("error: failed to read http://{closed}/x.yaml\n  caused by: Connection refused");
    assert!(ran.stderr.starts_with(&message), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 2, "{}", ran.stderr);
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

/// `| head` is no failure; a full disk is one. Neither is a panic.
#[test]
fn readers_may_leave_and_disks_may_be_full() {
    let run = |arguments: &[&str], stdout: Stdio| {
        let child = Command::new(env!("CARGO_BIN_EXE_kubedb"))
            .args(arguments)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.wait_with_output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    for arguments in [
        &["completion", "bash"][..],
        &["schedule", "next", "@daily", "--count", "1000"],
        &["--help"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = run(arguments, writer.into());
        assert_eq!(ended, (Some(0), String::new()), "{arguments:?}");
    }
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let (code, stderr) = run(&["version"], full.into());
    assert_eq!(code, Some(1));
    assert!(
        stderr.starts_with("error: failed to write to standard output\n"),
        "{stderr}"
    );
}

#[test]
fn near_misses_are_answered_with_what_was_meant() {
    let ran = kubedb(&["get", "postgress"]);
    assert!(
        ran.stderr
            .contains("\nhint: did you mean postgres (pg)? kubedb get --help"),
        "{}",
        ran.stderr
    );
    let ran = kubedb(&["descrbe", "pg"]);
    assert!(ran.stderr.contains("'describe'"), "{}", ran.stderr);
    assert_eq!(ran.code, Some(2));
    let manifest = "apiVersion: kubedb.com/v1\nkind: Postgres\nmetadata: {name: x}\n";
    let ran = kubedb_with_input(&["create", "-f", "-"], manifest);
    assert_eq!(
        ran.stderr,
        "error: failed to read STDIN: object \"x\": kubedb doesn't support a resource type \"Postgres\" of kubedb.com/v1; did you mean \"Postgres\" of kubedb.com/v1alpha1?\n"
    );
}

/// What a reader would take for one thing and the server for another is refused, with its place.
#[test]
fn texts_of_two_meanings_are_refused() {
    let cases = [
        (
            format!("{SECRET}type: a\ntype: b\n"),
            "error: failed to read STDIN: duplicate entry with key \"type\"",
        ),
        (
            format!("{SECRET}---\n{SECRET}---\nkind: [\n"),
            "error: failed to read STDIN, document 3: ",
        ),
        (
            "kind: Secret\n\tapiVersion: v1\n".to_owned(),
            "error: failed to read STDIN: ",
        ),
        (
            "apiVersion: v1\nkind: List\nitems: [1]\n".to_owned(),
            "error: failed to read STDIN: an item of a List that is no object\n",
        ),
    ];
    for (input, message) in cases {
        let ran = kubedb_with_input(&["create", "-f", "-"], &input);
        assert_eq!(
            (&*ran.stdout, ran.code),
            ("validating \"STDIN\"\n", Some(1))
        );
        assert!(ran.stderr.starts_with(message), "{}", ran.stderr);
    }
}

#[test]
fn files_that_are_no_manifests_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    fs::create_dir(folder.path().join("more")).unwrap();
    fs::write(folder.path().join("more/a.yaml"), [0x41, 0xff]).unwrap();
    let ran = kubedb(&["create", "-f", path]);
    let message = format!(
        "error: no manifests in {path}: files that end in .json, .yaml or .yml are read; --recursive reads folders within it too\n"
    );
    assert_eq!((ran.stderr, ran.code), (message, Some(1)));
    let ran = kubedb(&["create", "-R", "-f", path]);
    let message = format!(
        "error: failed to read {path}/more/a.yaml: it is no text in UTF-8, from byte 2 on\n"
    );
    assert_eq!(ran.stderr, message);
}

#[test]
fn a_schedule_may_begin_with_a_sign() {
    let ran = kubedb(&["schedule", "next", "-1 * * * *", "--count", "2"]);
    assert_eq!(ran.code, Some(2));
    assert!(
        ran.stderr
            .starts_with("error: failed to read schedule \"-1 * * * *\": minute \"-1\""),
        "{}",
        ran.stderr
    );
    let times = kubedb(&["schedule", "next", "--count", "2", "@daily"]).stdout;
    assert_eq!(times.lines().count(), 2);
}

/// `kubectl kubedb` finds a program called kubectl-kubedb; help then says what users of it type.
#[test]
fn as_a_plugin_it_is_called_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = folder.path().join("kubectl-kubedb");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_kubedb"), &plugin).unwrap();
    let help = |program: &std::path::Path, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let text = help(&plugin, &["get", "--help"]);
    assert!(text.contains("Usage: kubectl kubedb get "), "{text}");
    let text = help(
        std::path::Path::new(env!("CARGO_BIN_EXE_kubedb")),
        &["get", "--help"],
    );
    assert!(text.contains("Usage: kubedb get "), "{text}");
}

/// Loads each script into its shell; what is not installed is said.
#[test]
fn completions_load_and_complete_types() {
    let folder = tempfile::tempdir().unwrap();
    for (shell, probe, wanted) in [
        (
            "bash",
            "source \"$0\"; COMP_WORDS=(kubedb get postg); COMP_CWORD=2; _kubedb kubedb postg get; printf '%s\\n' \"${COMPREPLY[@]}\"",
            "postgreses",
        ),
        (
            "zsh",
            "autoload -U compinit; compinit -u -D; source \"$0\"; functions _kubedb",
            "postgreses",
        ),
        (
            "fish",
            "source $argv[1]; complete -C 'kubedb get postg'",
            "postgreses",
        ),
    ] {
        let script = folder.path().join(shell);
        fs::write(&script, kubedb(&["completion", shell]).stdout).unwrap();
        let ran = Command::new(shell)
            .arg("-c")
            .arg(probe)
            .arg(&script)
            .output();
        let Ok(ran) = ran else {
            eprintln!("NOT TESTED: {shell} is not installed");
            continue;
        };
        let stdout = String::from_utf8(ran.stdout).unwrap();
        let stderr = String::from_utf8(ran.stderr).unwrap();
        assert!(stdout.contains(wanted), "{shell}: {stdout}{stderr}");
        assert_eq!(stderr, "", "{shell}");
    }
}

/// Every line that a page shows behind `$ kubedb`, or as a command of its own, is one that the program understands.
#[test]
fn documented_commands_are_understood() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = 0;
    let pages = [
        "README.md",
        "docs/reference/schedule.md",
        "docs/reference/postgresql.md",
        "docs/reference/cli.md",
    ];
    let guides = fs::read_dir(root.join("docs/guides")).unwrap();
    let guides = guides.map(|guide| guide.unwrap().path());
    for page in pages.map(|page| root.join(page)).into_iter().chain(guides) {
        let text = fs::read_to_string(&page).unwrap();
        let page = page.display();
        for line in text.lines() {
            let line = line.trim_start().trim_start_matches("$ ");
            let line = line.split("   ").next().unwrap();
            // A form of usage, such as `kubedb server <COMMAND>`, is nothing to type.
            let is_form = line.contains('<');
            let goes_on = line.matches('\'').count() % 2 == 1;
            if !line.starts_with("kubedb ") || is_form || goes_on {
                continue;
            }
            found += 1;
            // Help is printed only once everything before it was understood.
            let (command, arguments) = line.split_once(" -- ").unwrap_or((line, ""));
            let command = match command.split_once(" > ") {
                Some((before, _)) if before.matches('\'').count() % 2 == 0 => before,
                _ => command,
            };
            let script = command.replacen("kubedb ", "\"$0\" ", 1) + " --help";
            let ran = Command::new("sh")
                .args(["-c", &script, env!("CARGO_BIN_EXE_kubedb")])
                .output()
                .unwrap();
            let stderr = String::from_utf8(ran.stderr).unwrap();
            assert_eq!(ran.status.code(), Some(0), "{page}: {line}: {stderr}");
            assert!(
                arguments.is_empty() || command.contains("connect"),
                "{line}"
            );
        }
    }
    assert!(found > 30, "only {found} commands were found");
}
