//! PostgreSQL started by a test itself, on a folder that nobody else looks after.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{instance::Instance, kubedb::run, process::signal, wait::eventually, world::World};

/// Whom PostgreSQL runs as: it refuses root, which tests may be.
#[derive(Clone, Copy, Debug)]
pub struct User(u32, u32);

#[expect(
    clippy::missing_panics_doc,
    clippy::expect_used,
    reason = "a helper that fails is a failed test"
)]
impl User {
    /// Whose a file or folder is.
    #[must_use]
    pub fn of(file: &Path) -> Self {
        let found = fs::metadata(file).expect("the file of a user");
        Self(found.uid(), found.gid())
    }

    /// A program that runs as this user.
    #[must_use]
    pub fn command(self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args([format!("--reuid={}", self.0), format!("--regid={}", self.1)])
            .arg("--clear-groups")
            .arg(program);
        command
    }

    /// Gives a folder to this user.
    pub fn own(self, folder: &Path) {
        let mut chown = Command::new("chown");
        chown
            .arg("-R")
            .arg(format!("{}:{}", self.0, self.1))
            .arg(folder);
        assert_eq!(run(&mut chown, "").expect("chown").code, 0);
    }
}

/// The program and the user of an instance that runs, which a test borrows.
#[must_use]
#[expect(
    clippy::missing_panics_doc,
    clippy::expect_used,
    reason = "a helper that fails is a failed test"
)]
pub fn lent(world: &World, database: &str) -> (PathBuf, User) {
    let living = Instance::of(world, database, 0);
    let program = world.postmaster(database, 0).expect("a postmaster");
    let program = fs::read_link(format!("/proc/{program}/exe")).expect("its program");
    (program, User::of(&living.data()))
}

/// A server; it ends with this.
#[derive(Debug)]
pub struct Server {
    child: Child,
    data: PathBuf,
    user: User,
}

#[expect(
    clippy::missing_panics_doc,
    clippy::expect_used,
    reason = "a helper that fails is a failed test"
)]
impl Server {
    /// Starts one that listens in its data folder alone.
    #[must_use]
    pub fn start(user: User, program: &Path, data: &Path, settings: &[&str]) -> Self {
        let mut command = user.command(program);
        command.arg("-D").arg(data);
        for setting in settings {
            command.args(["-c", setting]);
        }
        command
            .args(["-c", "listen_addresses=", "-c", "port=5432", "-k"])
            .arg(data)
            .stdout(Stdio::null())
            .stderr(fs::File::create(data.join("hand.log")).expect("a log"));
        Self {
            child: command.spawn().expect("setpriv"),
            data: data.to_owned(),
            user,
        }
    }

    /// Runs a statement in database `postgres`. An error says what the server has logged, too.
    pub fn sql(&self, statement: &str) -> Result<String, String> {
        let mut psql = self.user.command(Path::new("psql"));
        psql.args(["-AtXq", "-U", "postgres", "-h"])
            .arg(&self.data)
            .args(["-p", "5432", "-c", statement]);
        let ran = run(&mut psql, "").map_err(|error| error.to_string())?;
        let log = fs::read_to_string(self.data.join("hand.log")).unwrap_or_default();
        match ran.code {
            0 => Ok(ran.stdout.trim().to_owned()),
            _ => Err(format!("{}{log}", ran.stderr)),
        }
    }

    /// Waits until a statement gives this.
    pub fn becomes(&self, statement: &str, wanted: &str) {
        eventually(statement, Duration::from_secs(90), || {
            let found = self.sql(statement)?;
            if found == wanted { Ok(()) } else { Err(found) }
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        signal(self.child.id(), 2);
        let _ = self.child.wait();
    }
}
