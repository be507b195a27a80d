//! What a server says on a replication connection.

use std::{sync::LazyLock, time::Duration};

use kubedb_engine::walsender::{WalSender, WalSenderConfig};
use tokio::runtime::Runtime;

use super::said;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder
        .enable_time()
        .build()
        .expect("a runtime can be made")
});

/// A server that says all of it at once, and listens to nothing: whoever asks it has an answer or an error when it ends.
pub(super) fn walsender(bytes: &[u8]) -> String {
    let config = WalSenderConfig {
        host: String::new(),
        port: 0,
        user: "u".to_owned(),
        password: "p".to_owned(),
        application_name: "a".to_owned(),
        connect_timeout: Duration::from_secs(1),
    };
    RUNTIME.block_on(async {
        let stream = tokio::io::join(bytes, tokio::io::sink());
        let mut sender = match WalSender::over(stream, &config).await {
            Ok(sender) => sender,
            Err(error) => return error.to_string(),
        };
        said(sender.identify_system().await)
    })
}

fn message(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len() + 4).unwrap_or_default();
    [&[kind][..], &length.to_be_bytes(), content].concat()
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let accepted = [
        message(b'R', &[0, 0, 0, 0]),
        message(b'S', b"server_version\x0015.18\0"),
        message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]),
        message(b'Z', b"I"),
    ]
    .concat();
    let column = |name: &str| [name.as_bytes(), &[0; 19]].concat();
    let columns = ["systemid", "timeline", "xlogpos", "dbname"]
        .map(column)
        .concat();
    let value = |text: &str| {
        let length = u32::try_from(text.len()).unwrap_or_default().to_be_bytes();
        [&length[..], text.as_bytes()].concat()
    };
    let values = ["7300000000000000000", "1", "0/3000060"]
        .map(value)
        .concat();
    let row = [&[0, 4][..], &values, &[0xff; 4]].concat();
    let identity = [
        message(b'T', &[&[0, 4][..], &columns].concat()),
        message(b'D', &row),
        message(b'C', b"IDENTIFY_SYSTEM\0"),
        message(b'Z', b"I"),
    ]
    .concat();
    let refusal = message(b'E', b"SFATAL\0VFATAL\0C28P01\0Mno\0\0");
    let scram = message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0");
    vec![
        [accepted.clone(), identity].concat(),
        [accepted, refusal.clone()].concat(),
        refusal,
        scram,
        message(b'R', &[0, 0, 0, 5, 1, 2, 3, 4]),
    ]
}
