//! Whether a server works on a data folder.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Names that servers and their children have.
const PROGRAMS: [&str; 2] = ["postgres", "postmaster"];

/// A process that works on the folder, or may do so: the one that `postmaster.pid` names, or one of a server whose head was killed. A server on another
/// machine, or in a container that this one does not see, is not found. Blocks.
pub(super) fn server_of(data: &Path) -> io::Result<Option<i32>> {
    let folder = fs::metadata(data)?;
    let at = |pid: i32| works_in(pid, (folder.dev(), folder.ino()));
    let noted = fs::read_to_string(data.join("postmaster.pid"));
    let noted = noted.ok().and_then(|text| head(&text));
    if let Some(pid) = noted
        && at(pid) != Works::Elsewhere
    {
        return Ok(Some(pid));
    }
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let processes = match fs::read_dir("/proc") {
        Ok(processes) => processes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut pids = processes
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(pids.find(|pid| *pid != own && is_postgres(*pid) && at(*pid) == Works::Here))
}

/// The process that `postmaster.pid` names; a server in single-user mode has a negative one there.
fn head(text: &str) -> Option<i32> {
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    pid.checked_abs().filter(|pid| *pid > 0)
}

fn is_postgres(pid: i32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm"));
    name.is_ok_and(|name| PROGRAMS.contains(&name.trim()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Works {
    Here,
    Elsewhere,
    /// It is there, and does not show where.
    Unknown,
}

/// Servers make their data folder their working folder. One that is gone, or ended and not yet waited for, has none.
fn works_in(pid: i32, folder: (u64, u64)) -> Works {
    let place = PathBuf::from(format!("/proc/{pid}"));
    match fs::metadata(place.join("cwd")) {
        Ok(found) if (found.dev(), found.ino()) == folder => Works::Here,
        Ok(_) => Works::Elsewhere,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Works::Elsewhere,
        Err(_) => Works::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_server_is_known_by_its_number_and_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let note = |text: &str| fs::write(folder.path().join("postmaster.pid"), text).unwrap();
        assert_eq!(server_of(folder.path()).unwrap(), None);
        // Ourselves: a number that was used again.
        note(&format!("{}\n/data\n", std::process::id()));
        assert_eq!(server_of(folder.path()).unwrap(), None);
        let mut child = Command::new("sleep")
            .arg("60")
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        for text in [format!("{pid}\n/data\n"), format!("-{pid}\n")] {
            note(&text);
            assert_eq!(server_of(folder.path()).unwrap(), Some(pid), "{text}");
        }
        // Somebody who looks around there is no server.
        note("nonsense");
        assert_eq!(server_of(folder.path()).unwrap(), None);
        child.kill().unwrap();
        note(&format!("{pid}\n"));
        // Also while nobody has waited for it.
        let since = std::time::Instant::now();
        while server_of(folder.path()).unwrap().is_some() {
            assert!(since.elapsed() < std::time::Duration::from_secs(10));
        }
        child.wait().unwrap();
        assert_eq!(server_of(folder.path()).unwrap(), None);
    }

    #[test]
    fn a_child_of_a_server_that_was_killed_is_one() {
        let folder = tempfile::tempdir().unwrap();
        // A program of that name.
        let program = folder.path().join("postgres");
        fs::copy("/bin/sleep", &program).unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        let mut child = Command::new(&program)
            .arg("60")
            .current_dir(&data)
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        // While it is being started, it shows neither its name nor its folder.
        let since = std::time::Instant::now();
        let mut found = None;
        while found.is_none() && since.elapsed() < std::time::Duration::from_secs(10) {
            found = server_of(&data).unwrap();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, Some(pid));
    }
}
