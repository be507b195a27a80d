//! A PostgreSQL of Debian's with data that looks like somebody's: balances of `pgbench`, and events with uuid, jsonb and three indexes.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::unistd::User;

use crate::failed;

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";

/// Scale of pgbench, and rows of events, that make a gigabyte together.
const SCALE: u32 = 43;
const EVENTS: u32 = 1_330_000;

/// What every row says, in one number; the same before and after.
const DIGEST: &str = "SELECT (SELECT count(*)::text || ':' || sum(hashtextextended(e::text, 0))::text FROM events e) || ':' ||
    (SELECT sum(hashtextextended(a::text, 0))::text FROM pgbench_accounts a)";

/// The user that owns the database; PostgreSQL refuses to run as root.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    /// Debian's.
    pub(crate) fn find() -> Result<Self, String> {
        let user = User::from_name("postgres").map_err(failed("look up the user postgres"))?;
        let user = user.ok_or("there is no user postgres: run cargo xtask tools")?;
        Ok(Self {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
        })
    }

    /// Makes a folder of its own.
    pub(crate) fn folder(self, path: &Path) -> Result<(), String> {
        fs::create_dir_all(path)
            .and_then(|()| chown(path, Some(self.uid), Some(self.gid)))
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
            .map_err(failed(&format!("make {}", path.display())))
    }

    /// A command as this user.
    pub(crate) fn command(self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.uid(self.uid).gid(self.gid).current_dir("/");
        command
    }
}

/// A server on a data folder, reached by a socket in the folder above.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) owner: Owner,
    pub(crate) data: PathBuf,
    pub(crate) port: u16,
}

impl Cluster {
    /// Makes a database of about so many gigabytes.
    pub(crate) fn make(owner: Owner, folder: &Path, gigabytes: u32) -> Result<Self, String> {
        Self::make_with(owner, folder, gigabytes, "")
    }

    /// The same with more settings.
    pub(crate) fn make_with(
        owner: Owner,
        folder: &Path,
        gigabytes: u32,
        more: &str,
    ) -> Result<Self, String> {
        let data = folder.join("data");
        quiet(
            owner
                .command(format!("{PROGRAMS}/initdb"))
                .args(["--data-checksums", "--no-sync", "-A", "trust", "-U"])
                .args(["postgres", "-E", "UTF8", "--locale", "C", "-D"])
                .arg(&data),
        )?;
        let settings = format!(
            "listen_addresses = ''\nshared_buffers = 256MB\nmax_wal_size = 4GB\nwal_level = replica\nautovacuum = off\n{more}"
        );
        let file = data.join("postgresql.auto.conf");
        fs::write(&file, settings).map_err(failed("write the settings"))?;
        let cluster = Self::start(owner, data)?;
        let scale = (SCALE * gigabytes).to_string();
        quiet(
            cluster
                .client("pgbench")
                .args(["-i", "-q", "-s", &scale, "postgres"]),
        )?;
        cluster.sql(&format!(
            "CREATE TABLE events (id uuid PRIMARY KEY, at timestamptz, kind text, payload jsonb);
             INSERT INTO events SELECT gen_random_uuid(), now() - i * interval '1 second', 'kind' || i % 50,
                 jsonb_build_object('user', i % 100000, 'token', md5(i::text), 'amount', (random() * 1000)::numeric(8, 2))
                 FROM generate_series(1, {}) i;
             CREATE INDEX ON events (at); CREATE INDEX ON events (kind, at);",
            EVENTS * gigabytes
        ))?;
        cluster.sql("VACUUM FREEZE ANALYZE")?;
        cluster.sql("CHECKPOINT")?;
        // Segments of the load are of no use to the comparison: two more checkpoints let them go.
        cluster.sql("SELECT pg_switch_wal()")?;
        cluster.sql("CHECKPOINT")?;
        Ok(cluster)
    }

    /// Starts a server on a data folder that is there.
    pub(crate) fn start(owner: Owner, data: PathBuf) -> Result<Self, String> {
        let port = kubedb_stores::net::free_port().map_err(|error| error.to_string())?;
        let cluster = Self { owner, data, port };
        let options = format!("-p {port} -k {}", cluster.sockets().display());
        quiet(
            owner
                .command(format!("{PROGRAMS}/pg_ctl"))
                .args(["-w", "-t", "300", "-l"])
                .arg(cluster.sockets().join("postgres.log"))
                .args(["-o", &options, "-D"])
                .arg(&cluster.data)
                .arg("start"),
        )?;
        Ok(cluster)
    }

    /// Folder of its socket.
    pub(crate) fn sockets(&self) -> &Path {
        self.data.parent().unwrap_or(&self.data)
    }

    /// Ends it.
    pub(crate) fn stop(&self) -> Result<(), String> {
        quiet(
            self.owner
                .command(format!("{PROGRAMS}/pg_ctl"))
                .args(["-w", "-m", "immediate", "-D"])
                .arg(&self.data)
                .arg("stop"),
        )
    }

    /// Answers one query.
    pub(crate) fn sql(&self, query: &str) -> Result<String, String> {
        let output = self
            .client("psql")
            .args(["-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-c", query])
            .arg("postgres")
            .output()
            .map_err(failed("start psql"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Ten thousand transactions all over the accounts.
    pub(crate) fn transact(&self) -> Result<(), String> {
        let load = ["-n", "-c", "2", "-j", "2", "-t", "5000", "postgres"];
        quiet(self.client("pgbench").args(load))
    }

    /// A number that stands for every row.
    pub(crate) fn digest(&self) -> Result<String, String> {
        self.sql(DIGEST)
    }

    pub(crate) fn client(&self, program: &str) -> Command {
        let mut command = self.owner.command(format!("{PROGRAMS}/{program}"));
        command.arg("-h").arg(self.sockets()).args([
            "-p",
            &self.port.to_string(),
            "-U",
            "postgres",
        ]);
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// Runs a command whose words nobody needs unless it fails.
pub(crate) fn quiet(command: &mut Command) -> Result<(), String> {
    let named = format!("{:?}", command.get_program());
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(failed(&format!("start {named}")))?;
    if child.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&child.stderr).into_owned();
    Err(format!("{named} ended with {}: {told}", child.status))
}

/// Bytes of the files below a folder, without WAL, which is none of a database's size.
pub(crate) fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries
        .filter_map(Result::ok)
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() && entry.file_name() != "pg_wal" => size(&entry.path()),
            Ok(meta) if meta.is_file() => meta.len(),
            _ => 0,
        })
        .sum()
}
