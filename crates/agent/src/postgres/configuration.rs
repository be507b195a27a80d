//! The files PostgreSQL is started with. Written whole before every start, by this agent alone.

use std::{collections::BTreeMap, fs, io, path::Path};

use kubedb_engine::postgres::dialect::{PgDialect, RecoveryFiles, quote_setting};

use super::tablespaces;
use crate::{paths::Paths, state::replace};

/// Role that standbys connect as.
pub const REPLICATION_ROLE: &str = "kubedb_replication";
/// A volume below this gets small WAL settings: the guide's has 50 MiB.
const SMALL_VOLUME_BYTES: u64 = 1 << 30;

/// What decides the files.
#[derive(Clone, Debug, PartialEq)]
pub struct Configuration {
    /// Differences of the major.
    pub dialect: PgDialect,
    /// Address to listen on; none for a server that only the agent may reach.
    pub listen: Option<(String, u16)>,
    /// Port that names the Unix socket.
    pub socket_port: u16,
    /// Whether users may connect: not to a warm standby.
    pub accepts_users: bool,
    /// The primary to follow; none on a primary and while restoring.
    pub follow: Option<Follow>,
    /// Whether to stay in recovery.
    pub is_standby: bool,
    /// Size of the volume, when the user said one.
    pub volume_bytes: Option<u64>,
    /// Lower bounds of settings that recovery needs, such as `max_connections` of the server that wrote the WAL.
    pub at_least: BTreeMap<String, u64>,
    /// Whether the database is known to have no other instance.
    pub is_alone: bool,
    /// What happens to WAL.
    pub wal: WalSettings,
    /// Whether it is filled, by a server that begins anew when anything goes wrong: then nothing need be on the disk before the end.
    pub is_filled: bool,
}

/// Where WAL goes to, and comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalSettings {
    /// Command that archives a file; without one nothing is archived.
    pub archive_command: Option<String>,
    /// An archive to recover from.
    pub recovery: Option<RecoverySettings>,
}

/// How a server recovers from an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoverySettings {
    /// Command that fetches a file.
    pub restore_command: String,
    /// Timeline to follow. Never `latest`: it was planned which one is.
    pub timeline: u32,
    /// Where to end, as `recovery_target…` settings.
    pub target: Vec<(&'static str, String)>,
}

impl WalSettings {
    /// Settings that nobody may set otherwise: an `ALTER SYSTEM` of the source would come along with its data, and archive nothing.
    fn fixed(&self) -> Vec<(&'static str, String)> {
        let command = self.archive_command.as_deref();
        let mut settings = vec![
            // Turning archive_mode on later costs a restart; a command that does nothing costs nothing.
            ("archive_mode", "on".to_owned()),
            ("archive_command", command.unwrap_or("true").to_owned()),
        ];
        if command.is_some() {
            settings.push(("archive_timeout", ARCHIVE_TIMEOUT.to_owned()));
        }
        settings
    }
}

/// Settings of a server that is filled.
const FILLING: [(&str, &str); 5] = [
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("synchronous_commit", "off"),
    ("autovacuum", "off"),
    ("maintenance_work_mem", "128MB"),
];

/// Nothing that was written waits longer for its segment to be full.
const ARCHIVE_TIMEOUT: &str = "60s";
/// A recovering server that finds no more WAL looks again so soon.
const RETRY_INTERVAL: &str = "500ms";

/// Settings that a recovering server must have as high as the server that wrote its WAL, and what we give them.
const NEEDS: [(&str, u64); 5] = [
    ("max_connections", 100),
    ("max_worker_processes", 8),
    ("max_prepared_transactions", 0),
    ("max_locks_per_transaction", 64),
    ("max_wal_senders", 20),
];

impl Configuration {
    /// What a setting that recovery needs is set to.
    #[must_use]
    pub fn setting(&self, name: &str) -> u64 {
        self.needs()
            .find(|(known, _)| *known == name)
            .map_or(u64::MAX, |(_, value)| value)
    }

    fn needs(&self) -> impl Iterator<Item = (&'static str, u64)> {
        NEEDS.iter().map(|(name, value)| {
            let bound = self.at_least.get(*name).copied().unwrap_or(0);
            (*name, bound.max(*value))
        })
    }

