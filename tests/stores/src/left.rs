//! Programs that outlive the one that started them, until they are ended by id: for people who try things.

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::process::signal;

/// Programs end what they have begun before they end.
const END: Duration = Duration::from_secs(20);

/// File that says what runs, in the folder of what runs.
const FILE: &str = "processes.json";

/// A program that was left running.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Left {
    /// What it is.
    pub name: String,
    /// Its process.
    pub id: u32,
    /// Its start time in clock ticks, since ids are given again.
    started: String,
}

impl Left {
    /// Names a running process; none where it has ended already.
    #[must_use]
    pub fn new(name: &str, id: u32) -> Option<Self> {
        Some(Self {
            name: name.to_owned(),
            id,
            started: started(id)?,
        })
    }

    /// Whether it still runs.
    #[must_use]
    pub fn lives(&self) -> bool {
        started(self.id).is_some_and(|started| started == self.started)
    }

    fn end(&self) {
        let limit = Instant::now() + END;
        if self.lives() {
            signal(self.id, libc::SIGTERM);
        }
        while self.lives() && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(50));
        }
        if self.lives() {
            signal(self.id, libc::SIGKILL);
        }
    }
}

/// Notes what runs, for [`read`].
pub fn write(folder: &Path, left: &[Left]) -> io::Result<()> {
    fs::write(folder.join(FILE), serde_json::to_vec_pretty(left)?)
}

/// What was noted in a folder; none where nothing was.
#[must_use]
pub fn read(folder: &Path) -> Option<Vec<Left>> {
    let text = fs::read(folder.join(FILE)).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Ends all of them, the last one first, and removes the folder.
pub fn end(folder: &Path, left: &[Left]) -> io::Result<()> {
    left.iter().rev().for_each(Left::end);
    fs::remove_dir_all(folder)
}

/// Makes a folder that its owner alone may look into: it holds keys.
pub fn private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

/// Field 22 of /proc/ID/stat, after the name, which may hold anything. One that was ended and not yet waited for does not run any more.
fn started(id: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    (fields.next()? != "Z").then(|| fields.nth(18).map(str::to_owned))?
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn what_was_left_running_is_ended_by_its_id_and_nothing_else_is() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("run");
        private(&folder).unwrap();
        let start = || {
            let mut command = Command::new("sleep");
            command.arg("600").stdout(Stdio::null()).spawn().unwrap()
        };
        let (mut ours, mut other) = (start(), start());
        let mut stale = Left::new("stale", other.id()).unwrap();
        stale.started = "1".to_owned();
        write(&folder, &[stale, Left::new("ours", ours.id()).unwrap()]).unwrap();
        let known = read(&folder).unwrap();
        assert_eq!([known[0].lives(), known[1].lives()], [false, true]);
        end(&folder, &known).unwrap();
        assert!(!ours.wait().unwrap().success());
        assert!(
            other.try_wait().unwrap().is_none(),
            "its id was another's before"
        );
        assert!(!folder.exists() && read(&folder).is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
