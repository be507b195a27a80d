//! Why rows were not dumped, or not loaded.

use std::io;

use super::{client::SqlError, split::SplitError};
use crate::restore::RestoreError;

/// Why a logical Snapshot was not taken, in words for the user of the database.
#[derive(Debug, thiserror::Error)]
pub enum LogicalError {
    /// There is no program that can read the schema.
    #[error(
        "failed to take a logical Snapshot: it needs pg_dump of PostgreSQL {server} or later, and {found}; install postgresql-client-{server} on the database's machine, or use method Physical"
    )]
    NoProgram {
        /// Major of the server.
        server: String,
        /// What there is.
        found: String,
    },
    /// The program was not run.
    #[error("failed to run {program}: {source}")]
    RunProgram {
        /// Its path.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The program did not succeed.
    #[error("failed to read the schema of database {database:?}: {words}")]
    Program {
        /// The database.
        database: String,
        /// What it said.
        words: String,
    },
    /// The server is reached in a way that is not built.
    #[error("failed to take a logical Snapshot: the server has no socket on this machine")]
    Address,
    /// A statement failed.
    #[error("failed to {what} of database {database:?}: {source}")]
    Sql {
        /// What was done.
        what: &'static str,
        /// The database.
        database: String,
        /// What the server said.
        #[source]
        source: SqlError,
    },
    /// A database that nobody may enter.
    #[error(
        "failed to take a logical Snapshot: database {database:?} allows no connections, so its rows cannot be read; ALTER DATABASE … ALLOW_CONNECTIONS true, or drop it"
    )]
    Closed {
        /// The database.
        database: String,
    },
    /// Something that a logical Snapshot cannot hold.
    #[error("failed to take a logical Snapshot: {what} is not built")]
    Unbuilt {
        /// What.
        what: String,
    },
    /// Only the primary has it.
    #[error(
        "failed to take a logical Snapshot of a standby: {what}, so it is taken of the primary"
    )]
    PrimaryAlone {
        /// Why.
        what: String,
    },
    /// A table was made anew between the snapshot and the lock, and would look empty.
    #[error(
        "failed to read table {table} of database {database:?}: it was rewritten or truncated at the moment that the Snapshot began"
    )]
    Rewritten {
        /// The database.
        database: String,
        /// The table.
        table: String,
    },
    /// Replay did not pause.
    #[error("failed to bring all databases to one point: replay did not pause within {seconds} s")]
    Pause {
        /// How long.
        seconds: u64,
    },
    /// The list of what it holds was not written.
    #[error("failed to list what the Snapshot holds: {0}")]
    Contents(#[source] serde_json::Error),
}

impl LogicalError {
    /// Whether a further attempt may succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NoProgram { .. }
            | Self::RunProgram { .. }
            | Self::Address
            | Self::Closed { .. }
            | Self::Unbuilt { .. }
            | Self::Contents(_) => false,
            // It says no more than its words: a lock, a conflict, a server that stops, or what it does not know.
            Self::Program { .. } => true,
            Self::Sql { source, .. } => source.is_passing(),
            Self::PrimaryAlone { .. } | Self::Rewritten { .. } | Self::Pause { .. } => true,
        }
    }

    pub(crate) fn sql(what: &'static str, database: &str) -> impl FnOnce(SqlError) -> Self + use<> {
        let database = database.to_owned();
        move |source| Self::Sql {
            what,
            database,
            source,
        }
    }
}

/// Why a logical Snapshot was not loaded, in words for the user of the database.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The Snapshot could not be had.
    #[error(transparent)]
    Snapshot(#[from] RestoreError),
    /// The target is older than what was dumped.
    #[error(
        "failed to restore Snapshot {snapshot}: it holds PostgreSQL {theirs}, and this database runs PostgreSQL {ours}; a logical Snapshot is restored by the same major version or a later one"
    )]
    Older {
        /// Name of the Snapshot.
        snapshot: String,
        /// Version that was dumped.
        theirs: String,
        /// Version that would load it.
        ours: String,
    },
    /// A database was asked for that it does not hold.
    #[error(
        "failed to restore Snapshot {snapshot}: it holds no database {database:?}; it holds {known}"
    )]
    NoDatabase {
        /// Name of the Snapshot.
        snapshot: String,
        /// The database.
        database: String,
        /// Those that it has.
        known: String,
    },
    /// A statement failed.
    #[error("failed to restore database {database:?}: {source}, at: {statement}")]
    Statement {
        /// The database.
        database: String,
        /// The beginning of the statement.
        statement: String,
        /// What the server said.
        #[source]
        source: SqlError,
    },
    /// Other rows came than were written.
    #[error(
        "failed to restore database {database:?}: table {table} has taken {taken} rows, the Snapshot holds {held}"
    )]
    Rows {
        /// The database.
        database: String,
        /// The table.
        table: String,
        /// Rows loaded.
        taken: u64,
        /// Rows dumped.
        held: u64,
    },
    /// A schema that cannot be taken apart.
    #[error("failed to restore database {database:?}: its schema cannot be read: {source}")]
    Split {
        /// The database.
        database: String,
        /// What is wrong.
        #[source]
        source: SplitError,
    },
    /// A command for psql, which is never carried out.
    #[error(
        "failed to restore database {database:?}: its schema holds a command of psql: {command}"
    )]
    Meta {
        /// The database.
        database: String,
        /// The command.
        command: String,
    },
    /// A name that psql cannot connect to.
    #[error(
        "failed to export: psql cannot connect to a database whose name has an end of line: {database:?}"
    )]
    Name {
        /// The database.
        database: String,
    },
    /// What was exported could not be written.
    #[error("failed to write the export: {0}")]
    Write(#[source] io::Error),
}

impl LoadError {
    /// Whether trying again may succeed without anybody changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Snapshot(error) => error.is_retryable(),
            Self::Statement { source, .. } => source.is_passing(),
            _ => false,
        }
    }

    /// Whether another try cannot help before somebody changes something.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Snapshot(error) => !error.is_retryable() && !error.is_mendable(),
            _ => !self.is_retryable(),
        }
    }

    /// Whether it proves that the Snapshot does not hold what it should.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Snapshot(error) => error.is_damage(),
            Self::Rows { .. } | Self::Split { .. } | Self::Meta { .. } => true,
            Self::Statement { source, .. } => !source.is_passing(),
            _ => false,
        }
    }

    pub(crate) fn statement(
        database: &str,
        statement: &[u8],
    ) -> impl FnOnce(SqlError) -> Self + use<> {
        let (database, statement) = (database.to_owned(), super::split::head(statement));
        move |source| Self::Statement {
            database,
            statement,
            source,
        }
    }
}
