//! Metrics of databases, their agents and the server, as a Prometheus reads them.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use kubedb_e2e::{
    kubedb::scratch,
    metrics::{Told, one, port_of, scrape_at, unanswered},
    process::{Running, signal},
    stores::{cache, free_port, get},
    wait::eventually,
    world::{World, postgres, snapshot},
};
use serde_json::Value;

const STOP: i32 = 19;
const CONTINUE: i32 = 18;

const BUILTIN: &str = "  monitor:\n    agent: prometheus.io/builtin\n";
const ARCHIVER: &str = "  archiver:\n    storage:\n      storageSecretName: gcs-secret\n      gcs:\n        bucket: kubedb\n";

fn at_port(port: u16) -> String {
    format!("{BUILTIN}    prometheus:\n      port: {port}\n")
}

/// A world whose server tells its metrics at this port.
fn measured() -> (World, u16) {
    let port = free_port().unwrap();
    let address = format!("127.0.0.1:{port}");
    let world = World::with(scratch().unwrap(), &[("KUBEDB_METRICS", &address)]);
    (world, port)
}

fn scrape(port: u16) -> Told {
    scrape_at(port, "/metrics").unwrap().1
}

fn becomes(port: u16, name: &str, labels: &str, within: u64, is: impl Fn(f64) -> bool) -> f64 {
    let what = format!("{name}{{{labels}}}");
    eventually(&what, Duration::from_secs(within), || {
        let told = scrape_at(port, "/metrics")?.1;
        let found = one(&told, name, labels);
        found
            .filter(|found| is(*found))
            .ok_or_else(|| format!("{found:?}"))
    })
}

