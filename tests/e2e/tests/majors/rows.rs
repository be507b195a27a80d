//! A digest of everything that SQL shows.

use std::collections::BTreeMap;

use kubedb_e2e::instance::Instance;

/// Gives one query for each table that is in the WAL.
const TABLES: &str = "
SELECT format('SELECT %L, count(*) || '' rows '' || md5(coalesce(string_agg(md5(t::text), '''' ORDER BY md5(t::text)), '''')) FROM ONLY %s t',
              c.oid::regclass::text, c.oid::regclass)
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'm') AND relpersistence = 'p' AND nspname !~ '^pg_' AND nspname <> 'information_schema'";

/// What is in no table of a user's. `sets` is of roles, whose passwords each database has for itself.
const BESIDES: &str = "
SELECT 'large objects', count(*) || ' pages ' || md5(coalesce(string_agg(loid || '/' || pageno || md5(data), '' ORDER BY loid, pageno), '')) FROM pg_largeobject
UNION ALL SELECT 'extensions', string_agg(extname || ' ' || extversion, ', ' ORDER BY extname) FROM pg_extension
UNION ALL SELECT 'indexes', string_agg(md5(pg_get_indexdef(indexrelid)) || indisvalid, '' ORDER BY indexrelid) FROM pg_index
UNION ALL SELECT 'databases', string_agg(datname || ' ' || datcollate || ' ' || encoding, ', ' ORDER BY datname) FROM pg_database
UNION ALL SELECT 'roles', string_agg(rolname, ', ' ORDER BY rolname) FROM pg_roles
UNION ALL SELECT 'tablespaces', string_agg(spcname, ', ' ORDER BY spcname) FROM pg_tablespace
UNION ALL SELECT 'prepared transactions', coalesce(string_agg(gid || ' of ' || owner, ', ' ORDER BY gid), 'none') FROM pg_prepared_xacts
";

/// Databases of an instance that take connections.
pub(crate) fn databases(instance: &Instance) -> Vec<String> {
    let list = "SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1";
    let list = instance.sql(list).unwrap();
    list.lines().map(str::to_owned).collect()
}

/// Digest of every table of every database, by name. It only reads, so a standby gives one too.
pub(crate) fn digest(instance: &Instance) -> BTreeMap<String, String> {
    let mut digest = BTreeMap::new();
    for database in databases(instance) {
        let tables = instance.sql_in(&database, TABLES).unwrap();
        let queries: Vec<&str> = tables.lines().chain([BESIDES]).collect();
        let all = queries.join("\nUNION ALL ");
        for line in instance.sql_in(&database, &all).unwrap().lines() {
            let (name, found) = line.rsplit_once('|').unwrap();
            digest.insert(format!("{database}.{name}"), found.to_owned());
        }
    }
    digest
}

/// What differs between two digests.
pub(crate) fn differences(
    one: &BTreeMap<String, String>,
    other: &BTreeMap<String, String>,
) -> Vec<String> {
    let names = one.keys().chain(other.keys());
    let mut different: Vec<String> = names
        .filter(|name| one.get(*name) != other.get(*name))
        .map(|name| format!("{name}: {:?} and {:?}", one.get(name), other.get(name)))
        .collect();
    different.sort();
    different.dedup();
    different
}
