//! `kubedb summarize`: what a database holds, in a file that `kubedb compare` compares: has a restore brought everything back?

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use jiff::{Timestamp, tz::TimeZone};
use kube::{Api, ResourceExt as _};
use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, Config, NoTls};

use super::{
    connect::reach,
    selection::{self, NamespaceArgs},
};
use crate::{
    client::{
        ServerArgs, Session,
        kinds::{POSTGRES, parse_kind},
    },
    error::CommandError,
    ui::Ui,
};

const EXAMPLES: &str = "\
All rows are counted, in one transaction for each database. -1 stands where a table has no integer column \"id\".

Examples:
  kubedb summarize pg script-postgres -n demo
  kubedb summarize pg recovered-postgres -n demo --index shop --output /tmp
  kubedb compare report-20180208-105341.json report-20180208-112210.json";

/// A statement on a large table takes long; a server that is gone does not answer at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// Tables that one report holds.
const TABLES_MAX: usize = 200_000;

/// What `summarize` was told.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct SummarizeArgs {
    /// pg NAME or pg/NAME
    #[arg(value_name = "TYPE NAME", required = true)]
    object: Vec<String>,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// The one database to look into, of those that the server has
    #[arg(long, value_name = "DATABASE")]
    index: Option<String>,
    /// Folder that the report is written to
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    output: PathBuf,
    /// Not needed any more: the database is asked, and no operator
    #[arg(long, value_name = "NAME", hide = true)]
    operator_namespace: Option<String>,
}

/// A report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) kind: String,
    pub(super) api_version: String,
    pub(super) metadata: Metadata,
    pub(super) summary: Summary,
    pub(super) status: Times,
}

/// Whose it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) creation_timestamp: Option<String>,
}

/// What is in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Summary {
    pub(super) postgres: BTreeMap<String, Database>,
}

/// A database of a server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Database {
    pub(super) schema: BTreeMap<String, Schema>,
}

/// A schema.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Schema {
    pub(super) table: BTreeMap<String, Table>,
}

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Table {
    pub(super) total_row: i64,
    pub(super) max_id: i64,
    pub(super) next_id: i64,
}

/// When it was looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Times {
    pub(super) start_time: Timestamp,
    pub(super) completion_time: Timestamp,
}

pub(super) async fn run(
    arguments: SummarizeArgs,
    server: &ServerArgs,
    ui: &Ui,
) -> Result<(), CommandError> {
    let name = database_name(&arguments.object)?;
    check_folder(&arguments.output)?;
    let namespace = arguments.namespace.namespace.as_str();
    let session = Session::open(server).await?;
    let api: Api<kubedb_api::Postgres> = Api::namespaced(session.client.clone(), namespace);
    let found = api.get(&name).await;
    let postgres = found.map_err(|error| session.fail(error, None))?;
    let (config, _tunnel) = reach(&session, &postgres, namespace).await?;
    let start_time = Timestamp::now();
    let summary = summary(&config, arguments.index.as_deref(), ui).await?;
    let report = Report {
        kind: "Postgres".to_owned(),
        api_version: "kubedb.com/v1alpha1".to_owned(),
        metadata: Metadata {
            name: name.clone(),
            namespace: namespace.to_owned(),
            creation_timestamp: postgres.creation_timestamp().map(|time| time.0.to_string()),
        },
        summary,
        status: Times {
            start_time,
            completion_time: Timestamp::now(),
        },
    };
    let text = serde_json::to_string_pretty(&report).unwrap_or_default() + "\n";
    let stored = store(&arguments.output, "report", "json", &text, Timestamp::now())?;
    ui.data(&format!(
        "Summary report for \"postgreses/{name}\" has been stored in '{stored}'"
    ));
    Ok(())
}

/// The one Postgres that was named.
fn database_name(object: &[String]) -> Result<String, CommandError> {
    let pairs: Vec<(&str, &str)> = match object {
        [kind] if !kind.contains('/') => {
            return Err(CommandError::usage(
                "the name of a database is missing: kubedb summarize pg NAME",
            ));
        }
        [kind, name] if !kind.contains('/') && !name.contains('/') => vec![(kind, name)],
        all => all.iter().filter_map(|part| part.split_once('/')).collect(),
    };
    let [(kind, name)] = pairs.as_slice() else {
        return Err(CommandError::usage(
            "Only one database can be summarized at a time.",
        ));
    };
    if kind.contains(',') {
        return Err(CommandError::usage(
            "audit doesn't support multiple resource",
        ));
    }
    let kind = parse_kind(kind)?;
    if kind != &POSTGRES {
        let message = format!("Failed to summarize resource type \"{}\"", kind.plural);
        return Err(CommandError::usage(message));
    }
    selection::check_name(name)?;
    Ok((*name).to_owned())
}

fn check_folder(folder: &Path) -> Result<(), CommandError> {
    if folder.is_dir() {
        return Ok(());
    }
    Err(CommandError::usage(format!(
        "--output {}: no folder is called so",
        folder.display()
    )))
}