    /// Settings for the command line, each as `name=value`. A copy brings along what ALTER SYSTEM wrote on its source, which stands above
    /// `postgresql.conf` and may be older than the WAL that is replayed.
    #[must_use]
    pub fn overrides(&self) -> Vec<String> {
        let mut fixed = self.wal.fixed();
        if self.dialect.has_archive_library() {
            // It would take the place of the command, and come along with a copy.
            fixed.push(("archive_library", String::new()));
        }
        if self.is_filled {
            let settings = FILLING.map(|(name, value)| (name, value.to_owned()));
            fixed.extend(settings);
        }
        let fixed = fixed.into_iter();
        let mut overrides: Vec<String> = fixed
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        if self.is_standby {
            let needs = self.needs();
            overrides.extend(needs.map(|(name, value)| format!("{name}={value}")));
            if self.dialect.recovery_files() == RecoveryFiles::SignalFile {
                let recovery = recovery_settings(self).into_iter();
                overrides.extend(recovery.map(|(name, value)| format!("{name}={value}")));
            }
        } else {
            // A primary that was left two targets would not start.
            let none = self.dialect.no_target().iter();
            overrides.extend(none.map(|(name, value)| format!("{name}={value}")));
        }
        overrides
    }
}

/// How a standby reaches its primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follow {
    /// Host.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Name shown in `pg_stat_replication`: the instance.
    pub application_name: String,
    /// Slot on the primary.
    pub slot: String,
}

/// A standby that has lost its primary need not ask every half second.
fn retry_interval(configuration: &Configuration) -> &'static str {
    match configuration.wal.recovery {
        Some(_) => RETRY_INTERVAL,
        None => "5s",
    }
}

/// Text of `postgresql.conf`.
#[must_use]
pub fn postgresql_conf(paths: &Paths, data: &Path, configuration: &Configuration) -> String {
    let path = |path: &Path| quote_setting(&path.display().to_string());
    let small = configuration
        .volume_bytes
        .is_some_and(|bytes| bytes < SMALL_VOLUME_BYTES);
    let (address, port) = match &configuration.listen {
        Some((address, port)) => (address.as_str(), *port),
        None => ("", configuration.socket_port),
    };
    let mut lines = vec![
        "# Written by kubedb before every start. Use ALTER SYSTEM for settings of your own."
            .to_owned(),
        format!("data_directory = {}", path(data)),
        format!("hba_file = {}", path(&paths.conf().join("pg_hba.conf"))),
        format!("ident_file = {}", path(&paths.conf().join("pg_ident.conf"))),
        format!("listen_addresses = {}", quote_setting(address)),
        format!("port = {port}"),
        format!("unix_socket_directories = {}", path(paths.socket())),
        "unix_socket_permissions = 0700".to_owned(),
        "max_replication_slots = 20".to_owned(),
        "shared_buffers = '128MB'".to_owned(),
        "timezone = 'UTC'".to_owned(),
        "wal_level = replica".to_owned(),
        "wal_log_hints = on".to_owned(),
        "hot_standby = on".to_owned(),
        configuration.dialect.wal_keep(if small { 0 } else { 256 }),
        format!(
            "wal_retrieve_retry_interval = {}",
            quote_setting(retry_interval(configuration))
        ),
        format!("min_wal_size = '{}'", if small { "32MB" } else { "80MB" }),
        format!("max_wal_size = '{}'", if small { "64MB" } else { "1GB" }),
        format!(
            "password_encryption = {}",
            match configuration.dialect.password_method() {
                "md5" => "on",
                method => method,
            }
        ),
        "logging_collector = on".to_owned(),
        format!("log_directory = {}", path(&paths.log())),
        // Seven files that overwrite themselves: a log never fills the volume for good.
        "log_filename = 'postgresql-%a.log'".to_owned(),
        "log_truncate_on_rotation = on".to_owned(),
        "log_rotation_age = '1d'".to_owned(),
        "log_rotation_size = 0".to_owned(),
        "log_line_prefix = '%m [%p] %q%u@%d '".to_owned(),
        "log_timezone = 'UTC'".to_owned(),
    ];
    let needs = configuration.needs();
    lines.extend(needs.map(|(name, value)| format!("{name} = {value}")));
    let mut settings = configuration.wal.fixed();
    if configuration.dialect.recovery_files() == RecoveryFiles::SignalFile {
        settings.extend(recovery_settings(configuration));
    }
    lines.extend(settings.iter().map(setting));
    lines.join("\n") + "\n"
}

