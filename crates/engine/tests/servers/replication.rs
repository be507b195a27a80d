//! Replication connections to the servers of tests.

use std::time::Duration;

use kubedb_engine::{
    postgres::dialect::PgDialect,
    walsender::{WalSender, WalSenderConfig},
};

use super::{PASSWORD, Server, Version};

pub(crate) const BOTH: [(Version, &str); 2] =
    [(Version::Old, "md5"), (Version::New, "scram-sha-256")];

pub(crate) fn config(port: u16) -> WalSenderConfig {
    WalSenderConfig {
        host: "127.0.0.1".to_owned(),
        port,
        user: "postgres".to_owned(),
        password: PASSWORD.to_owned(),
        application_name: "kubedb test".to_owned(),
        connect_timeout: Duration::from_secs(20),
    }
}

pub(crate) fn dialect(version: Version) -> PgDialect {
    PgDialect::of(version.number()).unwrap()
}

pub(crate) async fn walsender(server: &Server) -> WalSender {
    WalSender::connect(&config(server.port)).await.unwrap()
}