fn condition(world: &World, database: &str, type_: &str) -> Result<Value, String> {
    let object = world.server.object("pg", database, "demo")?;
    let conditions = object["status"]["conditions"].as_array().cloned();
    let mut conditions = conditions.unwrap_or_default().into_iter();
    let found = conditions.find(|condition| condition["type"] == type_);
    found.ok_or_else(|| object["status"].to_string())
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Names that the reference has.
fn documented() -> BTreeSet<String> {
    let page = fs::read_to_string(repository().join("docs/reference/metrics.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split('`').next())
        .map(str::to_owned)
        .collect()
}

/// Names of the families of a text.
fn families(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .filter_map(|rest| rest.split(' ').next())
        .map(str::to_owned)
        .collect()
}

fn promtool(arguments: &[&str], stdin: &str) -> (Option<i32>, String) {
    use std::io::Write as _;
    let mut child = Command::new(cache("prometheus/usr/bin/promtool"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool; `cargo xtask tools` installs it");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(stdin.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code(), said.into_owned())
}

/// Prometheus' own reader takes the text, and has nothing against it but the names, which are those of postgres_exporter.
fn is_read(text: &str) {
    let (code, said) = promtool(&["check", "metrics"], text);
    assert!(matches!(code, Some(0 | 3)), "{code:?}: {said}");
    let style = ["metrics should have", "metrics should not have"];
    for line in said.lines().filter(|line| !line.is_empty()) {
        let is_style = style.iter().any(|style| line.contains(style));
        assert!(is_style && line.starts_with("pg_"), "{line}");
    }
}

#[test]
fn databases_of_the_first_and_of_a_later_major_are_told_of() {
    let (world, server) = measured();
    let asked = free_port().unwrap();
    world.create(&postgres("old", "9.6", 1, BUILTIN));
    world.create(&postgres("pg", "15", 1, &at_port(asked)));
    world.create(&postgres("quiet", "15", 1, ""));
    for database in ["old", "pg", "quiet"] {
        world.status("pg", database, "Running", 180);
    }
    assert_eq!(port_of(&world, "pg", 0), asked);
    let known = documented();
    let mut exposed = BTreeSet::new();
    for (database, dates) in [("old", "9.6."), ("pg", "15.")] {
        let port = port_of(&world, database, 0);
        let path = format!("/kubedb.com/v1alpha1/namespaces/demo/postgreses/{database}/metrics");
        for path in ["/metrics", &path, &format!("{path}?pod=10.0.0.1")] {
            let (text, told) = scrape_at(port, path).unwrap();
            assert_eq!(one(&told, "pg_up", ""), Some(1.0), "{text}");
        }
        assert!(
            scrape_at(
                port,
                "/kubedb.com/v1alpha1/namespaces/demo/postgreses/other/metrics"
            )
            .is_err()
        );
        let (text, told) = scrape_at(port, "/metrics").unwrap();
        is_read(&text);
        assert!(unanswered(&told).is_empty(), "{text}");
        for (name, labels) in [
            ("pg_static", format!("short_version=\"{dates}")),
            ("kubedb_instance_role", "role=\"primary\"".to_owned()),
            ("kubedb_instance_ready", String::new()),
            ("kubedb_database_phase", "phase=\"Running\"".to_owned()),
            (
                "kubedb_database_ready_replicas",
                format!("database=\"{database}\""),
            ),
        ] {
            assert_eq!(
                one(&told, name, &labels),
                Some(1.0),
                "{name} {labels}\n{text}"
            );
        }
        for (name, labels) in [
            ("pg_stat_database_numbackends", "datname=\"postgres\""),
            ("pg_database_size_bytes", "datname=\"postgres\""),
            ("pg_settings_max_connections", ""),
            ("pg_settings_shared_buffers_bytes", ""),
            ("pg_postmaster_start_time_seconds", ""),
            (
                "pg_stat_activity_count",
                "datname=\"postgres\",state=\"idle\"",
            ),
            ("pg_stat_bgwriter_stats_reset_total", ""),
            (
                "pg_database_wraparound_age_datfrozenxid_seconds",
                "datname=\"postgres\"",
            ),
            ("kubedb_volume_free_bytes", "instance=\""),
            ("kubedb_instance_lsn_bytes", ""),
        ] {
            let found = one(&told, name, labels);
            assert!(
                found.is_some_and(|found| found > 0.0),
                "{name} {labels} {found:?}\n{text}"
            );
        }
        // What sessions do is seen with the rights of the monitoring role, from 10 on, and no password was asked for.
        assert!(one(&told, "pg_locks_count", "mode=\"accesssharelock\"").is_some());
        let names = families(&text);
        let foreign: Vec<&String> = names
            .iter()
            .filter(|name| !known.contains(*name) && !name.starts_with("pg_settings_"))
            .collect();
        assert!(foreign.is_empty(), "{foreign:?}");
        exposed.extend(names);
        becomes(port, "kubedb_instance_data_bytes", "", 30, |bytes| {
            bytes > 1e6
        });
    }
    // Nobody asked for it, so nobody listens.
    let quiet = world.server.object("pg", "quiet", "demo").unwrap();
    assert_eq!(
        quiet["status"]["instances"]["quiet-0"]["metrics"],
        Value::Null
    );
    assert!(condition(&world, "quiet", "Monitored").is_err());

    let commits = |told: &Told| {
        one(
            told,
            "pg_stat_database_tup_inserted",
            "datname=\"postgres\"",
        )
        .unwrap()
    };
    let before = commits(&scrape(asked));
    world
        .sql(
            "pg",
            "CREATE TABLE t AS SELECT generate_series(1, 5000) AS n",
        )
        .unwrap();
    becomes(
        asked,
        "pg_stat_database_tup_inserted",
        "datname=\"postgres\"",
        30,
        |now| now >= before + 5_000.0,
    );

    world.create(&snapshot("one", "pg"));
    world.status("snap", "one", "Succeeded", 120);
    for port in [asked, server] {
        let own = "namespace=\"demo\",database=\"pg\"";
        becomes(
            port,
            "kubedb_snapshots",
            &format!("{own},phase=\"Succeeded\""),
            30,
            |count| count == 1.0,
        );
        let told = scrape(port);
        let ended = one(&told, "kubedb_snapshot_last_success_timestamp_seconds", own).unwrap();
        let now = jiff_now();
        assert!((0.0..120.0).contains(&(now - ended)), "{ended} {now}");
        let bytes = one(&told, "kubedb_snapshot_last_stored_bytes", own).unwrap();
        assert!(bytes > 1e6, "{bytes}");
        assert_eq!(one(&told, "kubedb_snapshot_last_succeeded", own), Some(1.0));
    }
    let (text, told) = scrape_at(server, "/metrics").unwrap();
    is_read(&text);
    let foreign: Vec<String> = families(&text)
        .into_iter()
        .filter(|name| !known.contains(name))
        .collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    exposed.extend(families(&text));
    assert_eq!(one(&told, "kubedb_operator_leader", ""), Some(1.0));
    assert_eq!(
        one(&told, "kubedb_operator_objects", "kind=\"Postgres\""),
        Some(3.0)
    );
    for (name, labels) in [
        (
            "kubedb_operator_reconciles_total",
            "controller=\"Snapshot\",result=\"success\"",
        ),
        (
            "kubedb_operator_api_requests_total",
            "verb=\"patch\",resource=\"postgreses\",code=\"200\"",
        ),
        (
            "kubedb_operator_reconcile_duration_seconds_count",
            "controller=\"Postgres\"",
        ),
        ("process_resident_memory_bytes", ""),
    ] {
        assert!(
            one(&told, name, labels).is_some_and(|count| count > 0.0),
            "{name}\n{text}"
        );
    }
    // Also a database that nobody scrapes is told of by the server.
    assert!(
        one(
            &told,
            "kubedb_database_phase",
            "database=\"quiet\",phase=\"Running\""
        ) == Some(1.0)
    );
    rules_ask_for(&exposed);

    let described = world.run(&["describe", "pg", "pg", "-n", "demo"], "");
    for wanted in [
        "Monitoring System:",
        "prometheus.io/builtin",
        &format!("http://127.0.0.1:{asked}/metrics"),
    ] {
        assert!(described.contains(wanted), "{described}");
    }
}

fn jiff_now() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_secs_f64()
}

/// Told only while there is something to tell, or by a database that has it; that they exist is checked where the rules are made.
const SOMETIMES: [&str; 9] = [
    "kubedb_archive_",
    "kubedb_schedule_",
    "kubedb_verification_",
    "kubedb_instance_streaming",
    "kubedb_operator_webhook_requests_total",
    "kubedb_snapshot_progress_",
    "kubedb_restorable_",
    "kubedb_snapshot_last_failure",
    "pg_stat_replication",
];

fn rules_ask_for(exposed: &BTreeSet<String>) {
    let path = repository().join("deploy/monitoring/alerts.yaml");
    let (code, said) = promtool(&["check", "rules", &path.to_string_lossy()], "");
    assert_eq!(code, Some(0), "{said}");
    let text = fs::read_to_string(path).unwrap();
    let asked = text.split(|sign: char| !sign.is_ascii_alphanumeric() && sign != '_');
    let asked = asked.filter(|word| word.starts_with("kubedb_") || word.starts_with("pg_"));
    for name in asked {
        let is_sometimes = SOMETIMES.iter().any(|prefix| name.starts_with(prefix));
        assert!(
            is_sometimes || exposed.contains(name),
            "{name} is told by nobody"
        );
    }
}

#[test]
fn an_archive_that_fails_is_told_and_its_recovery_too() {
    let (world, server) = measured();
    world.create(&postgres("pg", "15", 1, &format!("{BUILTIN}{ARCHIVER}")));
    world.status("pg", "pg", "Running", 120);
    let port = port_of(&world, "pg", 0);
    world.sql("pg", "CREATE TABLE t AS SELECT 1 AS n").unwrap();
    world.sql("pg", "SELECT pg_switch_wal()").unwrap();
    becomes(port, "kubedb_archive_stored_total", "", 60, |count| {
        count > 0.0
    });
    let told = scrape(port);
    assert_eq!(one(&told, "kubedb_archive_failing", ""), Some(0.0));
    becomes(port, "kubedb_archive_lag_seconds", "", 60, |lag| lag < 30.0);
    // The first Snapshot of an archive is made by itself, and what is stored is looked through for gaps.
    becomes(
        port,
        "kubedb_snapshots",
        "phase=\"Succeeded\"",
        120,
        |count| count >= 1.0,
    );
    becomes(port, "kubedb_archive_gaps", "", 60, |gaps| gaps == 0.0);

    world.line.cut(true);
    for _ in 0..3 {
        world.sql("pg", "INSERT INTO t SELECT 2").unwrap();
        world.sql("pg", "SELECT pg_switch_wal()").unwrap();
    }
    becomes(port, "kubedb_archive_failing", "", 180, |failing| {
        failing == 1.0
    });
    becomes(port, "kubedb_archive_failures_total", "", 60, |count| {
        count >= 1.0
    });
    becomes(port, "kubedb_archive_waiting_bytes", "", 60, |bytes| {
        bytes >= f64::from(16 << 20)
    });
    let archiving = "condition=\"Archiving\"";
    becomes(server, "kubedb_database_condition", archiving, 60, |is| {
        is == 0.0
    });
    let told = scrape(port);
    let since = one(&told, "kubedb_archive_failing_since_timestamp_seconds", "").unwrap();
    assert!((0.0..300.0).contains(&(jiff_now() - since)), "{since}");
    let lag = one(&told, "kubedb_archive_lag_seconds", "").unwrap();
    becomes(port, "kubedb_archive_lag_seconds", "", 30, |now| {
        now > lag + 2.0
    });

    world.line.cut(false);
    becomes(port, "kubedb_archive_failing", "", 180, |failing| {
        failing == 0.0
    });
    becomes(port, "kubedb_archive_waiting_segments", "", 120, |count| {
        count == 0.0
    });
    becomes(server, "kubedb_database_condition", archiving, 60, |is| {
        is == 1.0
    });
    assert_eq!(
        one(
            &scrape(port),
            "kubedb_archive_failing_since_timestamp_seconds",
            ""
        ),
        None
    );
}

#[test]
fn a_postgresql_that_hangs_is_told_in_time_and_the_port_follows_the_database() {
    let (world, _) = measured();
    world.create(&postgres("pg", "15", 2, BUILTIN));
    world.status("pg", "pg", "Running", 180);
    let port = port_of(&world, "pg", 0);
    let standby = port_of(&world, "pg", 1);
    becomes(standby, "kubedb_instance_streaming", "", 60, |is| is == 1.0);
    becomes(standby, "pg_replication_is_replica", "", 60, |is| is == 1.0);
    becomes(
        port,
        "pg_stat_replication_pg_wal_lsn_diff",
        "application_name=\"pg-1\"",
        60,
        |bytes| bytes < 1e6,
    );

    let postmaster = world.postmaster("pg", 0).unwrap();
    let agent = world.agent("pg", 0);
    signal(postmaster, STOP);
    // What was told a moment ago is told again for a second.
    becomes(port, "pg_up", "", 8, |up| up == 0.0);
    let began = Instant::now();
    let askers: Vec<_> = (0..8)
        .map(|_| std::thread::spawn(move || scrape_at(port, "/metrics")))
        .collect();
    for asker in askers {
        let (text, told) = asker.join().unwrap().unwrap();
        assert_eq!(one(&told, "pg_up", ""), Some(0.0), "{text}");
        // What needs no PostgreSQL is told all the same.
        assert!(
            one(&told, "kubedb_volume_free_bytes", "").is_some(),
            "{text}"
        );
        assert_eq!(
            one(&told, "kubedb_instance_role", "role=\"primary\""),
            Some(1.0)
        );
    }
    let took = began.elapsed();
    signal(postmaster, CONTINUE);
    assert!(took < Duration::from_secs(8), "{took:?}");
    becomes(port, "pg_up", "", 30, |up| up == 1.0);

    // Another port, without another agent. The standby has the next one.
    let asked = (0..100)
        .map(|_| free_port().unwrap())
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", port + 1)).is_ok())
        .unwrap();
    let edit = |monitor: Value| {
        let patch = serde_json::json!({ "spec": { "monitor": monitor } }).to_string();
        let patched = Command::new("kubectl")
            .args([
                "patch",
                "pg",
                "pg",
                "-n",
                "demo",
                "--type=merge",
                "-p",
                &patch,
            ])
            .env("KUBECONFIG", world.server.kubeconfig())
            .env("HOME", world.folder())
            .output()
            .unwrap();
        assert!(
            patched.status.success(),
            "{}",
            String::from_utf8_lossy(&patched.stderr)
        );
    };
    edit(serde_json::json!({ "agent": "prometheus.io/builtin", "prometheus": { "port": asked } }));
    becomes(asked, "pg_up", "", 30, |up| up == 1.0);
    becomes(asked + 1, "pg_replication_is_replica", "", 30, |is| {
        is == 1.0
    });
    eventually("the former port is closed", Duration::from_secs(30), || {
        scrape_at(port, "/metrics").map_or(Ok(()), |_| Err("it answers".to_owned()))
    });
    assert_eq!(world.agent("pg", 0), agent, "it was not started anew");

    // A port that somebody else has is told by condition and Event, and had as soon as it is free.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = taken.local_addr().unwrap().port();
    edit(serde_json::json!({ "prometheus": { "port": theirs } }));
    eventually("a condition that says so", Duration::from_secs(30), || {
        let known = condition(&world, "pg", "Monitored")?;
        let message = known["message"].as_str().unwrap_or_default();
        let is_told = known["status"] == "False"
            && message.contains(&format!("failed to listen on port {theirs}"));
        is_told.then_some(()).ok_or_else(|| known.to_string())
    });
    eventually("an Event that says so", Duration::from_secs(30), || {
        let described = world.run(&["describe", "pg", "pg", "-n", "demo"], "");
        let is_told = described
            .contains("Failed to manage monitoring system. Reason: pg-0: failed to listen");
        is_told.then_some(()).ok_or(described)
    });
    drop(taken);
    becomes(theirs, "pg_up", "", 30, |up| up == 1.0);

    // One machine has no ServiceMonitors, and says so in the original's words; the metrics are there.
    edit(serde_json::json!({ "agent": "prometheus.io/coreos-operator" }));
    eventually("the original's words", Duration::from_secs(30), || {
        let known = condition(&world, "pg", "Monitored")?;
        let is_told = known["message"] == "cluster does not support CoreOS Prometheus operator";
        is_told.then_some(()).ok_or_else(|| known.to_string())
    });
    becomes(theirs, "pg_up", "", 30, |up| up == 1.0);
    edit(Value::Null);
    eventually("nobody listens", Duration::from_secs(30), || {
        scrape_at(theirs, "/metrics").map_or(Ok(()), |_| Err("it answers".to_owned()))
    });
    eventually("nothing is told of it", Duration::from_secs(30), || {
        let object = world.server.object("pg", "pg", "demo")?;
        let status = object["status"].to_string();
        let is_silent = !status.contains("Monitored") && !status.contains("\"metrics\"");
        is_silent.then_some(()).ok_or(status)
    });
}

#[test]
fn a_real_prometheus_finds_all_databases_and_evaluates_the_rules() {
    let (world, server) = measured();
    world.create(&postgres("pg", "15", 1, BUILTIN));
    world.create(&postgres("old", "9.6", 1, BUILTIN));
    for database in ["old", "pg"] {
        world.status("pg", database, "Running", 180);
        let _ = port_of(&world, database, 0);
    }
    let folder = world.folder().join("prometheus");
    fs::create_dir(&folder).unwrap();
    let rules = repository()
        .join("deploy/monitoring/alerts.yaml")
        .canonicalize()
        .unwrap();
    let configuration = format!(
        "global: {{scrape_interval: 5s, scrape_timeout: 5s, evaluation_interval: 1s}}\nrule_files: [{}]\nscrape_configs:\n\
         - job_name: kubedb\n  honor_labels: true\n  static_configs: [{{targets: ['127.0.0.1:{server}']}}]\n\
         - job_name: databases\n  honor_labels: true\n  http_sd_configs: [{{url: 'http://127.0.0.1:{server}/targets', refresh_interval: 1s}}]\n",
        rules.display()
    );
    let file = folder.join("prometheus.yml");
    fs::write(&file, configuration).unwrap();
    let port = free_port().unwrap();
    let _prometheus = Running::start(
        Command::new(cache("prometheus/usr/bin/prometheus"))
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}")),
    )
    .unwrap();
    let ask = |query: &str| -> Result<Vec<Value>, String> {
        let query = query
            .replace(' ', "%20")
            .replace('{', "%7B")
            .replace('}', "%7D")
            .replace('"', "%22");
        let reply = get(port, &format!("/api/v1/query?query={query}")).ok_or("no answer")?;
        let (_, body) = reply.split_once("\r\n\r\n").ok_or("no end of the head")?;
        let answer: Value = serde_json::from_str(body).map_err(|error| error.to_string())?;
        let result = answer["data"]["result"].as_array().cloned();
        result.ok_or_else(|| body.to_owned())
    };
    let counts = |query: &str, wanted: usize| {
        eventually(query, Duration::from_secs(60), || {
            let found = ask(query)?;
            if found.len() == wanted {
                Ok(found)
            } else {
                Err(format!("{found:?}"))
            }
        })
    };
    counts("up == 1", 3);
    counts("pg_up{namespace=\"demo\",job=\"databases\"} == 1", 2);
    // Both tell of both, and the labels are those of the database in either.
    let found = counts(
        "kubedb_database_info{namespace=\"demo\",database=\"pg\"}",
        2,
    );
    let jobs: BTreeSet<&str> = found
        .iter()
        .filter_map(|one| one["metric"]["job"].as_str())
        .collect();
    assert_eq!(jobs, BTreeSet::from(["databases", "kubedb"]));
    let groups = get(port, "/api/v1/rules").unwrap();
    let (_, body) = groups.split_once("\r\n\r\n").unwrap();
    let groups: Value = serde_json::from_str(body).unwrap();
    eventually(
        "rules that can be evaluated",
        Duration::from_secs(30),
        || {
            let reply = get(port, "/api/v1/rules").ok_or("no answer")?;
            let (_, body) = reply.split_once("\r\n\r\n").ok_or("no end of the head")?;
            let groups: Value = serde_json::from_str(body).map_err(|error| error.to_string())?;
            let groups = groups["data"]["groups"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let rules: Vec<Value> = groups
                .iter()
                .flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default())
                .collect();
            let well = rules.iter().filter(|rule| rule["health"] == "ok").count();
            if rules.len() > 15 && well == rules.len() {
                Ok(())
            } else {
                Err(format!("{well} of {}", rules.len()))
            }
        },
    );
    assert!(groups["data"]["groups"].is_array());
    // A database that is up raises nothing, and one that is stopped does.
    assert_eq!(
        ask("ALERTS{alertname=\"KubedbPostgresDown\"}").unwrap(),
        Vec::<Value>::new()
    );
    signal(world.postmaster("pg", 0).unwrap(), STOP);
    counts(
        "ALERTS{alertname=\"KubedbPostgresDown\",alertstate=\"pending\"}",
        1,
    );
    signal(world.postmaster("pg", 0).unwrap(), CONTINUE);
    counts("ALERTS{alertname=\"KubedbPostgresDown\"}", 0);
}
