//! Processes of `kubedb server`: killed, stopped, adopted, never orphaned.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    net::TcpListener,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use kubedb_e2e::{
    kubedb::{Server, binary, run},
    machine::{Machine, words},
    process::{Running, signal},
    wait::eventually,
};

const SOON: Duration = Duration::from_secs(60);

fn create(server: &Server, replicas: u32) {
    let manifest = format!(
        "apiVersion: kubedb.com/v1alpha1\nkind: Postgres\nmetadata: {{name: pg}}\nspec:\n  version: \"15\"\n  replicas: {replicas}\n  standbyMode: hot\n  storage: {{resources: {{requests: {{storage: 50Mi}}}}}}\n"
    );
    let created = server.kubedb(&["create", "-f", "-"], &manifest).unwrap();
    assert_eq!(created.code, 0, "{}", created.stderr);
}

/// Waits until the status says that the sessions of `replicas` agents, none of them in `before`, are ready.
#[track_caller]
fn ready(server: &Server, replicas: i64, before: &[String]) {
    eventually("a ready database", SOON, || {
        let object = server.object("pg", "pg", "default")?;
        let status = &object["status"];
        let is_new = sessions(&object)
            .iter()
            .all(|session| !before.contains(session));
        // The count is the operator's and follows the agents' own reports.
        let instances = status["instances"].as_object().cloned().unwrap_or_default();
        let are_ready = instances.values().all(|instance| instance["ready"] == true);
        if status["phase"] == "Running"
            && status["readyReplicas"] == replicas
            && is_new
            && are_ready
        {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
}

fn sessions(object: &serde_json::Value) -> Vec<String> {
    let instances = object["status"]["instances"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    instances
        .values()
        .filter_map(|instance| Some(instance["session"].as_str()?.to_owned()))
        .collect()
}

fn sql(server: &Server, statement: &str) -> Result<String, String> {
    let ran = server
        .kubedb(&["connect", "pg", "pg", "--", "-Atc", statement], "")
        .map_err(|error| error.to_string())?;
    if ran.code == 0 {
        Ok(ran.stdout.trim().to_owned())
    } else {
        Err(ran.stderr)
    }
}

fn kill(ids: &[u32]) {
    for id in ids {
        signal(*id, libc::SIGKILL);
    }
}

#[track_caller]
fn wait_until_gone(ids: &[u32]) {
    eventually("end of what was killed", SOON, || {
        let left: Vec<_> = ids.iter().filter(|id| !words(**id).is_empty()).collect();
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    });
}

#[test]
fn whatever_is_killed_the_next_server_takes_over_what_lives() {
    let machine = Machine::new().unwrap();
    let mut server = machine.start().unwrap();
    create(&server, 2);
    ready(&server, 2, &[]);
    sql(&server, "CREATE TABLE t AS SELECT 42 AS n").unwrap();
    let (agents, postmasters) = (machine.agents(), machine.postmasters());
    assert_eq!((agents.len(), postmasters.len()), (2, 2));

    // The server alone: nothing else notices.
    let begun = sql(&server, "SELECT pg_postmaster_start_time()").unwrap();
    server.kill_and_restart().unwrap();
    eventually("rows through the new server", SOON, || {
        sql(&server, "SELECT n FROM t")
    });
    assert_eq!(
        (machine.agents(), machine.postmasters()),
        (agents.clone(), postmasters.clone())
    );

    // The server and its agents: new agents take over the same postmasters.
    let before = sessions(&server.object("pg", "pg", "default").unwrap());
    server.kill();
    kill(&agents);
    wait_until_gone(&agents);
    server.kill_and_restart().unwrap();
    ready(&server, 2, &before);
    assert_eq!(machine.postmasters(), postmasters);
    assert_eq!(
        sql(&server, "SELECT pg_postmaster_start_time()").unwrap(),
        begun
    );

    // Everything, and then the machine gives the old numbers to others, as after a power cut.
    let before = sessions(&server.object("pg", "pg", "default").unwrap());
    server.kill();
    let all = machine.instances();
    kill(&all);
    wait_until_gone(&all);
    let mut stranger = Running::start(Command::new("sleep").arg("300")).unwrap();
    for instance in ["pg-0", "pg-1"] {
        let file = postmaster_file(&machine, instance);
        let text = fs::read_to_string(&file).unwrap();
        let (_, rest) = text.split_once('\n').unwrap();
        fs::write(&file, format!("{}\n{rest}", stranger.id())).unwrap();
    }
    server.kill_and_restart().unwrap();
    ready(&server, 2, &before);
    assert_eq!(sql(&server, "SELECT n FROM t").unwrap(), "42");
    assert_eq!(
        words(stranger.id()),
        ["sleep", "300"],
        "a stranger was signalled"
    );
    stranger.kill();
    assert!(server.stop());
    machine.wait_until_quiet(Duration::ZERO);
}

fn postmaster_file(machine: &Machine, instance: &str) -> std::path::PathBuf {
    let namespace = machine.data().join("databases/default");
    let database = fs::read_dir(namespace).unwrap().next().unwrap().unwrap();
    database.path().join(instance).join("data/postmaster.pid")
}

/// A moment later each round, until a round ends before its moment comes: so the moments cover the whole of what is done.
fn at_each_moment(step: Duration, mut round: impl FnMut(Duration) -> bool) {
    for number in 0..40 {
        if !round(step * number) {
            return;
        }
    }
}

#[test]
fn a_deletion_that_a_kill_cuts_short_ends_with_nothing_running() {
    let machine = Machine::new().unwrap();
    let mut server = machine.start().unwrap();
    at_each_moment(Duration::from_millis(150), |moment| {
        create(&server, 1);
        ready(&server, 1, &[]);
        let begun = Instant::now();
        let deletion = thread::spawn({
            let kubeconfig = server.kubeconfig().to_owned();
            move || {
                let mut command = Command::new(binary());
                command
                    .args(["delete", "pg", "pg"])
                    .env("KUBECONFIG", kubeconfig);
                let _ = run(&mut command, "");
                begun.elapsed()
            }
        });
        thread::sleep(moment);
        server.kill_and_restart().unwrap();
        let took = deletion.join().unwrap();
        eventually("end of the object", SOON, || {
            let ran = server
                .kubedb(&["delete", "pg", "pg"], "")
                .map_err(|e| e.to_string())?;
            if ran.stderr.contains("NotFound") {
                Ok(())
            } else {
                Err(ran.stderr)
            }
        });
        machine.wait_until_quiet(SOON);
        took > moment
    });
}

#[test]
fn scaling_down_that_a_kill_cuts_short_is_finished_by_the_next_server() {
    let machine = Machine::new().unwrap();
    let mut server = machine.start().unwrap();
    create(&server, 1);
    ready(&server, 1, &[]);
    for moment in [0, 30, 100, 300, 900].map(Duration::from_millis) {
        scale(&server, &machine, 2);
        ready(&server, 2, &[]);
        scale(&server, &machine, 1);
        thread::sleep(moment);
        server.kill_and_restart().unwrap();
        ready(&server, 1, &[]);
        eventually("only the first instance", SOON, || {
            let database = fs::read_dir(machine.data().join("databases/default"))
                .unwrap()
                .next();
            let mut names: Vec<_> = fs::read_dir(database.unwrap().unwrap().path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            let running = (machine.agents().len(), machine.postmasters().len());
            if names == ["agents", "pg-0", "platform.json"] && running == (1, 1) {
                Ok(())
            } else {
                Err(format!("{names:?} {running:?}"))
            }
        });
    }
    assert!(server.stop());
}

#[test]
fn a_server_that_is_ended_while_it_takes_over_leaves_nothing_running() {
    let machine = Machine::new().unwrap();
    let mut server = machine.start().unwrap();
    create(&server, 2);
    ready(&server, 2, &[]);
    for moment in [0, 30, 100, 300, 900].map(Duration::from_millis) {
        let before = sessions(&server.object("pg", "pg", "default").unwrap());
        server.kill();
        let left = machine.instances();
        assert!(left.len() >= 4, "{left:?}");
        server.kill_and_restart().unwrap();
        thread::sleep(moment);
        assert!(server.stop());
        // Told by the system, not by the server: nothing that its predecessor started lives on.
        machine.wait_until_quiet(Duration::ZERO);
        let log = machine.server_log("pg-0");
        assert!(!log.contains("immediate shutdown"), "{log}");
        server = machine.start().unwrap();
        ready(&server, 2, &before);
    }
    assert!(server.stop());
}

fn scale(server: &Server, machine: &Machine, replicas: u32) {
    let editor = machine.scratch().join("editor");
    let script = format!("#!/bin/sh\nsed -i 's/replicas: [0-9]*/replicas: {replicas}/' \"$1\"\n");
    fs::write(&editor, script).unwrap();
    fs::set_permissions(&editor, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let ran = server.kubedb_edit(&["edit", "pg", "pg"], &editor).unwrap();
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

/// A server in a process group of its own, as a terminal has one in front.
fn in_front(machine: &Machine) -> (Running, String) {
    let running = Running::start(
        Command::new(binary())
            .args(["server", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(machine.data())
            .process_group(0),
    )
    .unwrap();
    let kubeconfig = running.wait_for_line("kubeconfig: ", SOON).unwrap();
    (running, kubeconfig)
}

/// What a terminal does with Ctrl-C.
fn interrupt(group: u32) {
    let sent = Command::new("kill")
        .args(["-INT", "--", &format!("-{group}")])
        .status()
        .unwrap();
    assert!(sent.success());
}

fn kubedb(kubeconfig: &str, arguments: &[&str], stdin: &str) -> kubedb_e2e::kubedb::Ran {
    run(
        Command::new(binary())
            .args(arguments)
            .env("KUBECONFIG", kubeconfig),
        stdin,
    )
    .unwrap()
}

#[test]
fn ctrl_c_stops_everything_cleanly_also_in_the_middle_of_a_start() {
    let machine = Machine::new().unwrap();
    let manifest = |name: &str| {
        format!(
            "apiVersion: kubedb.com/v1alpha1\nkind: Postgres\nmetadata: {{name: {name}}}\nspec: {{version: \"15\", replicas: 2, standbyMode: hot, storage: {{resources: {{requests: {{storage: 50Mi}}}}}}}}\n"
        )
    };
    for (round, pause) in [0, 300, 900, 2_000].into_iter().enumerate() {
        let (mut running, kubeconfig) = in_front(&machine);
        let created = kubedb(
            &kubeconfig,
            &["create", "-f", "-"],
            &manifest(&format!("pg{round}")),
        );
        assert_eq!(created.code, 0, "{}", created.stderr);
        thread::sleep(Duration::from_millis(pause));
        interrupt(running.id());
        assert_eq!(exit_code(&mut running), Some(0));
        machine.wait_until_quiet(Duration::ZERO);
    }
    let server = machine.start().unwrap();
    for round in 0..4 {
        eventually("a database whose start was cut short", SOON, || {
            let object = server.object("pg", &format!("pg{round}"), "default")?;
            let status = &object["status"];
            if status["phase"] == "Running" && status["readyReplicas"] == 2 {
                Ok(())
            } else {
                Err(status.to_string())
            }
        });
    }
}

fn exit_code(running: &mut Running) -> Option<i32> {
    eventually("end of the server", SOON, || {
        running.ended().ok_or_else(|| "it runs".to_owned())
    })
    .code()
}

#[test]
fn a_second_ctrl_c_leaves_the_instances_to_their_own_shutdown() {
    let machine = Machine::new().unwrap();
    let (mut running, kubeconfig) = in_front(&machine);
    let server = Server::start(&binary(), machine.data(), &[]);
    assert!(server.is_err(), "a second server on the same folder");
    let created = kubedb(
        &kubeconfig,
        &["create", "-f", "-"],
        "{apiVersion: kubedb.com/v1alpha1, kind: Postgres, metadata: {name: pg}, spec: {version: '15', storage: {resources: {requests: {storage: 50Mi}}}}}",
    );
    assert_eq!(created.code, 0, "{}", created.stderr);
    let agents = eventually("an agent", SOON, || match machine.agents() {
        agents if agents.len() == 1 && machine.postmasters().len() == 1 => Ok(agents),
        agents => Err(format!("{agents:?}")),
    });
    // An agent that cannot answer holds up the stop.
    signal(agents[0], libc::SIGSTOP);
    interrupt(running.id());
    thread::sleep(Duration::from_millis(500));
    assert_eq!(running.ended(), None);
    interrupt(running.id());
    assert_eq!(exit_code(&mut running), Some(130));
    // The kernel wakes the agent once it is an orphan; it was asked already, and stops PostgreSQL as it should.
    machine.wait_until_quiet(SOON);
    let log = machine.server_log("pg-0");
    assert!(log.contains("database system is shut down"), "{log}");
}

#[test]
fn ports_are_kept_over_a_restart_and_given_up_when_others_have_them() {
    let machine = Machine::new().unwrap();
    let mut server = machine.start().unwrap();
    create(&server, 2);
    ready(&server, 2, &[]);
    sql(&server, "CREATE TABLE t AS SELECT 42 AS n").unwrap();
    let ports = |server: &Server| {
        let status = server.object("pg", "pg", "default").unwrap()["status"].clone();
        [
            status["endpoints"]["primary"].clone(),
            status["endpoints"]["standbys"][0].clone(),
            status["instances"]["pg-0"]["endpoint"].clone(),
            status["instances"]["pg-1"]["endpoint"].clone(),
        ]
        .map(|address| address.as_str().unwrap().to_owned())
    };
    let first = ports(&server);
    let before = sessions(&server.object("pg", "pg", "default").unwrap());
    assert!(server.stop());
    let mut server = machine.start().unwrap();
    ready(&server, 2, &before);
    assert_eq!(ports(&server), first);
    let before = sessions(&server.object("pg", "pg", "default").unwrap());
    assert!(server.stop());
    let _taken: Vec<TcpListener> = first
        .iter()
        .map(|address| TcpListener::bind(address).unwrap())
        .collect();
    let server = machine.start().unwrap();
    ready(&server, 2, &before);
    eventually("the row through other ports", SOON, || {
        if ports(&server).iter().any(|port| first.contains(port)) {
            return Err("a port that others have".to_owned());
        }
        sql(
            &server,
            "SELECT count(*) FROM t JOIN pg_stat_replication ON true",
        )
        .and_then(|found| if found == "1" { Ok(()) } else { Err(found) })
    });
}

#[test]
fn a_damaged_file_is_told_in_the_status_with_what_to_do() {
    let machine = Machine::new().unwrap();
    let mut server = machine.start().unwrap();
    create(&server, 1);
    ready(&server, 1, &[]);
    assert!(server.stop());
    let database = fs::read_dir(machine.data().join("databases/default"))
        .unwrap()
        .next()
        .unwrap();
    let database = database.unwrap().path();
    let file = database.join("platform.json");
    let good = fs::read(&file).unwrap();
    fs::write(&file, &good[..good.len() / 2]).unwrap();
    // This one is written anew whenever its agent is started.
    fs::write(database.join("agents/pg-0/agent.json"), "{").unwrap();
    let server = machine.start().unwrap();
    eventually("the reason", SOON, || {
        let status = server.object("pg", "pg", "default")?["status"].clone();
        let reason = status["reason"].as_str().unwrap_or_default();
        if reason.contains("platform.json") && reason.contains("put it back, or remove it") {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    fs::write(&file, good).unwrap();
    ready(&server, 1, &[]);
}

#[test]
fn every_file_of_the_platform_may_be_the_last_one_before_a_kill() {
    let machine = Machine::new().unwrap();
    let mut server = machine.start().unwrap();
    create(&server, 1);
    ready(&server, 1, &[]);
    let before = sessions(&server.object("pg", "pg", "default").unwrap());
    server.kill();
    let all = machine.instances();
    kill(&all);
    wait_until_gone(&all);
    let files = written(machine.data());
    assert!(
        files.iter().any(|file| file.ends_with("agent.json")),
        "{files:?}"
    );
    for last in 0..=files.len() {
        // What there was when the file after `last` had not been written, and half of that one.
        let copy = Machine::new().unwrap();
        copy_files(machine.data(), copy.data(), &files[..last]);
        if let Some(next) = files.get(last) {
            let half = copy.data().join(next).with_extension("new");
            fs::create_dir_all(half.parent().unwrap()).unwrap();
            fs::write(half, "{\"half").unwrap();
        }
        let mut server = copy.start().unwrap();
        ready(&server, 1, &before);
        assert_eq!(
            (copy.agents().len(), copy.postmasters().len()),
            (1, 1),
            "after {:?}",
            files[..last].last()
        );
        assert!(server.stop());
        copy.wait_until_quiet(Duration::ZERO);
    }
}

/// What the platform wrote for its databases, in the order in which it did, below the data folder.
fn written(data: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![data.join("databases")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            // The instance's own folder is the agent's.
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && (name != "pg-0" || path.parent().unwrap().ends_with("agents")) {
                folders.push(path);
            } else if path.is_file() {
                let time = fs::metadata(&path)
                    .unwrap()
                    .created()
                    .or(fs::metadata(&path).unwrap().modified());
                files.push((time.unwrap(), path.strip_prefix(data).unwrap().to_owned()));
            }
        }
    }
    files.sort();
    files.into_iter().map(|(_, path)| path).collect()
}

/// The API's objects and keys as they are, and these files.
fn copy_files(from: &Path, to: &Path, files: &[std::path::PathBuf]) {
    let api = [
        "api/kubedb.db",
        "api/kubedb.db-wal",
        "ca.crt",
        "ca.key",
        "server.crt",
        "server.key",
        "lock",
    ];
    for file in api
        .iter()
        .map(Path::new)
        .chain(files.iter().map(std::path::PathBuf::as_path))
    {
        let target = to.join(file);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(from.join(file), target).unwrap();
    }
}

#[test]
fn a_start_that_cannot_be_says_why() {
    let machine = Machine::new().unwrap();
    let refused = |arguments: &[&str], words: &[&str]| {
        let mut command = Command::new(binary());
        command.arg("server").args(arguments).stdin(Stdio::null());
        let ran = run(&mut command, "").unwrap();
        assert_eq!(ran.code, 1, "{arguments:?} {}", ran.stderr);
        for word in words {
            assert!(ran.stderr.contains(word), "{}", ran.stderr);
        }
    };
    let data = machine.data().to_str().unwrap();
    let any = ["--data-dir", data, "--listen", "127.0.0.1:0"];
    refused(
        &["--data-dir", data, "--listen", "0.0.0.0:0"],
        &["listens on loopback only"],
    );
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refused(
        &["--data-dir", data, "--listen", &address],
        &["another program does", "--listen 127.0.0.1:0"],
    );
    let scratch = machine.scratch().to_str().unwrap();
    refused(
        &["--data-dir", scratch],
        &["is no data folder of kubedb", "--data-dir"],
    );
    let mut server = machine.start().unwrap();
    refused(
        &any,
        &["another kubedb server (process ", &server.id().to_string()],
    );
    assert!(server.stop());
    fs::write(
        machine.data().join("api/kubedb.db"),
        "no database at all, and long enough to have a header of one",
    )
    .unwrap();
    refused(&any, &["kubedb.db"]);
    machine.wait_until_quiet(Duration::ZERO);
}

#[test]
fn no_secret_is_in_a_command_line_an_environment_or_a_log() {
    let machine = Machine::new().unwrap();
    let server = machine.start().unwrap();
    create(&server, 2);
    ready(&server, 2, &[]);
    let kubeconfig = fs::read_to_string(server.kubeconfig()).unwrap();
    let token = kubeconfig
        .split("token: ")
        .nth(1)
        .unwrap()
        .lines()
        .next()
        .unwrap()
        .to_owned();
    let mut secrets = vec![token];
    for secret in ["pg-auth", "pg-replication"] {
        let data = server.object("secret", secret, "default").unwrap()["data"].clone();
        secrets.extend(
            data.as_object()
                .unwrap()
                .values()
                .map(|value| decode(value.as_str().unwrap())),
        );
    }
    let mut texts = vec![server.id()]
        .into_iter()
        .chain(machine.instances())
        .flat_map(|id| {
            let read = |file: &str| fs::read(format!("/proc/{id}/{file}")).unwrap_or_default();
            [read("cmdline"), read("environ")]
        })
        .collect::<Vec<_>>();
    let database = fs::read_dir(machine.data().join("databases/default"))
        .unwrap()
        .next()
        .unwrap();
    let database = database.unwrap().path();
    for instance in ["pg-0", "pg-1"] {
        texts.push(fs::read(database.join("agents").join(instance).join("agent.log")).unwrap());
        for log in fs::read_dir(database.join(instance).join("log")).unwrap() {
            texts.push(fs::read(log.unwrap().path()).unwrap());
        }
    }
    assert!(texts.iter().map(Vec::len).sum::<usize>() > 1_000);
    for text in &texts {
        let text = String::from_utf8_lossy(text);
        assert!(
            !secrets.iter().any(|secret| text.contains(secret.as_str())),
            "{text}"
        );
    }
}

/// Base64, as a Secret has it.
fn decode(text: &str) -> String {
    let ran = run(Command::new("base64").arg("-d"), text).unwrap();
    assert_eq!(ran.code, 0);
    ran.stdout
}

#[test]
fn others_can_read_nothing_but_programs() {
    use std::os::unix::fs::PermissionsExt as _;
    let machine = Machine::new().unwrap();
    let server = machine.start().unwrap();
    create(&server, 1);
    ready(&server, 1, &[]);
    let mut folders = vec![machine.data().to_owned()];
    let (mut seen, programs) = (0, machine.data().join("bin"));
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            // PostgreSQL's own files come and go.
            let Ok(found) = fs::symlink_metadata(&path) else {
                continue;
            };
            if found.is_symlink() || path.starts_with(&programs) {
                continue;
            }
            seen += 1;
            // A folder may be passed through, no more.
            let allowed = if found.is_dir() { 0o711 } else { 0o700 };
            let mode = found.permissions().mode() & 0o777;
            assert_eq!(mode & !allowed, 0, "{mode:o} {}", path.display());
            if found.is_dir() {
                folders.push(path);
            }
        }
    }
    assert!(seen > 100, "{seen}");
}

/// A server of PostgreSQL that lost its agent and its server of kubedb, of an object that is going away, or gone by force.
#[test]
fn a_postgres_that_nobody_owns_any_more_is_stopped_and_its_data_kept() {
    let machine = Machine::new().unwrap();
    let mut server = machine.start().unwrap();
    for (round, is_forced) in [false, true].into_iter().enumerate() {
        create(&server, 1);
        ready(&server, 1, &[]);
        let kubectl = |arguments: &[&str]| {
            let mut command = Command::new("kubectl");
            command
                .args(arguments)
                .env("KUBECONFIG", server.kubeconfig());
            let ran = run(&mut command, "").unwrap();
            assert_eq!(ran.code, 0, "{}", ran.stderr);
        };
        let agents = machine.agents();
        assert_eq!(agents.len(), 1);
        // An agent that cannot answer holds up the deletion.
        signal(agents[0], libc::SIGSTOP);
        kubectl(&["delete", "pg", "pg", "--wait=false"]);
        if is_forced {
            let none = r#"{"metadata":{"finalizers":null}}"#;
            kubectl(&["patch", "pg", "pg", "--type=merge", "-p", none]);
            let gone = server.object("pg", "pg", "default");
            assert!(gone.is_err_and(|error| error.contains("NotFound")));
        }
        // Both at once: a dying server wakes a stopped agent.
        kill(&[server.id(), agents[0]]);
        wait_until_gone(&agents);
        assert_eq!(machine.postmasters().len(), 1, "it must be alone by now");
        server.kill_and_restart().unwrap();
        machine.wait_until_quiet(SOON);
        eventually("end of the object", SOON, || {
            match server.object("pg", "pg", "default") {
                Err(error) if error.contains("NotFound") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        let kept = fs::read_dir(machine.data().join("databases/default"))
            .unwrap()
            .filter(|folder| {
                let data = folder.as_ref().unwrap().path().join("pg-0/data");
                // Stopped as it should be, not killed.
                data.join("PG_VERSION").exists() && !data.join("postmaster.pid").exists()
            })
            .count();
        assert_eq!(kept, round + 1);
        // The next one is another database, and has a folder of its own.
        let record = ["delete", "drmn", "pg", "--ignore-not-found"];
        let deleted = server.kubedb(&record, "").unwrap();
        assert_eq!(deleted.code, 0, "{}", deleted.stderr);
    }
}
