//! What a database holds before it is copied, and what happens to it meanwhile.

/// Majors whose databases have a table of two files: writing and copying a gigabyte takes a while.
const GIANTS: [&str; 2] = ["9.6", "18"];

/// A database name that needs quoting wherever it is used.
pub(crate) const ODD_DATABASE: &str = "o'dd \"db\" ☃ %s";

/// Name of a prepared transaction.
pub(crate) const PREPARED: &str = "pre'pared ☃";

/// Number of a major, 9 for 9.6.
pub(crate) fn number(major: &str) -> u32 {
    let first = major.split('.').next();
    first
        .and_then(|first| first.parse().ok())
        .unwrap_or_default()
}

pub(crate) fn has_giant(major: &str) -> bool {
    GIANTS.contains(&major)
}

/// Tables and indexes of every kind, in names of every kind.
const COMMON: &str = r#"
ALTER SYSTEM SET max_prepared_transactions = 8;
-- Pages are compared: nobody may tidy up in between.
ALTER SYSTEM SET autovacuum = off;
CREATE TABLE account (id int PRIMARY KEY, amount bigint NOT NULL);
INSERT INTO account SELECT i, 1000 FROM generate_series(1, 1000) i;
CREATE TABLE fixed AS SELECT i, md5(i::text) AS text FROM generate_series(1, 20000) i;
ALTER TABLE fixed ADD PRIMARY KEY (i);
CREATE INDEX fixed_text ON fixed (text) WHERE i % 2 = 0;
CREATE INDEX fixed_brin ON fixed USING brin (i);
CREATE INDEX fixed_spgist ON fixed USING spgist (text);
CREATE INDEX fixed_gin ON fixed USING gin (to_tsvector('simple', text)) WHERE i < 2000;
CREATE TABLE place AS SELECT point(i, i % 100) AS at FROM generate_series(1, 3000) i;
CREATE INDEX place_gist ON place USING gist (at);
CREATE TABLE toasted (id int PRIMARY KEY, body text);
ALTER TABLE toasted ALTER body SET STORAGE EXTERNAL;
INSERT INTO toasted SELECT i, repeat(md5(i::text), 1000) FROM generate_series(1, 40) i;
CREATE MATERIALIZED VIEW seen AS SELECT i % 10 AS digit, count(*) FROM fixed GROUP BY 1;
CREATE TABLE log (id bigserial PRIMARY KEY, text text);
CREATE SEQUENCE steps INCREMENT 7 START 1000;
SELECT nextval('steps') FROM generate_series(1, 100);
CREATE UNLOGGED TABLE scratch AS SELECT i FROM generate_series(1, 20000) i;
CREATE INDEX scratch_i ON scratch (i);
SELECT lo_from_bytea(4711, convert_to(repeat('large', 99999), 'UTF8'));
CREATE TABLE cut AS SELECT i FROM generate_series(1, 20000) i;
CREATE TABLE doomed AS SELECT i FROM generate_series(1, 20000) i;
CREATE TABLE swept AS SELECT i, md5(i::text) AS text FROM generate_series(1, 5000) i;
CREATE TABLE nothing ();
CREATE TABLE followed (i int);
CREATE ROLE "o'role ""☃" NOLOGIN;
CREATE SCHEMA "Sché""ma $% \";
CREATE TABLE "Sché""ma $% \"."tab'le ☃ %s" ("co""l \x" text, "select" int);
INSERT INTO "Sché""ma $% \"."tab'le ☃ %s" SELECT md5(i::text), i FROM generate_series(1, 1000) i;
CREATE INDEX "in'dex ☃" ON "Sché""ma $% \"."tab'le ☃ %s" ("co""l \x");
ALTER TABLE "Sché""ma $% \"."tab'le ☃ %s" OWNER TO "o'role ""☃";
CREATE EXTENSION hstore;
CREATE EXTENSION pg_trgm;
CREATE EXTENSION pg_visibility;
CREATE TABLE extended AS SELECT i, hstore('k' || i, md5(i::text)) AS pairs, md5(i::text) AS text FROM generate_series(1, 2000) i;
CREATE INDEX extended_pairs ON extended USING gin (pairs);
CREATE INDEX extended_trgm ON extended USING gist (text gist_trgm_ops);
\set odd 'o\'dd "db" ☃ %s'
CREATE DATABASE :"odd";
CREATE DATABASE swedish TEMPLATE template0 LC_COLLATE 'sv_SE.utf8' LC_CTYPE 'sv_SE.utf8';
"#;

