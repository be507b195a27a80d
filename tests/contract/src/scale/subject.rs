//! The operator: the real program, as a process of its own.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::{Failure, Subject, world::World};

/// It hears of the end at once, and lets its Lease go.
const END: Duration = Duration::from_secs(20);
/// The kernel tells user space of hundredths of a second, whatever it counts in itself.
const TICKS: f64 = 100.0;
/// For an answer that is made of a thousand databases.
const ASK: Duration = Duration::from_secs(10);

/// A running operator; killed on drop.
pub(super) struct Operator {
    child: Child,
    health: SocketAddr,
    pub(super) started: Instant,
    log: PathBuf,
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Operator {
    pub(super) fn start(subject: &Subject, world: &World, name: &str) -> Result<Self, Failure> {
        let health = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let log = world.folder.join(format!("{name}.log"));
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&subject.binary)
            .args(["operator", "--image", "kubedb:bench", "--identity", name])
            .args(["--health", &health.to_string()])
            .env("KUBECONFIG", &world.kubeconfig)
            .envs(world.environment.clone())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()?;
        Ok(Self {
            child,
            health,
            started: Instant::now(),
            log,
        })
    }

    /// Ends it as a pod is ended.
    pub(super) fn stop(mut self) -> Result<(), Failure> {
        kubedb_stores::process::signal(self.child.id(), 15);
        let limit = Instant::now() + END;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > limit {
                return Err(self.failed("it does not end"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// A failure, with the end of its log.
    pub(super) fn failed(&self, why: &str) -> Failure {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let end = lines[lines.len().saturating_sub(15)..].join("\n");
        format!("the operator: {why}; the end of its log:\n{end}").into()
    }

    /// Megabytes of a line of `/proc/ID/status`: `VmRSS`, what it has now, and `VmHWM`, the most it ever had.
    pub(super) fn memory(&self, line: &str) -> Result<f64, Failure> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let found = text.lines().find_map(|found| {
            let rest = found.strip_prefix(line)?.strip_prefix(':')?;
            rest.split_whitespace().next()?.parse::<f64>().ok()
        });
        let kilobytes = found.ok_or_else(|| self.failed("it ended"))?;
        Ok(kilobytes / 1_024.0)
    }

    /// Seconds of a processor that it has used.
    pub(super) fn cpu(&self) -> Result<f64, Failure> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name, in brackets, may hold anything.
        let (_, fields) = text.rsplit_once(')').ok_or("no process")?;
        let ticks = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<f64>().ok());
        Ok(ticks.sum::<f64>() / TICKS)
    }

    /// Its metrics; none as long as it does not answer.
    pub(super) fn metrics(&self) -> Option<String> {
        let mut stream = TcpStream::connect_timeout(&self.health, ASK).ok()?;
        stream.set_read_timeout(Some(ASK)).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    }
}

/// Sum of the samples whose name and labels begin so.
pub(super) fn sum(metrics: &str, begin: &str) -> f64 {
    let its = metrics.lines().filter(|line| line.starts_with(begin));
    its.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}
