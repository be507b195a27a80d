//! Access tokens for a service account: a signed claim is traded for a token that lives an hour.

use std::{
    fmt,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Client;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::http::{Failure, message};
use crate::store::error::chain;

/// Google's own default where a key names none.
const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";

/// Objects are read, written and deleted; buckets are not managed.
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";

/// The longest life a claim may have.
const CLAIM_SECONDS: u64 = 3_600;

/// A token is replaced this long before it ends, so that none ends under way.
const MARGIN: Duration = Duration::from_secs(60);

/// Trades its key for tokens, and keeps the last one.
pub(super) struct TokenSource {
    email: String,
    key_id: Option<String>,
    token_uri: String,
    key: EncodingKey,
    kept: Mutex<Option<(String, Instant)>>,
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TokenSource").field(&self.email).finish()
    }
}

#[derive(Deserialize)]
struct KeyFile {
    client_email: String,
    private_key: String,
    private_key_id: Option<String>,
    token_uri: Option<String>,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    scope: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
}

#[derive(Deserialize)]
struct Reply {
    access_token: String,
    expires_in: u64,
}

impl TokenSource {
    /// Reads a service account's key file. The error says what is wrong and holds nothing of the key.
    pub(super) fn read(key_file: &[u8]) -> Result<Self, String> {
        let file: KeyFile = serde_json::from_slice(key_file).map_err(|error| {
            format!(
                "no service account's JSON key (line {}, column {})",
                error.line(),
                error.column()
            )
        })?;
        let key = EncodingKey::from_rsa_pem(file.private_key.as_bytes())
            .map_err(|_| "its private_key is no RSA key in PEM form".to_owned())?;
        Ok(Self {
            email: file.client_email,
            key_id: file.private_key_id,
            token_uri: file.token_uri.unwrap_or_else(|| TOKEN_URI.to_owned()),
            key,
            kept: Mutex::new(None),
        })
    }

    /// A token that lives for a minute at least.
    pub(super) async fn token(&self, client: &Client) -> Result<String, Failure> {
        let mut kept = self.kept.lock().await;
        if let Some((token, ends)) = kept.as_ref()
            && Instant::now() + MARGIN < *ends
        {
            return Ok(token.clone());
        }
        let asked = Instant::now();
        let reply = self.trade(client).await?;
        let ends = asked + Duration::from_secs(reply.expires_in.min(CLAIM_SECONDS));
        *kept = Some((reply.access_token.clone(), ends));
        Ok(reply.access_token)
    }

    async fn trade(&self, client: &Client) -> Result<Reply, Failure> {
        let claim = self.claim()?;
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
            ("assertion", claim.as_str()),
        ];
        let unreachable = |error: reqwest::Error| Failure::Unreachable {
            reason: format!("failed to fetch an access token: {}", chain(&error)),
        };
        let reply = client.post(&self.token_uri).form(&form).send().await;
        let response = reply.map_err(unreachable)?;
        let status = response.status();
        if status.is_success() {
            return response.json().await.map_err(unreachable);
        }
        let words = message(response).await;
        let reason = format!("{} gives no access token: {status} {words}", self.token_uri);
        Err(if status.is_client_error() {
            Failure::Credential { reason }
        } else {
            Failure::Unreachable { reason }
        })
    }

    fn claim(&self) -> Result<String, Failure> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let claims = Claims {
            iss: &self.email,
            scope: SCOPE,
            aud: &self.token_uri,
            iat: now,
            exp: now + CLAIM_SECONDS,
        };
        let mut header = Header::new(Algorithm::RS256);
        header.kid = self.key_id.clone();
        jsonwebtoken::encode(&header, &claims, &self.key).map_err(|error| Failure::Credential {
            reason: format!("failed to sign with the service account's key: {error}"),
        })
    }
}
