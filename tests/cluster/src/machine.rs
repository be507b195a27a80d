//! A machine that is namespaces of the kernel: a network, mounts and processes of its own, all of which end with its first process.
//!
//! Nothing about a machine is remembered: its first process carries the machine's folder in its arguments, and the rest is found from there. So whatever
//! was killed, and whoever asks, sees what there is.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write as _,
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use kubedb_stores::{left::Left, process::signal};

use crate::{
    cgroup,
    error::StartError,
    layout::{Layout, kept},
    processes,
    tools::{mortal, run},
};

/// The kernel makes and ends a machine in milliseconds, and its processes with it.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE_BETWEEN: Duration = Duration::from_millis(10);
const KILL: i32 = 9;

/// Mounts of a machine are seen by its own processes only. Its logs lie where Kubernetes expects them, and what does not survive the end of its power
/// lies in `/run`. A kubelet sets what is the whole kernel's where it finds other values; it finds its own.
const BEGIN: &str = r#"
mount --make-rshared /
mount -t tmpfs -o mode=0755 run /run
mount --bind "$2/log" /var/log
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000
do
  file=/run/$(echo "${setting%=*}" | tr / -)
  echo "${setting#*=}" >"$file"
  mount --bind "$file" "/proc/sys/${setting%=*}"
done
hostname "$3"
ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_forward
exec "$1" "$2"
"#;

/// One machine, which runs or does not.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its name in its cluster.
    pub name: String,
    /// What outlives its power: logs, data.
    pub folder: PathBuf,
    cgroup: String,
}

impl Machine {
    pub(crate) fn new(name: &str, folder: PathBuf, prefix: &str) -> Self {
        Self {
            name: name.to_owned(),
            folder,
            cgroup: format!("{prefix}-{name}"),
        }
    }

    /// A machine of a cluster, by name.
    #[must_use]
    pub fn of(layout: &Layout, name: &str) -> Self {
        Self::new(name, layout.machine(name), &layout.prefix())
    }

    /// Process id of its first process; none while it has no power.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        let ours = self.folder.as_os_str().as_bytes();
        processes::all().find(|&id| {
            let words = processes::words(id);
            matches!(words.as_slice(), [program, folder] if folder == ours && program == pause().as_os_str().as_bytes())
        })
    }

    /// The group that its pods are counted in.
    pub(crate) fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// Gives it power.
    pub(crate) fn begin(&self) -> Result<(), StartError> {
        if self.id().is_some() {
            return Ok(());
        }
        fs::create_dir_all(self.folder.join("log")).map_err(StartError::prepare(&self.folder))?;
        cgroup::make(&self.cgroup)?;
        let log = self.log("init");
        let mut command = Command::new("unshare");
        command
            .args(["--net", "--mount", "--pid", "--uts", "--fork"])
            .args(["--mount-proc", "--propagation", "private", "--"])
            .args(["sh", "-ec", BEGIN, "sh"])
            .arg(pause())
            .arg(&self.folder)
            .arg(&self.name);
        let mut child = spawn(&mut command, &log)?;
        let end = Instant::now() + PATIENCE;
        while self.id().is_none() {
            let ended = child.try_wait().ok().flatten();
            if ended.is_some() || Instant::now() > end {
                let why = ended.map_or_else(
                    || format!("it did not begin within {PATIENCE:?}"),
                    |status| format!("it ended with {status}"),
                );
                return Err(StartError::not_ready(&self.name, why, &log));
            }
            thread::sleep(PAUSE_BETWEEN);
        }
        Ok(())
    }

    /// kill -9 of everything in it at once, as when its power is cut. What was on its disks stays.
    ///
    /// # Errors
    /// When something of it lives on.
    pub fn cut_power(&self) -> Result<(), StartError> {
        let end = Instant::now() + PATIENCE;
        while let Some(first) = self.id().and_then(|id| Left::new(&self.name, id)) {
            signal(first.id, KILL);
            // The kernel ends it after all others of the machine.
            while first.lives() {
                self.wait(end, "it does not end")?;
            }
        }
        cgroup::remove(&self.cgroup)
    }

    /// A command in its network, among its mounts and processes.
    ///
    /// # Errors
    /// When it has no power.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command, StartError> {
        let id = self
            .id()
            .ok_or_else(|| StartError::Unfit(format!("{} has no power", self.name)))?;
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &id.to_string()])
            .args(["--net", "--mount", "--pid", "--uts", "--"])
            .arg(program);
        Ok(command)
    }

    /// Gives lines to a command in the machine.
    pub(crate) fn feed(&self, program: &[&str], lines: &str) -> Result<(), StartError> {
        let mut command = self.command(program[0])?;
        command.args(&program[1..]);
        feed(&mut command, lines)
    }

    /// Starts a program that lives until it is killed.
    pub(crate) fn start(
        &self,
        program: &Path,
        arguments: &[String],
        path: &str,
    ) -> Result<(), StartError> {
        let name = name_of(program);
        if !self.running(&name).is_empty() {
            return Ok(());
        }
        let mut command = self.command(program)?;
        command
            .args(arguments)
            .env_clear()
            .env("HOME", &self.folder)
            .env("PATH", path);
        let log = self.log(&name);
        let mut child = spawn(&mut command, &log)?;
        let end = Instant::now() + PATIENCE;
        while self.running(&name).is_empty() {
            if let Ok(Some(status)) = child.try_wait() {
                let why = format!("it ended with {status}");
                return Err(StartError::not_ready(&name, why, &log));
            }
            self.wait(end, &format!("{name} does not start"))?;
        }
        // Who starts is not who ends it; a thread takes its last word, so that it does not stay as a zombie.
        thread::spawn(move || child.wait());
        Ok(())
    }

    /// Processes of the machine, outside its pods, that were started by this name.
    #[must_use]
    pub fn running(&self, name: &str) -> Vec<u32> {
        let Some(space) = self.id().and_then(processes::space) else {
            return Vec::new();
        };
        processes::all()
            .filter(|&id| processes::space(id).as_deref() == Some(&space))
            .filter(|&id| {
                let words = processes::words(id);
                let program = words.first().map(|word| String::from_utf8_lossy(word));
                program.is_some_and(|program| program.rsplit('/').next() == Some(name))
            })
            .collect()
    }

    /// kill -9 of one program. What it had started stays, as when it crashes.
    ///
    /// # Errors
    /// When it lives on.
    pub fn kill(&self, name: &str) -> Result<(), StartError> {
        let end = Instant::now() + PATIENCE;
        loop {
            let running = self.running(name);
            if running.is_empty() {
                return Ok(());
            }
            running.into_iter().for_each(|id| signal(id, KILL));
            self.wait(end, &format!("{name} does not end"))?;
        }
    }

    /// Where a program of it writes what it has to say.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    fn wait(&self, end: Instant, why: &str) -> Result<(), StartError> {
        if Instant::now() > end {
            let why = format!("{why} within {PATIENCE:?}");
            return Err(StartError::not_ready(&self.name, why, &self.log("init")));
        }
        thread::sleep(PAUSE_BETWEEN);
        Ok(())
    }
}

