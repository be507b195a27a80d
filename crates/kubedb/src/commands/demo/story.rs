//! What happens, in order.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use serde_json::Value;
use tokio_postgres::NoTls;

use super::{DemoError, machine, terminal::Terminal};

/// A first run fetches PostgreSQL.
const CREATE_LIMIT: Duration = Duration::from_secs(240);
/// Everything else is a matter of seconds.
const LIMIT: Duration = Duration::from_secs(60);
/// Rows that are in the Snapshot.
const ROWS_BEFORE: i64 = 1_000;
/// Rows that come too late for it.
const ROWS_AFTER: i64 = 500;

pub(super) struct Story<'a> {
    terminal: &'a Terminal<'a>,
}

impl<'a> Story<'a> {
    pub(super) fn new(terminal: &'a Terminal<'a>) -> Self {
        Self { terminal }
    }

    pub(super) fn tell(&self) -> Result<(), DemoError> {
        let first = self.create()?;
        let second = self.write_rows(&first)?;
        self.restore(&second)?;
        self.stop_the_schedule()?;
        self.clean_up()
    }

    /// The guide's database; returns the Snapshot made at once.
    fn create(&self) -> Result<String, DemoError> {
        let terminal = self.terminal;
        let backups = terminal.path("backups");
        fs::create_dir(&backups)
            .and_then(|()| fs::set_permissions(&backups, fs::Permissions::from_mode(0o1777)))
            .map_err(machine("make a folder for Snapshots"))?;
        // A JSON string is a YAML string, whatever is in the path.
        let mount_path = Value::from(backups.display().to_string()).to_string();
        let manifest = include_str!("scheduled-pg.yaml").replace("BACKUPS", &mount_path);
        fs::write(terminal.path("scheduled-pg.yaml"), &manifest)
            .map_err(machine("write a manifest"))?;
        terminal.say("The guide's database: PostgreSQL 9.6, a primary and two standbys, a Snapshot every 10 seconds.");
        terminal.say(&format!("$ cat scheduled-pg.yaml\n{}", manifest.trim_end()));
        terminal.show(&["create", "-f", "scheduled-pg.yaml"])?;
        terminal.wait("scheduled-pg is Running", CREATE_LIMIT, || {
            self.phase("pg", "scheduled-pg", "Running")
        })?;
        terminal.show(&["get", "pg", "-n", "demo", "-o", "wide"])?;
        terminal.say("The first Snapshot is made at once.");
        let first = terminal.wait("the first Snapshot succeeded", LIMIT, || {
            self.succeeded(&[])
        })?;
        terminal.show(&[
            "get",
            "snap",
            "-n",
            "demo",
            "--selector=kubedb.com/kind=Postgres,kubedb.com/name=scheduled-pg",
        ])?;
        Ok(first)
    }

    /// Rows, the next tick's Snapshot, more rows; returns that Snapshot.
    fn write_rows(&self, first: &str) -> Result<String, DemoError> {
        let terminal = self.terminal;
        terminal.say(&format!(
            "Now {ROWS_BEFORE} rows, as an application would write them:"
        ));
        self.type_sql(
            "scheduled-pg",
            &format!("CREATE TABLE story (id bigint PRIMARY KEY, line text); INSERT INTO story SELECT n, md5(n::text) FROM generate_series(1, {ROWS_BEFORE}) n"),
        )?;
        // A Snapshot that had begun before the rows is none of the second one's business.
        let mut known = vec![first.to_owned()];
        known.extend(self.names()?);
        let second = terminal.wait("the next tick's Snapshot succeeded", LIMIT, || {
            self.succeeded(&known)
        })?;
        terminal.say(&format!(
            "The next tick made {second}. After it, {ROWS_AFTER} rows more:"
        ));
        self.type_sql(
            "scheduled-pg",
            &format!("INSERT INTO story SELECT n, md5(n::text) FROM generate_series({ROWS_BEFORE} + 1, {ROWS_BEFORE} + {ROWS_AFTER}) n"),
        )?;
        Ok(second)
    }

    fn restore(&self, snapshot: &str) -> Result<(), DemoError> {
        let terminal = self.terminal;
        let manifest = include_str!("recovered-pg.yaml").replace("SNAPSHOT", snapshot);
        fs::write(terminal.path("recovered-pg.yaml"), &manifest)
            .map_err(machine("write a manifest"))?;
        terminal.say(&format!("Restores {snapshot} into a new database."));
        terminal.say(&format!("$ cat recovered-pg.yaml\n{}", manifest.trim_end()));
        terminal.show(&["create", "-f", "recovered-pg.yaml"])?;
        terminal.wait("recovered-pg is Running", LIMIT, || {
            self.phase("pg", "recovered-pg", "Running")
        })?;
        let digest = "SELECT count(*) || ' rows, digest ' || md5(string_agg(id || line, ',' ORDER BY id)) FROM story";
        let wanted = self.sql(
            "scheduled-pg",
            &format!("{digest} WHERE id <= {ROWS_BEFORE}"),
        )?;
        let restored = self.sql("recovered-pg", digest)?;
        terminal.say(&format!("scheduled-pg, first {ROWS_BEFORE} rows: {wanted}\nrecovered-pg, all rows:        {restored}"));
        if wanted != restored || !wanted.starts_with(&ROWS_BEFORE.to_string()) {
            return Err(DemoError::Untrue(format!(
                "the restored rows differ: {wanted} is not {restored}"
            )));
        }
        terminal.show(&["get", "snap", "-n", "demo"]).map(drop)
    }

