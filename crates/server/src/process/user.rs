//! The user that PostgreSQL and agents run as: PostgreSQL refuses to be root.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    os::unix::{
        fs::{chown, fchown},
        process::CommandExt as _,
    },
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use kubedb_api::agent_config::WAYS_OUT;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    unistd::{Uid, User},
};

/// Name of the system user that is made when the server is started as root.
const NAME: &str = "kubedb";

/// The list of users, which is locked while one is made; making one takes far less than this.
const USERS: &str = "/etc/passwd";
const WAIT: Duration = Duration::from_secs(10);

/// Variables that processes of this user need of the server's environment, beside the ways out of the machine; everything else stays out. Most say where its
/// own identity in a cloud is asked for.
const PASSED: [&str; 20] = [
    "PATH",
    "RUST_LOG",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GCE_METADATA_HOST",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ENDPOINT_URL_STS",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AZURE_CLIENT_ID",
    "AZURE_TENANT_ID",
    "AZURE_AUTHORITY_HOST",
    "AZURE_FEDERATED_TOKEN_FILE",
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
];

/// Whom to run as; none when the server itself is unprivileged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceUser {
    ids: Option<(u32, u32)>,
}

/// Why there is no such user, or a folder cannot be given to it.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The user cannot be made.
    #[error("failed to make system user {NAME}: {reason}")]
    Make {
        /// What useradd said.
        reason: String,
    },
    /// A user of this name has rights that a database must not have.
    #[error("failed to use system user {NAME}: it is root by another name")]
    Root,
    /// A folder cannot be made or handed over.
    #[error("failed to prepare {path}")]
    Prepare {
        /// The folder.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl ServiceUser {
    /// The user to run as. Root gets a system user of its own, made when absent; anybody else stays who they are.
    pub fn find_or_make() -> Result<Self, UserError> {
        if !Uid::effective().is_root() {
            return Ok(Self { ids: None });
        }
        let user = find_or_make(NAME)?;
        if user.uid.is_root() {
            return Err(UserError::Root);
        }
        Ok(Self {
            ids: Some((user.uid.as_raw(), user.gid.as_raw())),
        })
    }

    /// A process of this user's, with no more of the server's environment than it needs, and none of its signals.
    pub(super) fn command(self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let passed = PASSED.iter().chain(&WAYS_OUT);
        command
            .env_clear()
            .envs(passed.filter_map(|name| Some((name, std::env::var_os(name)?))))
            // Ctrl-C is the server's to pass on.
            .process_group(0);
        if let Some((uid, gid)) = self.ids {
            // With the user, the standard library also drops every further group.
            command.uid(uid).gid(gid);
        }
        command
    }

    /// User and group to switch to.
    #[must_use]
    pub fn ids(self) -> Option<(u32, u32)> {
        self.ids
    }

    /// Makes a folder that only this user can enter. The folder above must be one that only the server can change.
    pub fn private_folder(self, path: &Path) -> Result<(), UserError> {
        prepare(path, || {
            make_folder(path, 0o700)?;
            match self.ids {
                Some((uid, gid)) => chown(path, Some(uid), Some(gid)),
                None => Ok(()),
            }
        })
    }

    /// Makes a folder that others may pass through, but not list, and only the server can change.
    pub fn passage(path: &Path) -> Result<(), UserError> {
        prepare(path, || make_folder(path, 0o711))
    }

    /// The same in a folder that is everybody's, such as that of temporary files: what somebody else put there is not used.
    pub fn passage_among_strangers(path: &Path) -> Result<(), UserError> {
        prepare(path, || {
            match fs::DirBuilder::new().mode(0o711).create(path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
            let found = fs::symlink_metadata(path)?;
            let is_ours = found.is_dir()
                && found.uid() == Uid::effective().as_raw()
                && found.mode() & 0o022 == 0;
            if !is_ours {
                return Err(io::Error::other(
                    "somebody else made it: remove it, or choose a --data-dir with a shorter path",
                ));
            }
            fs::set_permissions(path, fs::Permissions::from_mode(0o711))
        })
    }

    /// Writes a file that only this user can read, whole or not at all. The folder must be one that only the server can change.
    pub fn private_file(self, path: &Path, content: &[u8]) -> Result<(), UserError> {
        prepare(path, || {
            let temporary = path.with_extension("new");
            // Made anew, so that nobody holds it open with other rights.
            let _ = fs::remove_file(&temporary);
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(content)?;
            if let Some((uid, gid)) = self.ids {
                fchown(&file, Some(uid), Some(gid))?;
            }
            file.sync_all()?;
            fs::rename(&temporary, path)
        })
    }

    /// Whoever runs the tests.
    #[cfg(test)]
    pub(super) fn own() -> Self {
        Self { ids: None }
    }

    #[cfg(test)]
    pub(super) fn of(uid: u32, gid: u32) -> Self {
        Self {
            ids: Some((uid, gid)),
        }
    }
}

fn find_or_make(name: &str) -> Result<User, UserError> {
    let look = || User::from_name(name).ok().flatten();
    let missing = |reason: String| UserError::Make { reason };
    if let Some(user) = look() {
        return Ok(user);
    }
    // Of two useradd at once, the second gives the user another number, and files belong to nobody.
    let _alone = alone().map_err(|error| missing(format!("{USERS}: {error}")))?;
    if let Some(user) = look() {
        return Ok(user);
    }
    let made = Command::new("useradd")
        .args(["--system", "--user-group", "--no-create-home"])
        .args(["--home-dir", "/nonexistent"])
        .args(["--shell", "/usr/sbin/nologin", name])
        .output()
        .map_err(|error| missing(error.to_string()))?;
    // Whatever it says: what counts is whether the user is there.
    look().ok_or_else(|| {
        let told = String::from_utf8_lossy(&made.stderr).trim().to_owned();
        missing(format!("useradd ended with {}: {told}", made.status))
    })
}

/// Keeps other servers that start at this moment from making the user too.
fn alone() -> io::Result<Flock<fs::File>> {
    let end = Instant::now() + WAIT;
    loop {
        match Flock::lock(fs::File::open(USERS)?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, Errno::EWOULDBLOCK)) if Instant::now() < end => {
                thread::sleep(Duration::from_millis(20));
            }
            Err((_, error)) => return Err(error.into()),
        }
    }
}

fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn prepare(path: &Path, work: impl FnOnce() -> io::Result<()>) -> Result<(), UserError> {
    work().map_err(|source| UserError::Prepare {
        path: path.display().to_string(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_somebody_else_made_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubedb-x");
        ServiceUser::passage_among_strangers(&path).unwrap();
        ServiceUser::passage_among_strangers(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(ServiceUser::passage_among_strangers(&path).is_err());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        assert!(ServiceUser::passage_among_strangers(&link).is_err());
    }

    #[test]
    fn servers_that_start_at_once_make_one_user() {
        if !Uid::effective().is_root() {
            return;
        }
        let name = format!("kubedb-trial-{}", std::process::id());
        let made = thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| find_or_make(&name)))
                .collect();
            let joined = threads.into_iter().map(|thread| thread.join().unwrap());
            joined.collect::<Vec<_>>()
        });
        let gone = Command::new("userdel").arg(&name).status().unwrap();
        assert!(gone.success());
        let ids = |user: &User| (user.uid, user.gid);
        let made: Vec<User> = made.into_iter().collect::<Result<_, _>>().unwrap();
        assert!(
            made.iter().all(|user| ids(user) == ids(&made[0])),
            "{made:?}"
        );
    }

    #[test]
    fn private_files_are_private_from_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        ServiceUser::own().private_file(&path, b"secret").unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read(&path).unwrap(), b"secret");
    }
}
