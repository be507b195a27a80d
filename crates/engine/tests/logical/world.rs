//! Servers with something of everything, and what is compared of two of them.

use std::{collections::BTreeMap, path::Path, process::Command};

use kubedb_engine::{
    backup::{self, BackupError, BackupOutcome, BackupProgress, LogicalRequest},
    logical::{Address, LoadError, LoadRequest, Loaded, load, program_folders},
    store::Store,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    servers::{Server, Version},
    snapshots::{dialect, request},
};

/// The pg_dump of the tests.
pub(crate) const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";

/// A database whose name needs quotes everywhere.
const ODD: &str = "it's \"odd\" \\ pägé = dbname";

pub(crate) async fn take(
    server: &Server,
    store: &Store,
    snapshot: &str,
) -> Result<BackupOutcome, BackupError> {
    take_with(server, store, snapshot, |_| ()).await
}

pub(crate) async fn take_with(
    server: &Server,
    store: &Store,
    snapshot: &str,
    change: impl FnOnce(&mut LogicalRequest),
) -> Result<BackupOutcome, BackupError> {
    let (progress, _) = watch::channel(BackupProgress::default());
    let mut request = LogicalRequest {
        backup: request(server, store, snapshot),
        programs: program_folders(Path::new(PROGRAMS), None),
    };
    change(&mut request);
    backup::take_logical(request, progress, CancellationToken::new()).await
}

pub(crate) async fn load_into(
    version: Version,
    store: &Store,
    manifest: &str,
) -> Result<Server, LoadError> {
    load_into_with(version, store, manifest, None)
        .await
        .map(|(server, _)| server)
}

pub(crate) async fn load_into_with(
    version: Version,
    store: &Store,
    manifest: &str,
    databases: Option<Vec<String>>,
) -> Result<(Server, Loaded), LoadError> {
    let server = Server::create(version, "md5").await;
    let request = LoadRequest {
        store: store.clone(),
        manifest: manifest.to_owned(),
        address: address(&server),
        dialect: dialect(version),
        postgres_version: version.number().to_owned(),
        threads: 3,
        databases,
    };
    let (progress, _) = watch::channel(BackupProgress::default());
    let loaded = load(request, progress, CancellationToken::new()).await?;
    Ok((server, loaded))
}

pub(crate) fn address(server: &Server) -> Address {
    Address {
        folder: server.folder().to_owned(),
        port: server.port,
        user: "postgres".to_owned(),
    }
}

/// A server with something of everything.
pub(crate) struct Source {
    pub(crate) server: Server,
}

impl Source {
    pub(crate) async fn make(version: Version) -> Self {
        let server = Server::create(version, "md5").await;
        let major = dialect(version).number();
        server.sql_by_socket(include_str!("roles.sql")).await;
        for statement in databases(major) {
            server.sql_by_socket(&statement).await;
        }
        server.sql_in(ODD, include_str!("everything.sql")).await;
        for (since, text) in [
            (10, include_str!("since-10.sql")),
            (12, include_str!("since-12.sql")),
            (14, include_str!("since-14.sql")),
        ] {
            if major >= since {
                server.sql_in(ODD, text).await;
            }
        }
        server
            .sql_in(
                "latin",
                "CREATE SCHEMA \"é\"; CREATE TABLE \"é\".\"größe\" (\"ñ\" text, b bytea); COMMENT ON TABLE \"é\".\"größe\" IS 'comentário';
                 INSERT INTO \"é\".\"größe\" SELECT 'é' || i || E'\\\\ü\\t\\n', decode('00ff5c', 'hex') FROM generate_series(1, 1000) i",
            )
            .await;
        server
            .sql_in(
                "bytes",
                r"CREATE TABLE raw (t text); INSERT INTO raw VALUES (E'\xff\xfe\\'), (E'\xc3'), ('plain');
                  CREATE FUNCTION f() RETURNS text LANGUAGE sql AS E'SELECT ''\xe9\xff''::text'; COMMENT ON TABLE raw IS E'\xff;\\'",
            )
            .await;
        // What stands in the way of everybody who comes in before everything is there.
        server
            .sql_by_socket("ALTER DATABASE latin SET default_transaction_read_only = on; ALTER ROLE ALL SET statement_timeout = '1min'; ALTER DATABASE bytes CONNECTION LIMIT 7")
            .await;
        Self { server }
    }
}

fn databases(major: u32) -> Vec<String> {
    let odd = format!("\"{}\"", ODD.replace('"', "\"\""));
    let mut made = vec![
        format!(
            "CREATE DATABASE {odd} OWNER \"Ow'ner\" TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'"
        ),
        "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
            .to_owned(),
        "CREATE DATABASE bytes TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
            .to_owned(),
        "CREATE DATABASE \"a template\" IS_TEMPLATE true".to_owned(),
        format!("REVOKE ALL ON DATABASE {odd} FROM PUBLIC"),
        format!("GRANT CONNECT, TEMPORARY ON DATABASE {odd} TO reader WITH GRANT OPTION"),
        format!("COMMENT ON DATABASE {odd} IS 'it''s odd'"),
        format!(
            "ALTER ROLE reader IN DATABASE {odd} SET search_path TO \"$user\", 'a, \"b\"', public"
        ),
        "CREATE TABLE in_postgres AS SELECT 1 AS a".to_owned(),
    ];
    if major >= 15 {
        made.push("GRANT SET ON PARAMETER log_statement TO reader".to_owned());
    }
    made
}

