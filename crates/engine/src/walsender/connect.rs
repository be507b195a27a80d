//! From an address to a replication connection that takes commands.

use std::{fmt, time::Duration};

use postgres_protocol::{
    authentication::{
        md5_hash,
        sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256},
    },
    message::{
        backend::{AuthenticationSaslBody, Message},
        frontend,
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_postgres::fallible_iterator::FallibleIterator as _;

use super::{WalSender, WalSenderError, wire::Wire};

/// Where a server is, and who we are there.
#[derive(Clone, PartialEq, Eq)]
pub struct WalSenderConfig {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// A role with REPLICATION.
    pub user: String,
    /// Its password; not sent where the server trusts us.
    pub password: String,
    /// Shown in `pg_stat_replication`.
    pub application_name: String,
    /// For finding the host, connecting and authenticating together.
    pub connect_timeout: Duration,
}

impl fmt::Debug for WalSenderConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WalSenderConfig")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("user", &self.user)
            .field("application_name", &self.application_name)
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}

/// Messages during startup: a few of authentication, a parameter each, and no more.
const STARTUP_MESSAGES: usize = 200;

impl WalSender<TcpStream> {
    /// Connects for physical replication, by trust, md5 or scram-sha-256.
    ///
    /// There is no TLS yet: a cleartext password is refused, the other methods show a listener no password.
    pub async fn connect(config: &WalSenderConfig) -> Result<Self, WalSenderError> {
        let limit = config.connect_timeout;
        let connecting = async {
            let stream = TcpStream::connect((config.host.as_str(), config.port)).await;
            let stream = stream.map_err(|source| WalSenderError::Connect {
                address: address(config),
                source,
            })?;
            // A small command must not wait for more to send.
            let _ = stream.set_nodelay(true);
            Self::over(stream, config).await
        };
        match tokio::time::timeout(limit, connecting).await {
            Ok(result) => result,
            Err(_) => Err(WalSenderError::ConnectTimeout {
                address: address(config),
                limit,
            }),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WalSender<S> {
    /// Introduces us over a stream that is there; the time limit is the caller's.
    pub async fn over(stream: S, config: &WalSenderConfig) -> Result<Self, WalSenderError> {
        let mut wire = Wire::new(stream);
        let parameters = [
            ("user", config.user.as_str()),
            ("replication", "true"),
            ("application_name", &config.application_name),
            ("client_encoding", "UTF8"),
        ];
        wire.send(|buffer| frontend::startup_message(parameters, buffer))
            .await?;
        authenticate(&mut wire, config).await?;
        for _ in 0..STARTUP_MESSAGES {
            match wire.next().await? {
                Message::BackendKeyData(_) => {}
                Message::ReadyForQuery(_) => return Ok(Self { wire }),
                _ => break,
            }
        }
        Err(wire.unexpected("the server does not become ready"))
    }
}

fn address(config: &WalSenderConfig) -> String {
    format!("{}:{}", config.host, config.port)
}

async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    config: &WalSenderConfig,
) -> Result<(), WalSenderError> {
    let method = match wire.next().await? {
        Message::AuthenticationOk => return Ok(()),
        Message::AuthenticationMd5Password(body) => {
            let (user, password) = (config.user.as_bytes(), config.password.as_bytes());
            let proof = md5_hash(user, password, body.salt());
            wire.send(|buffer| frontend::password_message(proof.as_bytes(), buffer))
                .await?;
            return authenticated(wire).await;
        }
        Message::AuthenticationSasl(body) => return scram(wire, &body, &config.password).await,
        Message::AuthenticationCleartextPassword => "a password in clear text",
        Message::AuthenticationGss | Message::AuthenticationGssContinue(_) => "GSSAPI",
        Message::AuthenticationSspi => "SSPI",
        Message::AuthenticationKerberosV5 => "Kerberos V5",
        Message::AuthenticationScmCredential => "SCM credentials",
        _ => return Err(wire.unexpected("no authentication where it is due")),
    };
    Err(WalSenderError::UnsupportedAuthentication { method })
}

async fn authenticated<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
) -> Result<(), WalSenderError> {
    match wire.next().await? {
        Message::AuthenticationOk => Ok(()),
        _ => Err(wire.unexpected("no end of the authentication")),
    }
}

/// Both sides prove that they know the password; neither shows it.
async fn scram<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    offer: &AuthenticationSaslBody,
    password: &str,
) -> Result<(), WalSenderError> {
    let known = offer.mechanisms().find(|name| Ok(*name == SCRAM_SHA_256));
    if !matches!(known, Ok(Some(_))) {
        return Err(WalSenderError::UnsupportedAuthentication {
            method: "an unknown SASL mechanism",
        });
    }
    let failed = |source| WalSenderError::Scram { source };
    let mut proof = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
    wire.send(|buffer| frontend::sasl_initial_response(SCRAM_SHA_256, proof.message(), buffer))
        .await?;
    let Message::AuthenticationSaslContinue(body) = wire.next().await? else {
        return Err(wire.unexpected("no challenge where it is due"));
    };
    proof.update(body.data()).map_err(failed)?;
    wire.send(|buffer| frontend::sasl_response(proof.message(), buffer))
        .await?;
    let Message::AuthenticationSaslFinal(body) = wire.next().await? else {
        return Err(wire.unexpected("no proof of the server"));
    };
    proof.finish(body.data()).map_err(failed)?;
    authenticated(wire).await
}
