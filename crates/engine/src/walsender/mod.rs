//! A client of PostgreSQL's replication protocol: who the server is, slots that hold its WAL, and a copy of its data.

mod base_backup;
mod connect;
mod error;
mod unpack;
mod wire;

use kubedb_core::lsn::Lsn;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use self::wire::Wire;
pub use self::{
    base_backup::{BaseBackup, CopyProgress},
    connect::WalSenderConfig,
    error::WalSenderError,
    unpack::UnpackError,
};
use crate::postgres::dialect::PgDialect;
pub use crate::tar::TarError;

/// SQLSTATE of a slot that exists already.
const DUPLICATE_OBJECT: &str = "42710";
/// SQLSTATE of a slot that does not exist.
const UNDEFINED_OBJECT: &str = "42704";

/// A replication connection that takes one command at a time.
///
/// After an error of severity ERROR it takes further commands; after any other error, and after a future of it was
/// dropped, it is to be thrown away.
pub struct WalSender<S = TcpStream> {
    wire: Wire<S>,
}

/// Who a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// Made by initdb; standbys share it.
    pub system_identifier: u64,
    /// Timeline it writes, or replays.
    pub timeline: u32,
    /// Position it wrote WAL up to; on a standby, received and flushed up to.
    pub position: Lsn,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WalSender<S> {
    /// Asks who the server is.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, WalSenderError> {
        self.wire
            .send_command("IDENTIFY_SYSTEM", "IDENTIFY_SYSTEM")
            .await?;
        let rows = self.wire.rows().await?;
        self.wire.ready().await?;
        let identity = rows.first().and_then(|row| match row.as_slice() {
            [Some(system), Some(timeline), Some(position), ..] => Some(SystemIdentity {
                system_identifier: system.parse().ok()?,
                timeline: timeline.parse().ok()?,
                position: position.parse().ok()?,
            }),
            _ => None,
        });
        identity.ok_or_else(|| self.wire.unexpected(format!("{rows:?}")))
    }

    /// Makes a physical slot that holds WAL from now on. One of this name that exists is left as it is, with what it
    /// holds.
    pub async fn create_physical_slot(
        &mut self,
        name: &str,
        dialect: PgDialect,
    ) -> Result<(), WalSenderError> {
        check_slot_name(name)?;
        let reserve = if dialect.base_backup_has_option_list() {
            "(RESERVE_WAL)"
        } else {
            "RESERVE_WAL"
        };
        let text = format!("CREATE_REPLICATION_SLOT \"{name}\" PHYSICAL {reserve}");
        let made = self.run("CREATE_REPLICATION_SLOT", &text).await;
        unless_already(made, DUPLICATE_OBJECT)
    }

    /// Drops a slot; one that does not exist is as good as dropped. One that is in use is an error (55006).
    pub async fn drop_slot(&mut self, name: &str) -> Result<(), WalSenderError> {
        check_slot_name(name)?;
        let text = format!("DROP_REPLICATION_SLOT \"{name}\"");
        let dropped = self.run("DROP_REPLICATION_SLOT", &text).await;
        unless_already(dropped, UNDEFINED_OBJECT)
    }

    /// Bids the server farewell. Dropping the connection does too, but leaves a line in the server's log.
    pub async fn close(self) {
        self.wire.close().await;
    }

    /// Runs a command whose answer is of no interest: rows on newer servers, none on older.
    async fn run(&mut self, name: &'static str, text: &str) -> Result<(), WalSenderError> {
        self.wire.send_command(name, text).await?;
        self.wire.skip_answer().await
    }
}

fn unless_already(result: Result<(), WalSenderError>, code: &str) -> Result<(), WalSenderError> {
    match result {
        Err(error) if error.code() == Some(code) => Ok(()),
        other => other,
    }
}

fn check_slot_name(name: &str) -> Result<(), WalSenderError> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if (1..=63).contains(&name.len()) && name.bytes().all(allowed) {
        Ok(())
    } else {
        Err(WalSenderError::Argument {
            what: "slot name",
            value: name.to_owned(),
            rule: "1 to 63 lower case letters, digits and underscores",
        })
    }
}
