//! A logical Snapshot as one text that psql loads: `dumpfile.sql`, as pg_dumpall would have written it.

use std::sync::Arc;

use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use super::{
    contents::{Contents, Database, POST_DATA, PRE_DATA, SEQUENCES, Table, column_list},
    error::LoadError,
    globals::{OWN_ROLES, Told},
    load::{MADE, Statements, chosen, contents},
    quote::{connect, ident, qualified},
};
use crate::{
    backup::BackupProgress,
    postgres::dialect::PgDialect,
    restore::{Files, RestoreError},
    store::Store,
};

/// Which Snapshot to export, and what of it.
#[derive(Clone, Debug)]
pub struct ExportRequest {
    /// Where it is.
    pub store: Store,
    /// Key of its manifest below the store's root.
    pub manifest: String,
    /// The databases to write; all where absent. Roles are always written.
    pub databases: Option<Vec<String>>,
}

/// What every session is set to, in words that all majors know.
const SESSION: &str = "SET statement_timeout = 0;
SET lock_timeout = 0;
SET default_transaction_read_only = off;
SET row_security = off;
SET lc_monetary = 'C';
";

/// Writes it, as it is read. Gives the bytes that were written.
pub async fn export(
    request: ExportRequest,
    into: impl AsyncWrite + Unpin,
    progress: watch::Sender<BackupProgress>,
    cancel: CancellationToken,
) -> Result<u64, LoadError> {
    let files = Files::open(&request.store, &request.manifest, cancel.clone()).await?;
    let contents = contents(&files).await?;
    let snapshot = files.manifest().snapshot.clone();
    let chosen = chosen(&contents, request.databases.as_deref(), &snapshot)?;
    let no_end_of_line = |name: &str| !name.contains(['\n', '\r']);
    if let Some(strange) = chosen.iter().find(|one| !no_end_of_line(&one.name)) {
        return Err(LoadError::Name {
            database: strange.name.clone(),
        });
    }
    let mut writer = Writer {
        into,
        written: 0,
        total: files.manifest().sizes.database_bytes,
        progress,
        files: files.clone(),
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(LoadError::Snapshot(RestoreError::Cancelled)),
        written = writer.write_all(&contents, &chosen) => written,
    }
}

struct Writer<W> {
    into: W,
    written: u64,
    total: u64,
    progress: watch::Sender<BackupProgress>,
    files: Arc<Files>,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    async fn write_all(
        &mut self,
        contents: &Contents,
        databases: &[&Database],
    ) -> Result<u64, LoadError> {
        let manifest = self.files.manifest();
        let head = format!(
            "--\n-- PostgreSQL {} as of {}: Snapshot {} of {}/{}, written by kubedb\n--\n\n",
            manifest.cluster.postgres_version,
            manifest.created,
            manifest.snapshot,
            manifest.namespace,
            manifest.database,
        );
        self.text(&head).await?;
        self.text("SET default_transaction_read_only = off;\nSET client_encoding = 'UTF8';\nSET standard_conforming_strings = on;\n\n").await?;
        for role in OWN_ROLES {
            // Something may have been granted to it.
            let name = ident(role);
            self.text(&format!("DO $do$ BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{role}') THEN CREATE ROLE {name}; END IF; END $do$;\n")).await?;
        }
        self.statements(&contents.make_roles()).await?;
        for database in databases {
            self.database(database).await?;
        }
        self.text("\n").await?;
        self.text(
            &(connect("postgres")
                + "\n\nSET default_transaction_read_only = off;\nSET client_encoding = 'UTF8';\n"),
        )
        .await?;
        for database in databases {
            self.statements(&database.finish()).await?;
        }
        let by_name = databases.iter().map(|one| (one.name.as_str(), *one));
        self.statements(&contents.make_settings(&by_name.collect()))
            .await?;
        self.into.flush().await.map_err(LoadError::Write)?;
        Ok(self.written)
    }

    async fn database(&mut self, database: &Database) -> Result<(), LoadError> {
        self.text("\n").await?;
        if !MADE.contains(&database.name.as_str()) {
            self.text(&(database.create(self.major()) + "\n")).await?;
        }
        self.text(&(connect(&database.name) + "\n\n")).await?;
        self.text(&format!(
            "{SESSION}SET client_encoding = '{}';\n\n",
            database.text_encoding()
        ))
        .await?;
        self.schema(database, PRE_DATA).await?;
        let has_extensions = database.tables.iter().any(|table| table.is_extensions);
        if has_extensions {
            self.text("SET session_replication_role = replica;\n")
                .await?;
        }
        for table in &database.tables {
            self.table(table, database).await?;
        }
        if has_extensions {
            self.text("RESET session_replication_role;\n").await?;
        }
        self.schema(database, SEQUENCES).await?;
        if let Some(part) = &database.large_objects {
            self.large_objects(&part.file).await?;
        }
        self.text("\n").await?;
        self.schema(database, POST_DATA).await
    }

    /// The major that it was dumped of, which is the earliest that may load it.
    fn major(&self) -> u32 {
        let theirs = PgDialect::of(&self.files.manifest().cluster.postgres_version);
        theirs.map_or(9, PgDialect::number)
    }

    /// Statements and nothing else: a comment of pg_dump holds names, which a psql may take for commands.
    async fn schema(&mut self, database: &Database, file: &str) -> Result<(), LoadError> {
        let reading = self.files.read(&database.file(file))?;
        let mut statements = Statements::new(reading, &database.name, self.major());
        while let Some(mut statement) = statements.next().await? {
            statement.push(b'\n');
            self.bytes(&statement).await?;
        }
        Ok(())
    }

