//! Access tokens for a service account: a signed claim is traded for a token that lives an hour, or the machine's own is asked for one.

use std::{
    env, fmt,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::{Client, RequestBuilder};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::store::{
    error::chain,
    http::{Access, Failure, message},
};

/// Google's own default where a key names none.
const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";

/// Objects are read, written and deleted; buckets are not managed.
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";

/// The longest life a claim may have.
const CLAIM_SECONDS: u64 = 3_600;

/// A token is replaced this long before it ends, so that none ends under way.
const MARGIN: Duration = Duration::from_secs(60);

/// A token is given within this.
const TRADE: Duration = Duration::from_secs(20);

/// Where a machine of Google's asks who it is; `GCE_METADATA_HOST` names another host.
const METADATA: &str = "metadata.google.internal";

/// Where it is told a token of its service account, or of the workload's on Kubernetes.
const METADATA_TOKEN: &str = "computeMetadata/v1/instance/service-accounts/default/token";

/// Gets tokens, and keeps the last one.
pub(in crate::store) struct TokenSource {
    account: Account,
    kept: Mutex<Option<(String, Instant)>>,
}

/// Whose tokens.
enum Account {
    /// Of a key, which is traded.
    Key(Box<Key>),
    /// The machine's own: the address that knows it.
    Machine(String),
}

struct Key {
    email: String,
    key_id: Option<String>,
    token_uri: String,
    key: EncodingKey,
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let account = match &self.account {
            Account::Key(key) => &key.email,
            Account::Machine(address) => address,
        };
        f.debug_tuple("TokenSource").field(account).finish()
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
    pub(in crate::store) fn read(key_file: &[u8]) -> Result<Self, String> {
        let file: KeyFile = serde_json::from_slice(key_file).map_err(|error| {
            format!(
                "no service account's JSON key (line {}, column {})",
                error.line(),
                error.column()
            )
        })?;
        let key = EncodingKey::from_rsa_pem(file.private_key.as_bytes())
            .map_err(|_| "its private_key is no RSA key in PEM form".to_owned())?;
        let key = Key {
            email: file.client_email,
            key_id: file.private_key_id,
            token_uri: file.token_uri.unwrap_or_else(|| TOKEN_URI.to_owned()),
            key,
        };
        Ok(Self::of(Account::Key(Box::new(key))))
    }

    /// The service account that a machine, or a workload of GKE, has without a key.
    pub(in crate::store) fn of_the_machine() -> Self {
        let host = env::var("GCE_METADATA_HOST").ok();
        let host = host.filter(|host| !host.is_empty());
        let host = host.as_deref().unwrap_or(METADATA);
        Self::of(Account::Machine(format!("http://{host}/{METADATA_TOKEN}")))
    }

    fn of(account: Account) -> Self {
        Self {
            account,
            kept: Mutex::new(None),
        }
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
        let (request, place) = match &self.account {
            Account::Key(key) => {
                let claim = key.claim()?;
                let form = [
                    ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
                    ("assertion", claim.as_str()),
                ];
                (client.post(&key.token_uri).form(&form), &key.token_uri)
            }
            // Only who says so is told: a page that makes a browser ask cannot.
            Account::Machine(address) => {
                let request = client.get(address).header("Metadata-Flavor", "Google");
                (request, address)
            }
        };
        let reply = request.timeout(TRADE).send().await;
        let response = reply.map_err(|error| self.unanswered(&error))?;
        let status = response.status();
        if status.is_success() {
            return response
                .json()
                .await
                .map_err(|error| self.unanswered(&error));
        }
        let words = message(response).await;
        let reason = format!("{place} gives no access token: {status} {words}");
        Err(if status.is_client_error() {
            Failure::Credential { reason }
        } else {
            Failure::Unreachable { reason }
        })
    }

    fn unanswered(&self, error: &reqwest::Error) -> Failure {
        let told = chain(error);
        match &self.account {
            // There is nobody of that name on a machine that is not of this cloud.
            Account::Machine(_) if error.is_connect() && told.contains("dns error") => {
                Failure::Credential {
                    reason: "the storage Secret has no key GOOGLE_SERVICE_ACCOUNT_JSON_KEY, and this machine has no service account of Google's cloud".to_owned(),
                }
            }
            _ => Failure::Unreachable {
                reason: format!("failed to fetch an access token: {told}"),
            },
        }
    }
}

impl Key {
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

/// An emulator is asked unsigned.
#[async_trait]
impl Access for Option<TokenSource> {
    type Pass = Option<String>;

    async fn pass(&self, client: &Client) -> Result<Self::Pass, Failure> {
        match self {
            None => Ok(None),
            Some(tokens) => tokens.token(client).await.map(Some),
        }
    }

    async fn forget(&self) -> bool {
        if let Some(tokens) = self {
            *tokens.kept.lock().await = None;
        }
        self.is_some()
    }

    fn sign(request: RequestBuilder, pass: &Self::Pass) -> RequestBuilder {
        match pass {
            None => request,
            Some(token) => request.bearer_auth(token),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use jsonwebtoken::{DecodingKey, Validation, decode};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    fn openssl(arguments: &[&str]) -> String {
        let output = Command::new("openssl").args(arguments).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    fn is_whole(request: &str) -> bool {
        let length = request
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length = length.and_then(|length| length.parse::<usize>().ok());
        let body = request.split_once("\r\n\r\n");
        body.is_some_and(|(_, body)| Some(body.len()) == length)
    }

    /// Answers `answers` token requests and gives the claims that it was sent.
    async fn token_server(listener: TcpListener, answers: &[(u16, &str)]) -> Vec<String> {
        let mut claims = Vec::new();
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = String::new();
            let mut buffer = [0; 8192];
            while !is_whole(&request) {
                let read = stream.read(&mut buffer).await.unwrap();
                request.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
            }
            let (_, claim) = request.split_once("assertion=").unwrap();
            claims.push(claim.to_owned());
            let length = body.len();
            let reply = format!(
                "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
            );
            stream.write_all(reply.as_bytes()).await.unwrap();
        }
        claims
    }

    #[tokio::test]
    async fn a_claim_that_verifies_buys_a_token_that_is_kept_until_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        let file = file.to_str().unwrap();
        openssl(&["genrsa", "-out", file, "2048"]);
        let private = std::fs::read_to_string(file).unwrap();
        let public = openssl(&["rsa", "-in", file, "-pubout"]);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let uri = format!("http://{}/token", listener.local_addr().unwrap());
        let key = serde_json::json!({
            "client_email": "backup@example.iam", "private_key": private, "token_uri": uri,
        });
        let source = TokenSource::read(key.to_string().as_bytes()).unwrap();
        let served = tokio::spawn(async move {
            let answers = [
                (200, r#"{"access_token":"one","expires_in":3600}"#),
                (200, r#"{"access_token":"two","expires_in":30}"#),
                (400, r#"{"error":"invalid_grant"}"#),
            ];
            token_server(listener, &answers).await
        });
        let client = Client::new();
        assert_eq!(source.token(&client).await.unwrap(), "one");
        assert_eq!(source.token(&client).await.unwrap(), "one");
        *source.kept.lock().await = None;
        assert_eq!(source.token(&client).await.unwrap(), "two");
        // It lives less than the margin, so it is not used again.
        let refused = source.token(&client).await.unwrap_err();
        assert!(matches!(&refused, Failure::Credential { reason } if reason.contains("400")));

        let claims = served.await.unwrap();
        let mut rules = Validation::new(Algorithm::RS256);
        rules.set_audience(&[uri]);
        rules.set_issuer(&["backup@example.iam"]);
        let public = DecodingKey::from_rsa_pem(public.as_bytes()).unwrap();
        for claim in &claims {
            let read = decode::<serde_json::Value>(claim, &public, &rules).unwrap();
            assert_eq!(read.claims["scope"], SCOPE);
        }
        assert_eq!(claims.len(), 3);
    }

    #[tokio::test]
    async fn the_machine_is_asked_for_its_own_token() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = format!("http://{}/{METADATA_TOKEN}", listener.local_addr().unwrap());
        let source = TokenSource::of(Account::Machine(address));
        let served = tokio::spawn(async move {
            let mut asked = Vec::new();
            for (status, body) in [
                (503, "not ready"),
                (
                    200,
                    r#"{"access_token":"mine","expires_in":3599,"token_type":"Bearer"}"#,
                ),
            ] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = String::new();
                let mut buffer = [0; 8192];
                while !request.ends_with("\r\n\r\n") {
                    let read = stream.read(&mut buffer).await.unwrap();
                    request.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
                }
                asked.push(request.to_lowercase());
                let length = body.len();
                let reply = format!(
                    "HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
                );
                stream.write_all(reply.as_bytes()).await.unwrap();
            }
            asked
        });
        let client = Client::new();
        let early = source.token(&client).await.unwrap_err();
        assert!(matches!(&early, Failure::Unreachable { reason } if reason.contains("503")));
        assert_eq!(source.token(&client).await.unwrap(), "mine");
        assert_eq!(source.token(&client).await.unwrap(), "mine");
        for request in served.await.unwrap() {
            assert!(
                request.starts_with(
                    "get /computemetadata/v1/instance/service-accounts/default/token "
                )
            );
            assert!(
                request.contains("\r\nmetadata-flavor: google\r\n"),
                "{request}"
            );
        }
        let nowhere = TokenSource::of(Account::Machine("http://nowhere.invalid/".to_owned()));
        let refused = nowhere.token(&client).await.unwrap_err();
        assert!(
            matches!(&refused, Failure::Credential { reason } if reason.contains("has no key")),
            "{refused:?}"
        );
    }

    #[test]
    fn what_is_no_key_is_refused_without_repeating_it() {
        let secret = r#"{"client_email":"a","private_key":"hunter2"}"#;
        for bad in ["hunter2", "{\"client_email\":\"hunter2\"}", secret] {
            let why = TokenSource::read(bad.as_bytes()).unwrap_err();
            assert!(!why.contains("hunter2"), "{why}");
        }
    }
}
