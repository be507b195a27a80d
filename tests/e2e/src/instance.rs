//! One instance of a database, over its Unix socket as superuser: primaries and standbys alike, and any database of theirs.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{wait::eventually, world::World};

/// A session that is not asked to end by then is ended.
const PATIENCE: Duration = Duration::from_secs(600);

/// A running instance.
#[derive(Clone, Debug)]
pub struct Instance {
    folder: PathBuf,
    socket: String,
    port: String,
}

#[expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a helper that fails is a failed test"
)]
impl Instance {
    /// Finds an instance by its server's lock file, and waits until it answers.
    #[must_use]
    pub fn of(world: &World, database: &str, ordinal: u32) -> Self {
        let folder = world.instance(database, ordinal);
        eventually("an instance that answers", Duration::from_secs(120), || {
            let lock = fs::read_to_string(folder.join("data/postmaster.pid"))
                .map_err(|error| error.to_string())?;
            let lines: Vec<&str> = lock.lines().collect();
            let [_, _, _, port, socket, ..] = lines.as_slice() else {
                return Err(lock);
            };
            let found = Self {
                folder: folder.clone(),
                socket: (*socket).to_owned(),
                port: (*port).to_owned(),
            };
            found.sql("SELECT 1").map(|_| found)
        })
    }

    /// Its data folder.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A client program that is told where the instance is and who asks.
    #[must_use]
    pub fn client(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("PGHOST", &self.socket)
            .env("PGPORT", &self.port)
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres");
        command
    }

    /// Runs statements in database `postgres`.
    pub fn sql(&self, statements: &str) -> Result<String, String> {
        self.sql_in("postgres", statements)
    }

    /// Runs statements in a database.
    pub fn sql_in(&self, database: &str, statements: &str) -> Result<String, String> {
        // By standard input: lists of statements are longer than a command line may be.
        let mut command = self.client("psql");
        command
            .args(["-AtXq", "-v", "ON_ERROR_STOP=1", "-f", "-"])
            .env("PGDATABASE", database)
            .env(
                "PGOPTIONS",
                "-c client_min_messages=warning -c statement_timeout=120s",
            );
        let ran = crate::kubedb::run(&mut command, statements).map_err(|e| e.to_string())?;
        if ran.code == 0 {
            Ok(ran.stdout.trim().to_owned())
        } else {
            Err(ran.stderr)
        }
    }

    /// Waits until statements in database `postgres` give this.
    pub fn becomes(&self, statements: &str, wanted: &str) {
        let what = format!("{statements} = {wanted}");
        eventually(&what, Duration::from_secs(60), || {
            let found = self.sql(statements)?;
            if found == wanted { Ok(()) } else { Err(found) }
        });
    }

    /// Begins a session that runs statements and stays open.
    #[must_use]
    pub fn open(&self, statements: &str) -> Open {
        let mut child = self
            .client("psql")
            .args(["-AtXq", "-v", "ON_ERROR_STOP=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("psql");
        let (mut stdin, text) = (child.stdin.take().expect("a pipe"), statements.to_owned());
        std::thread::spawn(move || {
            // psql reads on as it goes; what it no longer wants when it is killed is nobody's loss.
            let _ = stdin.write_all(text.as_bytes());
            std::thread::park_timeout(PATIENCE);
        });
        Open(child)
    }
}

/// An open session; it ends with this.
#[derive(Debug)]
pub struct Open(Child);

impl Drop for Open {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