fn setting((name, value): &(&'static str, String)) -> String {
    format!("{name} = {}", quote_setting(value))
}

/// What stands later counts.
fn recovery_settings(configuration: &Configuration) -> Vec<(&'static str, String)> {
    let dialect = configuration.dialect;
    let own = match &configuration.wal.recovery {
        Some(recovery) => {
            let mut settings = vec![
                ("recovery_target_timeline", recovery.timeline.to_string()),
                ("restore_command", recovery.restore_command.clone()),
            ];
            settings.extend(recovery.target.iter().cloned());
            settings
        }
        None => following_settings(configuration),
    };
    // A standby of ours may lag on purpose, or look for WAL elsewhere too. What is restored heeds nothing that its source has left.
    let foreign = match configuration.follow {
        Some(_) => &[],
        None => dialect.no_source(),
    };
    let left = dialect.no_target().iter().chain(foreign);
    let left = left.filter(|(name, _)| own.iter().all(|(known, _)| known != name));
    let mut settings: Vec<(&'static str, String)> = left
        .map(|(name, value)| (*name, (*value).to_owned()))
        .collect();
    settings.extend(own);
    settings
}

fn following_settings(configuration: &Configuration) -> Vec<(&'static str, String)> {
    let mut settings = vec![("recovery_target_timeline", "latest".to_owned())];
    if let Some(follow) = &configuration.follow {
        let conninfo = format!(
            "host={} port={} user={REPLICATION_ROLE} application_name={} connect_timeout=10 keepalives_idle=10 keepalives_interval=5 keepalives_count=3",
            follow.host, follow.port, follow.application_name
        );
        settings.push(("primary_conninfo", conninfo));
        settings.push(("primary_slot_name", follow.slot.clone()));
    }
    settings
}

/// Text of `pg_hba.conf`. The socket lies in a folder that only the agent's user can enter, hence `trust`.
#[must_use]
pub fn pg_hba(configuration: &Configuration) -> String {
    let method = configuration.dialect.password_method();
    let users = if configuration.accepts_users {
        method
    } else {
        "reject"
    };
    let mut text =
        String::from("# Written by kubedb.\nlocal all all trust\nlocal replication all trust\n");
    for address in ["0.0.0.0/0", "::/0"] {
        text += &format!("host replication {REPLICATION_ROLE} {address} {method}\n");
        text += &format!("host all {REPLICATION_ROLE} {address} reject\n");
        text += &format!("host all all {address} {users}\n");
    }
    text
}

/// Writes all files, and the recovery files into the data folder.
pub fn write(
    paths: &Paths,
    data: &Path,
    configuration: &Configuration,
    replication_password: Option<&str>,
) -> io::Result<()> {
    let conf = paths.conf();
    make_private(&conf)?;
    make_private(&paths.log())?;
    make_private(paths.socket())?;
    replace(
        &conf.join("postgresql.conf"),
        postgresql_conf(paths, data, configuration).as_bytes(),
    )?;
    replace(&conf.join("pg_hba.conf"), pg_hba(configuration).as_bytes())?;
    replace(&conf.join("pg_ident.conf"), b"# Written by kubedb.\n")?;
    if let Some(password) = replication_password {
        write_passfile(paths, password)?;
    }
    tablespaces::allow(data, configuration.is_alone && !configuration.is_standby)?;
    write_recovery_files(data, configuration)
}

/// Writes the password that a standby connects with; a running one reads it at its next connection. One that is there already is left
/// alone.
pub fn write_passfile(paths: &Paths, password: &str) -> io::Result<()> {
    let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
    let line = format!("*:*:*:{REPLICATION_ROLE}:{escaped}\n");
    if fs::read(paths.passfile()).is_ok_and(|known| known == line.as_bytes()) {
        return Ok(());
    }
    replace(&paths.passfile(), line.as_bytes())
}

fn write_recovery_files(data: &Path, configuration: &Configuration) -> io::Result<()> {
    match configuration.dialect.recovery_files() {
        RecoveryFiles::SignalFile => {
            let signal = data.join("standby.signal");
            if configuration.is_standby {
                replace(&signal, b"")
            } else {
                remove_if_there(&signal)
            }
        }
        RecoveryFiles::RecoveryConf => {
            let file = data.join("recovery.conf");
            if configuration.is_standby {
                let mut lines = vec!["standby_mode = on".to_owned()];
                lines.extend(recovery_settings(configuration).iter().map(setting));
                replace(&file, (lines.join("\n") + "\n").as_bytes())
            } else {
                remove_if_there(&file)
            }
        }
    }
}

fn make_private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
