//! The user that PostgreSQL and agents run as: PostgreSQL refuses to be root.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    process::Command,
};

use nix::unistd::{Uid, User};

/// Name of the system user that is made when the server is started as root.
const NAME: &str = "kubedb";

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
    /// A folder cannot be made or handed over.
    #[error("failed to prepare folder {path}")]
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
        let look = || User::from_name(NAME).ok().flatten();
        if look().is_none() {
            let made = Command::new("useradd")
                .args(["--system", "--user-group", "--no-create-home"])
                .args([
                    "--home-dir",
                    "/nonexistent",
                    "--shell",
                    "/usr/sbin/nologin",
                    NAME,
                ])
                .output();
            match made {
                Ok(output) if output.status.success() => {}
                // Somebody else may have made it in the meantime; the look below decides.
                Ok(output) if look().is_none() => {
                    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                    return Err(UserError::Make { reason });
                }
                Ok(_) => {}
                Err(error) => {
                    let reason = error.to_string();
                    return Err(UserError::Make { reason });
                }
            }
        }
        let user = look().ok_or_else(|| UserError::Make {
            reason: "it was made and is not there".to_owned(),
        })?;
        Ok(Self {
            ids: Some((user.uid.as_raw(), user.gid.as_raw())),
        })
    }

    /// User and group to switch to.
    #[must_use]
    pub fn ids(self) -> Option<(u32, u32)> {
        self.ids
    }

    /// Makes a folder that only this user can enter.
    pub fn private_folder(self, path: &Path) -> Result<(), UserError> {
        self.folder(path, 0o700)
    }

    /// Makes a folder that others may pass through, but not list.
    pub fn passage(path: &Path) -> Result<(), UserError> {
        prepare(path, || {
            fs::create_dir_all(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o711))
        })
    }

    fn folder(self, path: &Path, mode: u32) -> Result<(), UserError> {
        prepare(path, || {
            fs::create_dir_all(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            self.own(path)
        })
    }

    /// Writes a file that only this user can read, whole or not at all.
    pub fn private_file(self, path: &Path, content: &[u8]) -> Result<(), UserError> {
        prepare(path, || {
            let temporary = path.with_extension("new");
            // Made anew, so that nobody holds it open with other rights.
            let _ = fs::remove_file(&temporary);
            let mut options = fs::OpenOptions::new();
            options.write(true).create_new(true);
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let mut file = options.open(&temporary)?;
            io::Write::write_all(&mut file, content)?;
            file.sync_all()?;
            self.own(&temporary)?;
            fs::rename(&temporary, path)
        })
    }

    fn own(self, path: &Path) -> io::Result<()> {
        match self.ids {
            Some((uid, gid)) => chown(path, Some(uid), Some(gid)),
            None => Ok(()),
        }
    }
}

fn prepare(path: &Path, work: impl FnOnce() -> io::Result<()>) -> Result<(), UserError> {
    work().map_err(|source| UserError::Prepare {
        path: path.display().to_string(),
        source,
    })
}