    fn stop_the_schedule(&self) -> Result<(), DemoError> {
        let terminal = self.terminal;
        let editor = terminal.path("remove-schedule.sh");
        let script = "#!/bin/sh\nawk '/^  [^ ]/ {skip = ($1 == \"backupSchedule:\")} /^[^ ]/ {skip = 0} !skip' \"$1\" > \"$1.new\" && cat \"$1.new\" > \"$1\" && rm \"$1.new\"\n";
        fs::write(&editor, script)
            .and_then(|()| fs::set_permissions(&editor, fs::Permissions::from_mode(0o755)))
            .map_err(machine("write an editor"))?;
        terminal.say("Removing backupSchedule stops future Snapshots. (Any editor will do; this one is a script.)");
        terminal.show_with(
            &["edit", "pg", "scheduled-pg", "-n", "demo"],
            &[("KUBEDB_EDITOR", "./remove-schedule.sh")],
        )?;
        terminal.wait("no tick is scheduled", LIMIT, || {
            let object = terminal.object("pg", "scheduled-pg")?;
            let next = &object["status"]["nextScheduleTime"];
            Ok(if next.is_null() {
                Ok(())
            } else {
                Err(next.to_string())
            })
        })
    }

    fn clean_up(&self) -> Result<(), DemoError> {
        self.terminal
            .say("Clean-up: the databases stop; a Snapshot is deleted with its data.");
        for name in self.names()? {
            self.terminal
                .run(&["delete", "snap", &name, "-n", "demo"], &[])?;
        }
        self.terminal.show(&["get", "snap", "-n", "demo"])?;
        let left = files_below(&self.terminal.path("backups"));
        if left > 0 {
            return Err(DemoError::Untrue(format!(
                "{left} files of deleted Snapshots are left"
            )));
        }
        self.terminal
            .show(&["delete", "pg", "recovered-pg", "scheduled-pg", "-n", "demo"])
            .map(drop)
    }

    fn phase(&self, kind: &str, name: &str, wanted: &str) -> Result<Result<(), String>, DemoError> {
        let status = self.terminal.object(kind, name)?["status"].take();
        let said = phase_and_reason(&status);
        match status["phase"].as_str() {
            Some("Failed") => Err(DemoError::Untrue(format!("{name} is {said}"))),
            Some(phase) if phase == wanted => Ok(Ok(())),
            _ => Ok(Err(said)),
        }
    }

    fn snapshots(&self) -> Result<Vec<Value>, DemoError> {
        let text = self
            .terminal
            .run(&["get", "snap", "-n", "demo", "-o", "json"], &[])?;
        let list: Value = serde_json::from_str(&text).map_err(machine("understand a list"))?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    fn names(&self) -> Result<Vec<String>, DemoError> {
        let name = |snapshot: &Value| snapshot["metadata"]["name"].as_str().map(str::to_owned);
        Ok(self.snapshots()?.iter().filter_map(name).collect())
    }

    /// A Succeeded Snapshot other than the known ones.
    fn succeeded(&self, known: &[String]) -> Result<Result<String, String>, DemoError> {
        let mut last = "no Snapshot".to_owned();
        for snapshot in self.snapshots()? {
            let name = snapshot["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            if known.contains(&name) {
                continue;
            }
            match snapshot["status"]["phase"].as_str() {
                Some("Succeeded") => return Ok(Ok(name)),
                Some("Failed") => {
                    let said = phase_and_reason(&snapshot["status"]);
                    return Err(DemoError::Untrue(format!("{name} is {said}")));
                }
                _ => last = format!("{name} is {}", phase_and_reason(&snapshot["status"])),
            }
        }
        Ok(Err(last))
    }

    /// Shows SQL as a user of psql would type it, and runs it.
    fn type_sql(&self, database: &str, statement: &str) -> Result<String, DemoError> {
        self.terminal.say(&format!(
            "$ kubedb connect pg {database} -n demo\npostgres=# {statement};"
        ));
        self.sql(database, statement)
    }

    /// Runs SQL on a database's primary endpoint; returns the first value.
    fn sql(&self, database: &str, statement: &str) -> Result<String, DemoError> {
        let arguments = [
            "connect",
            "pg",
            database,
            "-n",
            "demo",
            "--url",
            "--show-password",
        ];
        let url = self.terminal.run(&arguments, &[])?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(machine("start the runtime"))?;
        let rows = runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(url.trim(), NoTls).await?;
            let driver = tokio::spawn(connection);
            let rows = client.simple_query(statement).await;
            driver.abort();
            rows
        });
        let rows = rows.map_err(machine("run SQL"))?;
        let first = rows.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        Ok(first.unwrap_or_default())
    }
}

/// `Creating`, or `Failed: no space left`.
fn phase_and_reason(status: &Value) -> String {
    let phase = status["phase"].as_str().unwrap_or("Unknown");
    match status["reason"].as_str() {
        Some(reason) => format!("{phase}: {reason}"),
        None => phase.to_owned(),
    }
}

fn files_below(folder: &std::path::Path) -> usize {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| {
            if entry.path().is_dir() {
                files_below(&entry.path())
            } else {
                1
            }
        })
        .sum()
}