/// Writes `<what>-<time>.<ending>` into a folder; never over another file.
pub(super) fn store(
    folder: &Path,
    what: &str,
    ending: &str,
    text: &str,
    now: Timestamp,
) -> Result<String, CommandError> {
    let time = now.to_zoned(TimeZone::UTC).strftime("%Y%m%d-%H%M%S");
    let mut number = 0;
    loop {
        let beside = if number == 0 {
            String::new()
        } else {
            format!("-{number}")
        };
        let path = folder.join(format!("{what}-{time}{beside}.{ending}"));
        let made = fs::File::create_new(&path).and_then(|mut file| file.write_all(text.as_bytes()));
        match made {
            Ok(()) => {
                let shown = path.strip_prefix(".").unwrap_or(&path);
                return Ok(shown.display().to_string());
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 100 => {
                number += 1;
            }
            Err(source) => {
                return Err(CommandError::Local {
                    doing: format!("write {}", path.display()),
                    source,
                });
            }
        }
    }
}

fn asked(doing: &'static str) -> impl Fn(tokio_postgres::Error) -> CommandError {
    move |source| CommandError::Server {
        doing,
        source: Box::new(source),
    }
}

async fn connect(config: &Config) -> Result<Client, CommandError> {
    let connecting = tokio::time::timeout(CONNECT_LIMIT, config.connect(NoTls)).await;
    let (client, connection) = connecting
        .map_err(|late| CommandError::Server {
            doing: "connect to the database",
            source: Box::new(late),
        })?
        .map_err(asked("connect to the database"))?;
    // Its end is seen by whoever asks next.
    tokio::spawn(connection);
    Ok(client)
}

async fn summary(config: &Config, only: Option<&str>, ui: &Ui) -> Result<Summary, CommandError> {
    let client = connect(config).await?;
    let query = "SELECT datname::text FROM pg_catalog.pg_database WHERE NOT datistemplate AND datallowconn ORDER BY 1";
    let rows = client.query(query, &[]).await;
    let rows = rows.map_err(asked("list the databases"))?;
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    if let Some(only) = only.filter(|only| !names.iter().any(|name| name == only)) {
        return Err(CommandError::State {
            message: format!("there is no database \"{only}\""),
            hint: Some(format!("there are {}", names.join(", "))),
        });
    }
    let mut summary = Summary::default();
    for name in names {
        if only.is_none_or(|only| only == name) {
            ui.note(&format!("counting the rows of {name}"));
            let mut config = config.clone();
            let client = connect(config.dbname(&name)).await?;
            summary.postgres.insert(name, database(&client).await?);
        }
    }
    Ok(summary)
}

/// Ordinary tables and partitioned ones as a whole, none of the system's.
const TABLES: &str = "
SELECT n.nspname::text, c.relname::text, pg_catalog.format('%I.%I', n.nspname, c.relname),
    a.attname IS NOT NULL, CASE WHEN a.attname IS NOT NULL THEN pg_catalog.pg_get_serial_sequence(pg_catalog.format('%I.%I', n.nspname, c.relname), 'id') END
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = 'id' AND a.attnum > 0 AND NOT a.attisdropped
    AND a.atttypid IN ('int2'::pg_catalog.regtype, 'int4'::pg_catalog.regtype, 'int8'::pg_catalog.regtype)
WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY 1, 2";

async fn database(client: &Client) -> Result<Database, CommandError> {
    let begin = "SET search_path = pg_catalog; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    let begun = client.batch_execute(begin).await;
    begun.map_err(asked("begin a transaction"))?;
    let rows = client.query(TABLES, &[]).await;
    let rows = rows.map_err(asked("list the tables"))?;
    if rows.len() > TABLES_MAX {
        return Err(CommandError::State {
            message: format!("it has more than {TABLES_MAX} tables"),
            hint: Some("--index names one database alone".to_owned()),
        });
    }
    let mut database = Database::default();
    for row in rows {
        let (schema, name): (String, String) = (row.get(0), row.get(1));
        let table = table(client, row.get(2), row.get(3), row.get(4)).await?;
        let tables = &mut database.schema.entry(schema).or_default().table;
        tables.insert(name, table);
    }
    Ok(database)
}

/// `quoted` and `sequence` come quoted from PostgreSQL.
async fn table(
    client: &Client,
    quoted: String,
    has_id: bool,
    sequence: Option<String>,
) -> Result<Table, CommandError> {
    let largest = if has_id {
        "pg_catalog.max(id)::int8"
    } else {
        "NULL::int8"
    };
    let query = format!("SELECT pg_catalog.count(*), {largest} FROM {quoted}");
    let row = client.query_one(&query, &[]).await;
    let row = row.map_err(asked("count the rows of a table"))?;
    let next_id = match sequence {
        None => -1,
        Some(sequence) => {
            let query = format!(
                "SELECT CASE WHEN is_called THEN last_value + 1 ELSE last_value END FROM {sequence}"
            );
            let next = client.query_one(&query, &[]).await;
            next.map_err(asked("read a sequence"))?.get(0)
        }
    };
    let largest: Option<i64> = row.get(1);
    Ok(Table {
        total_row: row.get(0),
        max_id: largest.unwrap_or(if has_id { 0 } else { -1 }),
        next_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_database_at_a_time() {
        let name = |parts: &[&str]| {
            let parts: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
            database_name(&parts).map_err(|error| error.to_string())
        };
        assert_eq!(name(&["pg", "p1"]).unwrap(), "p1");
        assert_eq!(name(&["postgreses/p1"]).unwrap(), "p1");
        let several = "Only one database can be summarized at a time.";
        assert_eq!(name(&["pg/a", "pg/b"]).unwrap_err(), several);
        assert_eq!(name(&["pg", "a", "b"]).unwrap_err(), several);
        assert!(name(&["pg"]).unwrap_err().contains("is missing"));
        assert_eq!(
            name(&["snap", "s"]).unwrap_err(),
            "Failed to summarize resource type \"snapshots\""
        );
        assert_eq!(
            name(&["pg,es", "s"]).unwrap_err(),
            "audit doesn't support multiple resource"
        );
    }

    #[test]
    fn a_report_is_never_written_over_another() {
        let folder = tempfile::tempdir().unwrap();
        let now = "2017-07-19T15:32:47Z".parse().unwrap();
        let store = || store(folder.path(), "report", "json", "x", now).unwrap();
        assert!(store().ends_with("report-20170719-153247.json"));
        assert!(store().ends_with("report-20170719-153247-1.json"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
