//! Which tables of a database have rows of their own, and how they are read.

use std::collections::HashMap;

use super::{
    client::Client,
    contents::{Table, column_list},
    error::LogicalError,
    globals::Cells,
    quote::{ident, literal, qualified},
};
use crate::postgres::dialect::PgDialect;

/// A table that is larger is read in pieces of this size, side by side.
const PIECE_PAGES: u64 = (1 << 30) / 8_192;

/// Names in one LOCK statement.
const LOCKS: usize = 200;

/// A table, or a sequence, as it will be read.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) table: Table,
    pub(crate) is_sequence: bool,
    /// Which rows of an extension's table are the user's.
    filter: Option<String>,
    /// Its length in pages of 8 KiB.
    pages: u64,
    oid: String,
}

/// Members of extensions stand apart: an extension says which of its tables hold what a user has put there.
const RELATIONS: &str = "SELECT c.oid::text, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, e.condition,
        (e.member IS NOT NULL)::text, (e.condition IS NOT NULL)::text,
        CASE WHEN c.relkind = 'r' THEN (pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::bigint)::text END
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN (SELECT d.objid AS member, (SELECT x.condition FROM (SELECT pg_catalog.unnest(extconfig) AS relation, pg_catalog.unnest(extcondition) AS condition
                FROM pg_catalog.pg_extension WHERE oid = d.refobjid) x WHERE x.relation = d.objid) AS condition
            FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objsubid = 0
                AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e') e ON e.member = c.oid
    WHERE c.relkind IN ('r', 'S') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    ORDER BY 2, 3";

/// Of each table, the columns that are stored and not computed.
const COLUMNS: &str = "SELECT a.attrelid::text, a.attname::text FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
        AND a.attnum > 0 AND NOT a.attisdropped AND GENERATED
    ORDER BY a.attrelid, a.attnum";

/// Partitions below one that goes by hashes, and the topmost table. What a hash is may differ on another server.
const HASHED: &str = "WITH RECURSIVE up (leaf, above, is_hashed) AS (
        SELECT i.inhrelid, i.inhparent, p.partstrat = 'h' FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
            JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = i.inhparent WHERE c.relispartition AND c.relkind = 'r'
        UNION ALL SELECT u.leaf, i.inhparent, u.is_hashed OR p.partstrat = 'h' FROM up u JOIN pg_catalog.pg_inherits i ON i.inhrelid = u.above
            JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = i.inhparent)
    SELECT u.leaf::text, n.nspname::text, c.relname::text FROM up u JOIN pg_catalog.pg_class c ON c.oid = u.above
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE u.is_hashed AND NOT c.relispartition";

/// Tables whose file is another one than the snapshot has seen: what is in it now is newer than the snapshot, which would see none of it.
const REWRITTEN: &str = "SELECT n.nspname::text || '.' || c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
        AND pg_catalog.pg_relation_filenode(c.oid) IS DISTINCT FROM c.relfilenode LIMIT 1";

/// Lists what there is, and keeps everybody from changing it until the transaction ends.
pub(crate) async fn sources(
    client: &mut Client,
    dialect: PgDialect,
    is_standby: bool,
) -> Result<Vec<Source>, LogicalError> {
    let database = client.database.clone();
    let fail = |source| LogicalError::sql("list the tables", &database)(source);
    let mut columns: HashMap<String, Vec<String>> = HashMap::new();
    let stored = if dialect.number() >= 12 {
        "a.attgenerated = ''"
    } else {
        "true"
    };
    let rows = client.rows(&COLUMNS.replace("GENERATED", stored)).await;
    for row in rows.map_err(fail)? {
        let mut row = Cells::of(row);
        columns.entry(row.text()).or_default().push(row.text());
    }
    let mut roots = HashMap::new();
    if dialect.number() >= 11 {
        for row in client.rows(HASHED).await.map_err(fail)? {
            let mut row = Cells::of(row);
            roots.insert(row.text(), (row.text(), row.text()));
        }
    }
    let mut sources = Vec::new();
    for row in client.rows(RELATIONS).await.map_err(fail)? {
        let mut row = Cells::of(row);
        let (oid, schema, name, kind) = (row.text(), row.text(), row.text(), row.text());
        let (persistence, filter) = (row.text(), row.maybe());
        let (is_member, is_configured) = (row.truth(), row.truth());
        let pages = row.number();
        if is_member && !is_configured {
            continue;
        }
        let is_sequence = kind == "S";
        if is_standby && persistence == "u" && !is_sequence {
            return Err(LogicalError::PrimaryAlone {
                what: format!("table {schema}.{name} of database {database:?} is unlogged"),
            });
        }
        sources.push(Source {
            table: Table {
                columns: columns.remove(&oid).unwrap_or_default(),
                into: roots.remove(&oid),
                is_extensions: is_member,
                schema,
                name,
                parts: Vec::new(),
            },
            is_sequence,
            filter: filter.filter(|filter| !filter.trim().is_empty()),
            pages,
            oid,
        });
    }
    lock(client, &sources).await?;
    let rewritten = client.rows(REWRITTEN).await.map_err(fail)?;
    match rewritten.into_iter().next() {
        Some(row) => Err(LogicalError::Rewritten {
            database,
            table: Cells::of(row).text(),
        }),
        None => Ok(sources),
    }
}

