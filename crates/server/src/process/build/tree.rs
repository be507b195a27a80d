//! A tree of files that is whole, or not there.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

/// Holds what the tree had when it was made, so that later damage shows.
const SEAL: &str = ".kubedb-files";
/// Folders in the making begin so.
pub(super) const MAKING: &str = ".making-";
/// What nobody has touched for so long was left behind by somebody who was killed.
const STALE_AFTER: Duration = Duration::from_secs(3_600);
/// Far more than a build has: a link to somewhere else must not be followed for ever.
const FILES_MAX: u64 = 100_000;

/// Number of files and of their bytes.
fn measure(folder: &Path) -> io::Result<(u64, u64)> {
    let (mut files, mut bytes) = (0, 0);
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_name() == SEAL {
                continue;
            }
            let found = entry.metadata()?;
            if found.is_dir() {
                folders.push(entry.path());
                continue;
            }
            files += 1;
            bytes += found.len();
            if files > FILES_MAX {
                return Err(io::Error::other("it has too many files"));
            }
        }
    }
    Ok((files, bytes))
}

fn seal_of(folder: &Path) -> io::Result<String> {
    let (files, bytes) = measure(folder)?;
    Ok(format!("{files} files, {bytes} bytes\n"))
}

/// Notes what the tree has. What was written is on the disk afterwards.
pub(super) fn seal(folder: &Path) -> io::Result<()> {
    fs::write(folder.join(SEAL), seal_of(folder)?)?;
    // One call for some thousand files: the whole file system is as good, and far faster than file by file.
    nix::unistd::syncfs(File::open(folder)?).map_err(io::Error::from)
}

/// Whether the tree still has what it had when it was sealed.
pub(super) fn is_whole(folder: &Path) -> bool {
    let sealed = fs::read_to_string(folder.join(SEAL));
    matches!((sealed, seal_of(folder)), (Ok(sealed), Ok(found)) if sealed == found)
}

/// Puts a finished tree in its place; a damaged one that lies there goes.
pub(super) fn put(finished: &Path, place: &Path) -> io::Result<()> {
    match fs::rename(finished, place) {
        Ok(()) => return Ok(()),
        Err(error) if !place.exists() => return Err(error),
        Err(_) => {}
    }
    if is_whole(place) {
        // Somebody else was faster, and that is as good.
        return fs::remove_dir_all(finished);
    }
    // Programs that run from it keep their files open.
    let mut aside = finished.as_os_str().to_owned();
    aside.push("-old");
    fs::rename(place, &aside)?;
    fs::rename(finished, place)?;
    fs::remove_dir_all(aside)
}

/// Removes what killed processes left in the making.
pub(super) fn sweep(folder: &Path) {
    let is_stale = |path: &Path| {
        let modified = fs::metadata(path).and_then(|found| found.modified());
        modified.is_ok_and(|time| {
            SystemTime::now()
                .duration_since(time)
                .is_ok_and(|age| age > STALE_AFTER)
        })
    };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_making = entry.file_name().to_string_lossy().starts_with(MAKING);
        if is_making && is_stale(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A copy that everybody can read and run, whatever the umask and the modes of the source.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    fs::set_permissions(to, Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy(&source, &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
        } else {
            fs::copy(&source, &target)?;
            let runs = fs::metadata(&source)?.permissions().mode() & 0o100 != 0;
            let mode = if runs { 0o755 } else { 0o644 };
            fs::set_permissions(&target, Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(folder: &Path, text: &str) {
        fs::create_dir_all(folder.join("bin")).unwrap();
        fs::write(folder.join("bin/postgres"), text).unwrap();
        fs::set_permissions(folder.join("bin/postgres"), Permissions::from_mode(0o700)).unwrap();
        fs::write(folder.join("share"), "bki").unwrap();
        seal(folder).unwrap();
    }

    #[test]
    fn every_lost_or_cut_file_shows() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("15");
        assert!(!is_whole(&place));
        tree(&place, "elf");
        assert!(is_whole(&place));
        for file in ["bin/postgres", "share", SEAL] {
            let path = place.join(file);
            let content = fs::read(&path).unwrap();
            fs::write(&path, &content[1..]).unwrap();
            assert!(!is_whole(&place), "{file} was cut");
            fs::remove_file(&path).unwrap();
            assert!(!is_whole(&place), "{file} was lost");
            fs::write(&path, content).unwrap();
        }
        assert!(is_whole(&place));
    }

    #[test]
    fn a_finished_tree_takes_the_place_of_a_damaged_one_only() {
        let folder = tempfile::tempdir().unwrap();
        let (place, new) = (folder.path().join("15"), folder.path().join(".making-1"));
        tree(&place, "first");
        tree(&new, "second");
        put(&new, &place).unwrap();
        assert_eq!(
            fs::read_to_string(place.join("bin/postgres")).unwrap(),
            "first"
        );
        assert!(!new.exists());
        fs::remove_file(place.join("share")).unwrap();
        tree(&new, "second");
        put(&new, &place).unwrap();
        assert_eq!(
            fs::read_to_string(place.join("bin/postgres")).unwrap(),
            "second"
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_copy_can_be_run_by_others_whatever_the_modes_of_its_source() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("a"), folder.path().join("b"));
        tree(&from, "elf");
        fs::set_permissions(from.join("bin"), Permissions::from_mode(0o700)).unwrap();
        copy(&from, &to).unwrap();
        let mode = |path: &str| fs::metadata(to.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode(""), mode("bin"), mode("bin/postgres"), mode("share")),
            (0o755, 0o755, 0o755, 0o644)
        );
        assert!(is_whole(&to));
    }
}
