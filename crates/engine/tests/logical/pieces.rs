//! Tables that are read in pieces.

use std::fs::OpenOptions;

use crate::{
    servers::{Server, Version},
    snapshots::local,
    world::{load_into, take},
};

/// Bytes after which another piece begins; PostgreSQL begins another file there, too.
const PIECE: u64 = 1 << 30;
const DIGEST: &str = "SELECT count(*) || ' ' || sum(hashtext(line)) || ' ' || max(n) FROM large";

/// Nearly all of it are pages that nobody has written to yet, which a server passes over; rows lie at its begin, and on both sides of the border.
#[tokio::test]
async fn a_table_of_more_than_a_gigabyte_is_read_in_pieces_and_comes_back_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let mut source = Server::create(Version::New, "md5").await;
    source
        .sql_by_socket(
            "CREATE TABLE large (n int PRIMARY KEY, line text) WITH (autovacuum_enabled = off);
             INSERT INTO large SELECT n, repeat(md5(n::text), 4) FROM generate_series(1, 1000) n",
        )
        .await;
    let path = source.value("SELECT pg_relation_filepath('large')").await;
    source.stop("fast");
    let file = OpenOptions::new().write(true).open(source.data.join(path));
    file.unwrap().set_len(PIECE - 8_192).unwrap();
    source.start().await;
    source
        .sql_by_socket(
            "INSERT INTO large SELECT n, repeat(md5(n::text), 4) FROM generate_series(1001, 3000) n",
        )
        .await;
    let beyond = source
        .value("SELECT count(*) FROM large WHERE ctid >= '(131072,0)'")
        .await;
    assert!(beyond.parse::<u32>().unwrap() > 100, "{beyond}");

    let outcome = take(&source, &store, "snap").await.unwrap();
    let target = load_into(Version::New, &store, &outcome.manifest)
        .await
        .unwrap();
    assert_eq!(target.value(DIGEST).await, source.value(DIGEST).await);
}
