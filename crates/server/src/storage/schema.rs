//! The SQLite file: how it is opened, and what lies in it.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};

/// Format of the file; a file of another format is refused.
const FORMAT: i64 = 1;

/// How long an open waits for the process that holds the file: one that is just ending needs less than a second.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a database file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file or its folder.
    #[error("failed to create {path}")]
    Create {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it.
    #[error("failed to open {path}: another server uses it")]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// SQLite.
    #[error("failed to open {path}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// Written by another version.
    #[error("failed to open {path}: its format is {found}, this program reads {FORMAT}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Format of the file.
        found: i64,
    },
    /// A row that is no object.
    #[error("failed to read {path}: the object {key} is damaged")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which object.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The objects that exist without anyone creating them.
    #[error("failed to create the built-in objects: {message}")]
    BuiltIn {
        /// Why.
        message: String,
    },
    /// The thread that collects what nobody owns any more.
    #[error("failed to start the collector")]
    Collector {
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Opens or creates the file for this process alone.
pub(crate) fn open(path: &Path) -> Result<Connection, OpenError> {
    create(path)?;
    let fail = |source: rusqlite::Error| match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
            OpenError::Busy { path: path.into() }
        }
        _ => OpenError::Sqlite {
            path: path.into(),
            source,
        },
    };
    let connection = Connection::open(path).map_err(fail)?;
    prepare(&connection).map_err(fail)?;
    let found: Option<i64> = connection
        .query_row("SELECT value FROM meta WHERE name = 'format'", [], |row| {
            row.get(0)
        })
        .optional()
        .map_err(fail)?;
    match found {
        Some(FORMAT) => Ok(connection),
        Some(found) => Err(OpenError::Format {
            path: path.into(),
            found,
        }),
        None => {
            connection
                .execute(
                    "INSERT INTO meta(name, value) VALUES ('format', ?1), ('revision', 1)",
                    [FORMAT],
                )
                .map_err(fail)?;
            Ok(connection)
        }
    }
}

/// Creates the file before SQLite does, since SQLite would let others read it. It holds Secrets.
fn create(path: &Path) -> Result<(), OpenError> {
    let fail = |source| OpenError::Create {
        path: path.into(),
        source,
    };
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(fail)?;
    }
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|file| file.set_permissions(Permissions::from_mode(0o600)))
        .map_err(fail)
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // EXCLUSIVE before WAL: no shared memory file, and a second server is turned away.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
         CREATE TABLE IF NOT EXISTS objects(
             grp TEXT NOT NULL, resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
             uid TEXT NOT NULL, revision INTEGER NOT NULL, json TEXT NOT NULL,
             PRIMARY KEY (grp, resource, namespace, name)) STRICT, WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS log(
             revision INTEGER PRIMARY KEY, type TEXT NOT NULL,
             grp TEXT NOT NULL, resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
             json TEXT NOT NULL) STRICT;
         CREATE TABLE IF NOT EXISTS tokens(
             namespace TEXT NOT NULL, database TEXT NOT NULL, instance TEXT NOT NULL,
             token TEXT NOT NULL UNIQUE, secrets TEXT NOT NULL,
             PRIMARY KEY (namespace, database, instance)) STRICT;",
    )
}
