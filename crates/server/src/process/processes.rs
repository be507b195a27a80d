//! What /proc says of an instance's processes. Only processes of the service user count: anybody may give his own any command line.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::unistd::Uid;

use super::user::ServiceUser;

/// A process that belongs to an instance and is not its agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LeftBehind {
    pub(super) pid: i32,
    pub(super) kind: Kind,
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Serves the instance's data: a new agent adopts it.
    Server,
    /// A server on a folder in the making; nobody will use that folder.
    Unfinished,
    /// A program that makes a folder.
    Maker,
}

/// The agent that runs with this configuration, whoever started it.
pub(super) fn find_agent(config: &Path, user: ServiceUser) -> Option<i32> {
    all().find(|pid| is_agent(*pid, config, user))
}

/// Whether this process is the agent of this configuration.
pub(super) fn is_agent(pid: i32, config: &Path, user: ServiceUser) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    let words = command_line(pid);
    let is_ours = words.get(1..4).is_some_and(|words| {
        words
            .iter()
            .map(Vec::as_slice)
            .eq([b"agent".as_slice(), b"run", b"--config"])
    }) && words
        .get(4)
        .is_some_and(|word| word == config.as_os_str().as_bytes());
    is_ours && is_of(pid, user)
}

/// What agents of this instance's folder started and did not end.
pub(super) fn left_behind(folder: &Path, user: ServiceUser) -> Vec<LeftBehind> {
    all()
        .filter_map(|pid| {
            let kind = kind(pid, folder)?;
            is_of(pid, user).then_some(LeftBehind { pid, kind })
        })
        .collect()
}

/// Paths below `root` that processes of this user name: a single look for many folders.
pub(super) fn named_below(root: &Path, user: ServiceUser) -> Vec<PathBuf> {
    let words = |pid: &i32| command_line(*pid).into_iter();
    all()
        .filter(|pid| is_of(*pid, user))
        .flat_map(|pid| words(&pid))
        .map(|word| path(&word))
        .filter(|path| path.starts_with(root))
        .collect()
}

/// Its own words first: the working folder of another user's process is hidden from root in some containers.
fn kind(pid: i32, folder: &Path) -> Option<Kind> {
    let words = command_line(pid);
    let program = path(words.first()?);
    let name = program.file_name()?.to_str()?;
    if !matches!(name, "postgres" | "initdb") {
        return None;
    }
    let mut named = words[1..].iter().map(|word| path(word));
    let place = named
        .find(|word| word.starts_with(folder))
        .or_else(|| fs::read_link(format!("/proc/{pid}/cwd")).ok())
        .filter(|place| place.starts_with(folder))?;
    Some(match name {
        "initdb" => Kind::Maker,
        _ if place == folder.join("data") => Kind::Server,
        _ => Kind::Unfinished,
    })
}

fn path(word: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    std::ffi::OsStr::from_bytes(word).into()
}

fn all() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Empty when the process is gone, or is a zombie.
fn command_line(pid: i32) -> Vec<Vec<u8>> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

fn is_of(pid: i32, user: ServiceUser) -> bool {
    let wanted = user
        .ids()
        .map_or_else(|| Uid::effective().as_raw(), |(uid, _)| uid);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    // `Uid:` real, effective, saved, of the file system.
    let mut ids = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .unwrap_or_default()
        .split_whitespace();
    ids.nth(1).and_then(|id| id.parse().ok()) == Some(wanted)
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::process::CommandExt as _,
        process::{Child, Command},
    };

    use super::*;

    fn sleeper(name: &str, words: &[&str]) -> Child {
        // The shell stays in front of `sleep` because of the second command, and keeps the words it was given.
        Command::new("/bin/sh")
            .arg0(name)
            .args(["-c", "sleep 60; true"])
            .args(words)
            .process_group(0)
            .spawn()
            .unwrap()
    }

    /// A process that was started a moment ago may still have its parent's command line, or none; this looks until it has its own.
    fn settled<T: PartialEq>(wanted: T, look: impl Fn() -> T) -> bool {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while std::time::Instant::now() < end {
            if look() == wanted {
                return true;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        look() == wanted
    }

    fn end(mut child: Child) {
        let group = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn only_programs_of_postgres_that_name_the_folder_count() {
        let folder = tempfile::tempdir().unwrap();
        let instance = folder.path().join("pg-0");
        let data = instance.join("data");
        let data = data.to_str().unwrap();
        let user = ServiceUser::own();
        let server = sleeper("/opt/bin/postgres", &["-D", data]);
        let making = sleeper("/opt/bin/postgres", &["-D", &format!("{data}.new")]);
        let maker = sleeper("/opt/bin/initdb", &["--pgdata", &format!("{data}.new")]);
        let reader = sleeper("/usr/bin/less", &[&format!("{data}/PG_VERSION")]);
        // `pg-01` begins with `pg-0`, and is another instance.
        let other = sleeper(
            "/opt/bin/postgres",
            &["-D", &format!("{}1/data", instance.display())],
        );
        let pid = |child: &Child| i32::try_from(child.id()).unwrap();
        let mut expected = [
            (pid(&server), Kind::Server),
            (pid(&making), Kind::Unfinished),
            (pid(&maker), Kind::Maker),
        ];
        expected.sort_by_key(|(pid, _)| *pid);
        let is_seen = settled(expected.to_vec(), || {
            let seen = left_behind(&instance, user);
            let mut seen: Vec<_> = seen.iter().map(|left| (left.pid, left.kind)).collect();
            seen.sort_by_key(|(pid, _)| *pid);
            seen
        });
        for child in [server, making, maker, reader, other] {
            end(child);
        }
        assert!(is_seen);
    }

    #[test]
    fn an_agent_is_found_by_its_configuration_and_its_user() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("agent.json");
        assert_eq!(find_agent(&config, ServiceUser::own()), None);
        // `sh agent run --config FILE` runs a script called `agent`.
        let script = folder.path().join("agent");
        fs::write(&script, "sleep 60; true").unwrap();
        let child = Command::new("/bin/sh")
            .current_dir(folder.path())
            .args(["agent", "run", "--config"])
            .arg(&config)
            .process_group(0)
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let is_found = settled(Some(pid), || find_agent(&config, ServiceUser::own()));
        let strangers = find_agent(&config, ServiceUser::of(65_533, 65_533));
        end(child);
        assert!(is_found);
        assert_eq!(strangers, None);
    }
}
