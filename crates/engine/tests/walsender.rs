//! The replication client against real servers of 9.6 and 15: who we are, and slots.

#![allow(clippy::unwrap_used)]

mod servers;

use kubedb_engine::{
    postgres::control::ControlFile,
    walsender::{WalSender, WalSenderError},
};
use servers::{
    Server, Version,
    replication::{BOTH, config, dialect, walsender},
};

#[tokio::test]
async fn md5_and_scram_let_the_right_password_in_and_no_other() {
    for (version, method) in [BOTH[0], BOTH[1], (Version::New, "md5")] {
        let server = Server::create(version, method).await;
        let identity = walsender(&server).await.identify_system().await.unwrap();
        let control = ControlFile::read(&server.data).unwrap();
        assert_eq!(identity.system_identifier, control.system_identifier);
        assert_eq!(
            (identity.timeline, identity.position >= control.redo),
            (1, true)
        );

        let mut wrong = config(server.port);
        wrong.password.push('x');
        let error = WalSender::connect(&wrong).await.err().unwrap();
        assert_eq!(error.code(), Some("28P01"), "{error}");
        assert!(!format!("{error:?} {wrong:?}").contains(&wrong.password));
        let mut nobody = config(server.port);
        nobody.user = "nobody".to_owned();
        let error = WalSender::connect(&nobody).await.err().unwrap();
        assert_eq!(error.code(), Some("28P01"), "{error}");
    }
}

#[tokio::test]
async fn a_password_is_never_sent_in_clear_text() {
    let mut server = Server::create(Version::New, "password").await;
    let error = WalSender::connect(&config(server.port))
        .await
        .err()
        .unwrap();
    assert!(
        matches!(error, WalSenderError::UnsupportedAuthentication { .. }),
        "{error}"
    );
    server.stop("fast");
    let error = WalSender::connect(&config(server.port))
        .await
        .err()
        .unwrap();
    assert!(matches!(error, WalSenderError::Connect { .. }), "{error}");
}

#[tokio::test]
async fn slots_are_made_and_dropped_as_often_as_asked() {
    for (version, method) in BOTH {
        let server = Server::create(version, method).await;
        let mut walsender = walsender(&server).await;
        let count = "SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'physical' AND restart_lsn IS NOT NULL";
        let name = "kubedb_snap_0123456789abcdef";
        walsender
            .create_physical_slot(name, dialect(version))
            .await
            .unwrap();
        let held = server
            .value("SELECT restart_lsn FROM pg_replication_slots")
            .await;
        server
            .sql_by_socket("CREATE TABLE t (n int); CHECKPOINT")
            .await;
        walsender
            .create_physical_slot(name, dialect(version))
            .await
            .unwrap();
        assert_eq!(server.value(count).await, "1");
        assert_eq!(
            server
                .value("SELECT restart_lsn FROM pg_replication_slots")
                .await,
            held
        );
        // A digit first, and a keyword of the replication grammar.
        for name in ["0slot", "base_backup"] {
            walsender
                .create_physical_slot(name, dialect(version))
                .await
                .unwrap();
            walsender.drop_slot(name).await.unwrap();
        }
        for bad in ["", "a-b", "a\"b", "Ab", &"a".repeat(64)] {
            let error = walsender
                .create_physical_slot(bad, dialect(version))
                .await
                .unwrap_err();
            assert!(
                matches!(error, WalSenderError::Argument { .. }),
                "{bad}: {error}"
            );
        }
        walsender.drop_slot(name).await.unwrap();
        walsender.drop_slot(name).await.unwrap();
        assert_eq!(server.value(count).await, "0");
        // The connection outlived the refusals, and the server's limit of slots is an error with its code.
        for number in 0..5 {
            walsender
                .create_physical_slot(&format!("s{number}"), dialect(version))
                .await
                .unwrap();
        }
        let error = walsender
            .create_physical_slot("s5", dialect(version))
            .await
            .unwrap_err();
        assert_eq!(error.code(), Some("53400"), "{error}");
        assert!(
            error
                .to_string()
                .contains("all replication slots are in use"),
            "{error}"
        );
        walsender.identify_system().await.unwrap();
        walsender.close().await;
    }
}