/// The first process of machines and of pods: it waits, and buries whoever dies without parents.
pub(crate) fn pause() -> PathBuf {
    kept("pause")
}

pub(crate) fn name_of(program: &Path) -> String {
    let name = program.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// kill -9 of every machine of the cluster in this folder: also of those that nobody knows any more, and of those that are just beginning.
pub(crate) fn end_all(cluster: &Path) -> Result<(), StartError> {
    let end = Instant::now() + PATIENCE;
    let mut living: Vec<Left> = Vec::new();
    loop {
        let found = processes::all().filter(|&id| is_of(id, cluster));
        living.extend(found.filter_map(|id| Left::new("machine", id)));
        // The kernel ends a first process after all others of its machine.
        living.retain(Left::lives);
        if living.is_empty() {
            return Ok(());
        }
        if Instant::now() > end {
            let ids: Vec<u32> = living.iter().map(|process| process.id).collect();
            let why = format!("processes {ids:?} do not end within {PATIENCE:?}");
            return Err(StartError::Unfit(why));
        }
        living.iter().for_each(|process| signal(process.id, KILL));
        thread::sleep(PAUSE_BETWEEN);
    }
}

/// Whether this is the first process of a machine of that cluster, or will be.
fn is_of(id: u32, cluster: &Path) -> bool {
    let pause = pause();
    let words = processes::words(id);
    words.windows(2).any(|pair| {
        let folder = Path::new(OsStr::from_bytes(&pair[1]));
        pair[0] == pause.as_os_str().as_bytes() && folder.parent() == Some(cluster)
    })
}

fn spawn(command: &mut Command, log: &Path) -> Result<std::process::Child, StartError> {
    let out = File::options().create(true).append(true).open(log);
    let out = out.map_err(StartError::prepare(log))?;
    let errors = out.try_clone().map_err(StartError::prepare(log))?;
    command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(errors)
        // Ctrl-C is for whoever waits, not for what outlives him.
        .process_group(0)
        .spawn()
        .map_err(|source| StartError::Start {
            program: command.get_program().to_string_lossy().into_owned(),
            source,
        })
}

/// Gives lines to a command and waits for its end.
pub(crate) fn feed(command: &mut Command, lines: &str) -> Result<(), StartError> {
    let words = format!("{command:?}");
    let failed = |source| StartError::Start {
        program: words.clone(),
        source,
    };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut pipe) = child.stdin.take() {
        // One that refuses its input says why itself.
        let _ = pipe.write_all(lines.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    Err(StartError::Refused {
        command: words,
        said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// Removes a folder with everything below, with a tool that bears what lies in a container.
pub(crate) fn remove(folder: &Path) -> Result<(), StartError> {
    run(mortal("rm").arg("-rf").arg("--").arg(folder)).map(drop)
}