/// Queries about what belongs to no database, each a line for a thing. What belongs to the server and not to what it holds is left out.
const GLOBALS: [&str; 4] = [
    "SELECT string_agg(concat_ws(' ', rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, rolconnlimit,
        rolpassword, rolvaliduntil, shobj_description(oid, 'pg_authid')), E'\n' ORDER BY rolname) FROM pg_authid WHERE rolname !~ '^(pg_|kubedb_|postgres$)'",
    "SELECT string_agg(concat_ws(' ', r.rolname, m.rolname, a.admin_option), E'\n' ORDER BY r.rolname, m.rolname) FROM pg_auth_members a
        JOIN pg_authid r ON r.oid = roleid JOIN pg_authid m ON m.oid = member WHERE m.rolname !~ '^(pg_|kubedb_)'",
    "SELECT string_agg(concat_ws(' ', r.rolname, d.datname, setconfig), E'\n' ORDER BY r.rolname, d.datname) FROM pg_db_role_setting
        LEFT JOIN pg_authid r ON r.oid = setrole LEFT JOIN pg_database d ON d.oid = setdatabase",
    "SELECT string_agg(concat_ws(' ', datname, pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datctype, datistemplate, datconnlimit,
        (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest(datacl) a), shobj_description(oid, 'pg_database')), E'\n' ORDER BY datname)
        FROM pg_database WHERE datname <> 'template0'",
];

/// Every table's rows, sequences and large objects of a database.
const ROWS: &str = r#"
DO $do$ DECLARE r record; d text;
BEGIN
  CREATE TEMP TABLE told (t text);
  SET LOCAL extra_float_digits = 3;
  FOR r IN SELECT c.oid, c.relkind, quote_ident(nspname) || '.' || quote_ident(relname) AS name FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
      WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND relkind IN ('r', 'm', 'S', 'p') AND relispopulated
        -- Where rows of these belong is another matter on each server.
        AND relname !~ '^hashed_' LOOP
    IF r.relkind = 'S' THEN
      EXECUTE 'SELECT concat_ws('' '', last_value, is_called) FROM ' || r.name INTO d;
    ELSE
      EXECUTE 'SELECT count(*) || '' '' || md5(coalesce(string_agg(t::text, E''\n'' ORDER BY t::text COLLATE "C"), '''')) FROM ' || CASE WHEN r.relkind = 'p' THEN '' ELSE 'ONLY ' END || r.name || ' t' INTO d;
    END IF;
    INSERT INTO told VALUES (r.name || ' ' || d);
  END LOOP;
  INSERT INTO told SELECT concat_ws(' ', 'large object', oid, pg_get_userbyid(lomowner), lomacl, obj_description(oid, 'pg_largeobject'), md5(lo_get(oid))) FROM pg_largeobject_metadata;
END $do$;
SELECT string_agg(t, E'\n' ORDER BY t) FROM told"#;

/// Whether two servers hold the same.
pub(crate) async fn compare(source: &Source, target: &Server) {
    for query in GLOBALS {
        let theirs = source.server.value(query).await;
        let ours = target.value(query).await;
        similar_asserts(&theirs, &ours, query);
    }
    let (theirs, ours) = (rows(&source.server).await, rows(target).await);
    assert!(theirs[ODD].lines().count() > 20, "{theirs:#?}");
    for (database, rows) in &theirs {
        similar_asserts(rows, &ours[database], database);
    }
    assert_eq!(theirs.len(), ours.len());
    if source.server.version == target.version {
        for database in theirs.keys() {
            let theirs = schema(&source.server, database);
            similar_asserts(&theirs, &schema(target, database), database);
        }
    }
}

fn similar_asserts(theirs: &str, ours: &str, what: &str) {
    if theirs == ours {
        return;
    }
    let differing = theirs
        .lines()
        .zip(ours.lines())
        .find(|(theirs, ours)| theirs != ours);
    panic!(
        "{what}: {differing:?} of {} and {} lines\n{theirs}\n=====\n{ours}",
        theirs.lines().count(),
        ours.lines().count()
    );
}

async fn rows(server: &Server) -> BTreeMap<String, String> {
    let names = "SELECT string_agg(datname, E'\n') FROM pg_database WHERE datname <> 'template0'";
    let mut told = BTreeMap::new();
    for name in server.value(names).await.lines() {
        // As text and not as what a database is set to.
        let query = format!("SET transaction_read_only = off; {ROWS}");
        told.insert(name.to_owned(), server.value_in(name, &query).await);
    }
    told
}

fn schema(server: &Server, database: &str) -> String {
    let output = Command::new(format!("{PROGRAMS}/pg_dump"))
        .args(["--schema-only", "-U", "postgres"])
        .arg("-h")
        .arg(server.folder())
        .arg("-p")
        .arg(server.port.to_string())
        .env("PGDATABASE", database)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text
        .lines()
        .filter(|line| !line.contains("restrict ") && !line.starts_with("SET default_tablespace"));
    lines.collect::<Vec<_>>().join("\n")
}