/// Hash indexes are in the WAL since 10, ICU is there since 10.
const SINCE_10: &str = "
CREATE INDEX fixed_hash ON fixed USING hash (text);
CREATE EXTENSION amcheck;
CREATE COLLATION swedish (provider = icu, locale = 'sv');
CREATE TABLE sorted_by_icu AS SELECT chr(97 + i % 26) || md5(i::text) || 'åäö' AS word FROM generate_series(1, 2000) i;
CREATE INDEX sorted_by_icu_word ON sorted_by_icu (word COLLATE swedish);
CREATE TABLE parted (i int, text text) PARTITION BY RANGE (i);
CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (1000);
INSERT INTO parted SELECT i, md5(i::text) FROM generate_series(0, 999) i;
";

/// A whole database that ICU sorts.
const SINCE_15: &str = "
CREATE DATABASE icu LOCALE_PROVIDER icu ICU_LOCALE 'sv' TEMPLATE template0;
";

/// Rows of the other databases.
const OTHERS: &str = r#"
\connect :"odd"
CREATE TABLE fixed AS SELECT i, md5(i::text) AS text FROM generate_series(1, 3000) i;
CREATE INDEX ON fixed (text);
\connect swedish
CREATE TABLE word AS SELECT md5(i::text) || chr(228 + i % 20) AS word FROM generate_series(1, 3000) i;
CREATE INDEX ON word (word);
"#;

/// One small row a page, that is all `fillfactor` leaves room for: 131 200 pages are more than the 1 GiB of one file.
const GIANT: &str = "
\\connect postgres
CREATE TABLE giant (i int, pad text) WITH (fillfactor = 10);
INSERT INTO giant SELECT i, repeat('g', 420) FROM generate_series(1, 131200) i;
";

/// The script that a database begins with.
pub(crate) fn script(major: &str) -> String {
    let mut script = COMMON.to_owned();
    if number(major) >= 10 {
        script += SINCE_10;
    }
    if number(major) >= 15 {
        script += SINCE_15;
    }
    script += OTHERS;
    if has_giant(major) {
        script += GIANT;
    }
    script
}

/// A transaction that waits for its second word over copies and restarts.
pub(crate) fn prepare(table_row: &str, name: &str) -> String {
    let name = name.replace('\'', "''");
    format!("BEGIN; INSERT INTO account VALUES ({table_row}); PREPARE TRANSACTION '{name}';\n")
}

/// The second word for both that were prepared; gives how many rows they brought.
pub(crate) fn commit_prepared() -> String {
    let name = PREPARED.replace('\'', "''");
    format!(
        "COMMIT PREPARED '{name}'; COMMIT PREPARED 'meanwhile'; SELECT count(*) FROM account WHERE id > 5000"
    )
}

/// Happens while a Snapshot is being taken.
pub(crate) const MEANWHILE: &str = "
DROP TABLE doomed;
TRUNCATE cut;
INSERT INTO cut SELECT i FROM generate_series(1, 7) i;
DELETE FROM swept WHERE i % 3 <> 0;
VACUUM FULL swept;
CREATE INDEX swept_i ON swept (i);
CREATE DATABASE meanwhile;
";

/// The same in files instead of WAL, as every major before 15 does.
pub(crate) const MEANWHILE_SINCE_15: &str =
    "CREATE DATABASE meanwhile_by_files STRATEGY = file_copy;\n";

/// A transaction with more parts than a standby is told of; it stays open.
pub(crate) fn many_subtransactions() -> String {
    let mut text = "BEGIN; CREATE TABLE never ();\n".to_owned();
    for number in 0..150 {
        text += &format!("SAVEPOINT s{number}; INSERT INTO log (text) VALUES ('never');\n");
    }
    text + "SELECT pg_advisory_lock(4711);\n"
}

/// Asks whether it has come so far.
pub(crate) const IS_OPEN: &str =
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711";

/// Transfers that leave the sum as it is, over and over.
pub(crate) fn transfers() -> String {
    let transfer = "BEGIN; UPDATE account SET amount = amount - 3 WHERE id = 1 + (random() * 998)::int; UPDATE account SET amount = 1000 * 1000 - (SELECT sum(amount) FROM account WHERE id < 1000) WHERE id = 1000; INSERT INTO log (text) VALUES (repeat('x', 500)); COMMIT;\n";
    transfer.repeat(20_000)
}

/// True of every copy that was taken amid transfers.
pub(crate) const IS_SOUND: &str = "
SELECT (SELECT sum(amount) FROM account WHERE id <= 1000) = 1000000,
    (SELECT count(*) FROM log WHERE text = 'never') = 0,
    (SELECT coalesce(max(id), 0) FROM log) <= (SELECT last_value FROM log_id_seq),
    (SELECT last_value FROM steps) >= 1693,
    to_regclass('never') IS NULL AND to_regclass('doomed') IS NULL,
    (SELECT sum(i) FROM cut) = 28,
    (SELECT count(*) FROM swept) = 1666,
    (SELECT count(*) FROM scratch) = 0,
    (SELECT count(*) FROM pg_database WHERE datname LIKE 'meanwhile%') > 0";
