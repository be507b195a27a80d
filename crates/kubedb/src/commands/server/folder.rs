//! The data folder: found or made, locked, and prepared for whom runs what lies in it.

use std::{
    fs::{self, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use kubedb_server::process::ServiceUser;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::local;
use crate::error::CommandError;

/// What a server puts into its folder first, and what a new file system has.
const OWN: [&str; 2] = ["lock", "lost+found"];
/// Longest process id.
const ID_MAX: u64 = 20;

/// A data folder that nobody else uses while this value lives.
pub(super) struct DataFolder {
    pub(super) path: PathBuf,
    _lock: Flock<fs::File>,
}

/// Finds or makes the folder, and locks it: two servers would run every instance twice.
pub(super) fn open(path: PathBuf) -> Result<DataFolder, CommandError> {
    fs::create_dir_all(&path)
        .map_err(|source| local(&format!("make folder {}", path.display()), source))?;
    let path = fs::canonicalize(&path).map_err(|source| local("find the data folder", source))?;
    let others = others(&path)
        .map_err(|source| local(&format!("read folder {}", path.display()), source))?;
    if let Some(other) = others {
        return Err(CommandError::FolderOfOthers {
            folder: path.display().to_string(),
            other,
        });
    }
    let lock = lock(&path)?;
    Ok(DataFolder { path, _lock: lock })
}

/// Something that says that a folder is not a server's: its modes are about to be changed.
fn others(path: &Path) -> io::Result<Option<String>> {
    let mut first = None;
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name == "lock" {
            return Ok(None);
        }
        if !OWN.contains(&name.as_str()) {
            first.get_or_insert(name);
        }
    }
    Ok(first)
}

fn lock(data: &Path) -> Result<Flock<fs::File>, CommandError> {
    let path = data.join("lock");
    let failed = |source| local(&format!("write {}", path.display()), source);
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(
        |(mut file, errno)| match errno {
            Errno::EWOULDBLOCK => CommandError::ServerRuns {
                folder: data.display().to_string(),
                process: read_id(&mut file),
            },
            errno => failed(errno.into()),
        },
    )?;
    // For people: the lock itself is the kernel's.
    lock.set_len(0)
        .and_then(|()| write!(lock, "{}", std::process::id()))
        .map_err(failed)?;
    Ok(lock)
}

fn read_id(file: &mut fs::File) -> Option<u32> {
    let mut text = String::new();
    file.take(ID_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Folders, and the program where the service user can run it.
pub(super) fn prepare(data: &Path, user: ServiceUser) -> io::Result<PathBuf> {
    let mode = |path: &Path, mode| {
        fs::create_dir_all(path)?;
        fs::set_permissions(path, Permissions::from_mode(mode))
    };
    let program = std::env::current_exe()?;
    mode(&data.join("api"), 0o700)?;
    if user.ids().is_none() {
        mode(data, 0o700)?;
        return Ok(program);
    }
    mode(data, 0o711)?;
    check_passage(data)?;
    let folder = data.join("bin");
    mode(&folder, 0o755)?;
    let copy = folder.join("kubedb");
    let temporary = folder.join("kubedb.new");
    fs::copy(&program, &temporary)?;
    fs::set_permissions(&temporary, Permissions::from_mode(0o755))?;
    fs::File::open(&temporary)?.sync_all()?;
    // By rename, because running agents hold the old one.
    fs::rename(&temporary, &copy)?;
    Ok(copy)
}

/// PostgreSQL refuses to be root, so its user must be able to pass through every folder above its data.
fn check_passage(data: &Path) -> io::Result<()> {
    for folder in data.ancestors() {
        if fs::metadata(folder)?.permissions().mode() & 0o001 == 0 {
            return Err(io::Error::other(format!(
                "the databases' user cannot pass through {}: run chmod o+x on it, or choose another --data-dir",
                folder.display()
            )));
        }
    }
    Ok(())
}

/// Where fetched builds are kept, also for other data folders.
pub(super) fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .unwrap_or_else(std::env::temp_dir);
    base.join("kubedb")
}