    async fn table(&mut self, table: &Table, database: &Database) -> Result<(), LoadError> {
        let (schema, name) = match &table.into {
            Some((schema, name)) => (schema, name),
            None => (&table.schema, &table.name),
        };
        let encoding = if database.encoding == database.text_encoding() {
            String::new()
        } else {
            format!(" WITH (ENCODING '{}')", database.encoding)
        };
        let copy = format!(
            "\nCOPY {}{} FROM stdin{encoding};\n",
            qualified(schema, name),
            column_list(&table.columns)
        );
        self.text(&copy).await?;
        for part in &table.parts {
            self.rows(&part.file).await?;
        }
        self.text("\\.\n\n").await
    }

    /// Rows as they are. One that psql would take for the end of all would have it read on as statements, and commands.
    async fn rows(&mut self, file: &str) -> Result<(), LoadError> {
        let mut reading = self.files.read(file)?;
        let mut guard = Guard::default();
        while let Some(piece) = reading.next().await? {
            if guard.ends_within(&piece) {
                return Err(self.wrong(file, "a row of it is none that COPY writes"));
            }
            self.bytes(&piece).await?;
        }
        if guard.is_between() {
            Ok(())
        } else {
            Err(self.wrong(file, "it ends within a row"))
        }
    }

    fn wrong(&self, file: &str, reason: &str) -> LoadError {
        LoadError::Snapshot(RestoreError::Damaged {
            snapshot: self.files.manifest().snapshot.clone(),
            object: file.to_owned(),
            label: "the Snapshot".to_owned(),
            reason: reason.to_owned(),
        })
    }

    /// Rows of `id`, place and content, each as a statement.
    async fn large_objects(&mut self, file: &str) -> Result<(), LoadError> {
        self.text("\nBEGIN;\n").await?;
        let mut reading = self.files.read(file)?;
        let mut rest = Vec::new();
        while let Some(piece) = reading.next().await? {
            rest.extend_from_slice(&piece);
            let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else {
                continue;
            };
            let lines: Vec<u8> = rest.drain(..=end).collect();
            let mut text = String::with_capacity(lines.len() + lines.len() / 16);
            for line in String::from_utf8_lossy(&lines).lines() {
                let mut cells = line.split('\t');
                let (id, at, data) = (cells.next(), cells.next(), cells.next());
                let strange = || self.wrong(file, "a row of it is no page of a large object");
                text += &page_of(id, at, data).ok_or_else(strange)?;
            }
            self.text(&text).await?;
        }
        self.text("COMMIT;\n").await
    }

    async fn statements(&mut self, statements: &[Told]) -> Result<(), LoadError> {
        for Told { statement } in statements {
            self.text(&format!("{statement}\n")).await?;
        }
        Ok(())
    }

    async fn text(&mut self, text: &str) -> Result<(), LoadError> {
        self.bytes(text.as_bytes()).await
    }

    async fn bytes(&mut self, bytes: &[u8]) -> Result<(), LoadError> {
        let written = self.into.write_all(bytes).await;
        written.map_err(LoadError::Write)?;
        self.written += bytes.len() as u64;
        self.progress.send_replace(BackupProgress {
            done_bytes: self.written,
            total_bytes: self.total.max(self.written),
            uploaded_bytes: self.files.fetched(),
        });
        Ok(())
    }
}

/// The statement that writes a page of a large object.
fn page_of(id: Option<&str>, at: Option<&str>, data: Option<&str>) -> Option<String> {
    let (id, at): (u32, u64) = (id?.parse().ok()?, at?.parse().ok()?);
    // A backslash is written twice in a copy.
    let digits = data?.strip_prefix("\\\\x")?;
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| format!("SELECT pg_catalog.lo_put({id}, {at}, '\\x{digits}');\n"))
}

/// Looks for a line that begins as the end of all rows does, which `COPY` writes for no row.
#[derive(Debug, Default)]
struct Guard {
    /// Bytes of the line in work, up to two.
    line: Vec<u8>,
}

impl Guard {
    /// Whether one begins in this piece.
    fn ends_within(&mut self, piece: &[u8]) -> bool {
        for byte in piece {
            if *byte == b'\n' {
                self.line.clear();
            } else if self.line.len() < 2 {
                self.line.push(*byte);
                if self.line == b"\\." {
                    return true;
                }
            }
        }
        false
    }

    /// Whether the last line has ended.
    fn is_between(&self) -> bool {
        self.line.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_row_ends_the_rows() {
        let found = |pieces: &[&str]| {
            let mut guard = Guard::default();
            let mut pieces = pieces.iter();
            pieces.any(|piece| guard.ends_within(piece.as_bytes()))
        };
        assert!(found(&["\\.\n"]) && found(&["a\n", "\\", ".\n\\! x"]) && found(&["\\.x"]));
        assert!(!found(&["\\\\.\n", "a\\.\n", "\\N\n"]));
        let mut guard = Guard::default();
        assert!(!guard.ends_within(b"a\nb") && !guard.is_between());
        assert!(!guard.ends_within(b"\n") && guard.is_between());
    }

    #[test]
    fn a_page_is_numbers_and_digits() {
        let page = page_of(Some("7"), Some("2048"), Some("\\\\x00ff"));
        assert_eq!(
            page.unwrap(),
            "SELECT pg_catalog.lo_put(7, 2048, '\\x00ff');\n"
        );
        for (id, data) in [("7)", "\\\\x00"), ("7", "\\\\x00'"), ("7", "00")] {
            assert_eq!(page_of(Some(id), Some("0"), Some(data)), None);
        }
    }
}