async fn lock(client: &mut Client, sources: &[Source]) -> Result<(), LogicalError> {
    let database = client.database.clone();
    let names: Vec<String> = sources
        .iter()
        .filter(|source| !source.is_sequence)
        .map(|source| {
            format!(
                "ONLY {}",
                qualified(&source.table.schema, &source.table.name)
            )
        })
        .collect();
    for names in names.chunks(LOCKS) {
        let statement = format!(
            "SET lock_timeout = '60s'; LOCK TABLE {} IN ACCESS SHARE MODE",
            names.join(", ")
        );
        let locked = client.run(statement.as_bytes()).await;
        locked.map_err(LogicalError::sql("lock the tables", &database))?;
    }
    Ok(())
}

impl Source {
    fn relation(&self) -> String {
        qualified(&self.table.schema, &self.table.name)
    }

    /// Ranges of pages that are read side by side; the last one has no end. A table of which only some rows count, or that is small, is one.
    pub(crate) fn ranges(&self, dialect: PgDialect) -> Vec<(u64, Option<u64>)> {
        let is_one = self.filter.is_some() || dialect.number() < 14 || self.pages <= PIECE_PAGES;
        if is_one {
            return vec![(0, None)];
        }
        let pieces = self.pages.div_ceil(PIECE_PAGES);
        (0..pieces)
            .map(|piece| {
                let end = (piece + 1 < pieces).then_some((piece + 1) * PIECE_PAGES);
                (piece * PIECE_PAGES, end)
            })
            .collect()
    }

    /// Bytes of a range of pages, as far as is known.
    pub(crate) fn bytes(&self, (begin, end): (u64, Option<u64>)) -> u64 {
        let end = end.unwrap_or(self.pages).max(begin);
        (end - begin) * 8_192
    }

    /// What a session of its own locks before it reads: waiting would be in vain where somebody queues up behind the first lock.
    pub(crate) fn lock(&self) -> String {
        format!(
            "LOCK TABLE ONLY {} IN ACCESS SHARE MODE NOWAIT",
            self.relation()
        )
    }

    /// The statement that writes its rows.
    pub(crate) fn copy_out(&self, range: (u64, Option<u64>), encoding: &str) -> String {
        let with = format!("TO STDOUT WITH (ENCODING '{encoding}')");
        let columns = &self.table.columns;
        let filter = match (&self.filter, range) {
            (None, (0, None)) => {
                let columns = column_list(columns);
                return format!("COPY {}{columns} {with}", self.relation());
            }
            (Some(filter), _) => filter.clone(),
            (None, (begin, None)) => format!("WHERE ctid >= '({begin},0)'"),
            (None, (begin, Some(end))) => {
                format!("WHERE ctid >= '({begin},0)' AND ctid < '({end},0)'")
            }
        };
        let names: Vec<String> = columns.iter().map(|name| ident(name)).collect();
        let (names, relation) = (names.join(", "), self.relation());
        format!("COPY (SELECT {names} FROM ONLY {relation} {filter}) {with}")
    }

    /// The query for where a sequence stands, as the statement that sets it.
    pub(crate) fn sequence(&self) -> String {
        let relation = self.relation();
        format!(
            "SELECT pg_catalog.format('SELECT pg_catalog.setval(%L, %s, %s);', {}::text, last_value::text, is_called::text) FROM {relation}",
            literal(&relation)
        )
    }

    /// Its number on this server.
    pub(crate) fn oid(&self) -> &str {
        &self.oid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(pages: u64, filter: Option<&str>) -> Source {
        Source {
            table: Table {
                schema: "public".to_owned(),
                name: "large".to_owned(),
                columns: vec!["n".to_owned(), "the line".to_owned()],
                ..Table::default()
            },
            is_sequence: false,
            filter: filter.map(str::to_owned),
            pages,
            oid: "16384".to_owned(),
        }
    }

    #[test]
    fn pieces_are_of_a_gigabyte_and_the_last_has_no_end() {
        let (new, old) = (PgDialect::of("14").unwrap(), PgDialect::of("13").unwrap());
        let whole = [(0, None)];
        assert_eq!(source(131_072, None).ranges(new), whole);
        let large = source(131_072 * 2 + 1, None);
        let pieces = [
            (0, Some(131_072)),
            (131_072, Some(262_144)),
            (262_144, None),
        ];
        assert_eq!(large.ranges(new), pieces);
        let bytes: u64 = pieces.map(|piece| large.bytes(piece)).iter().sum();
        assert_eq!(bytes, (131_072 * 2 + 1) * 8_192);
        // A scan of a range of pages reads the whole table there.
        assert_eq!(large.ranges(old), whole);
        assert_eq!(source(262_144, Some("WHERE own")).ranges(new), whole);
    }

    #[test]
    fn a_piece_is_a_query_of_its_pages() {
        let columns = r#""n", "the line""#;
        let pieces = [
            (
                (0, Some(131_072)),
                "WHERE ctid >= '(0,0)' AND ctid < '(131072,0)'",
            ),
            ((131_072, None), "WHERE ctid >= '(131072,0)'"),
        ];
        for (range, filter) in pieces {
            let wanted = format!(
                "COPY (SELECT {columns} FROM ONLY \"public\".\"large\" {filter}) TO STDOUT WITH (ENCODING 'UTF8')"
            );
            assert_eq!(source(262_144, None).copy_out(range, "UTF8"), wanted);
        }
    }
}
