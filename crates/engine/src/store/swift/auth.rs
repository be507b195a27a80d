//! Who we are to a Swift cluster: TempAuth, Keystone of version 2 or 3, or a token that somebody else fetched.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::{sync::Mutex, time::Instant};
use url::Url;

use crate::store::{
    Credentials,
    error::chain,
    http::{Access, Failure, below, message},
};

/// A token is given within this.
const LOGIN: Duration = Duration::from_secs(20);

/// A token is replaced this long before it ends, so that none ends under way.
const MARGIN: Duration = Duration::from_secs(60);

/// Bytes of an identity service's answer; a catalogue of hundreds of services has some ten thousand.
const ANSWER: usize = 4 << 20;

/// Where the account's storage is, and what opens it.
#[derive(Clone)]
pub(super) struct Pass {
    pub(super) storage: Url,
    token: String,
}

/// What the Secret holds.
enum Identity {
    /// TempAuth, the first version of Swift's own.
    Temp {
        address: Url,
        user: String,
        key: String,
    },
    /// Keystone, version 2.
    KeystoneTwo {
        address: Url,
        region: Option<String>,
        body: Value,
    },
    /// Keystone, version 3.
    KeystoneThree {
        address: Url,
        region: Option<String>,
        body: Value,
    },
    /// A token that lives as long as it lives.
    Given(Pass),
}

/// Logs in when it must, and keeps the last pass.
pub(super) struct Login {
    identity: Identity,
    kept: Mutex<Option<(Pass, Option<Instant>)>>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.identity {
            Identity::Temp { .. } => "TempAuth",
            Identity::KeystoneTwo { .. } => "Keystone v2",
            Identity::KeystoneThree { .. } => "Keystone v3",
            Identity::Given(_) => "token",
        };
        f.debug_tuple("Login").field(&kind).finish()
    }
}

impl Login {
    /// Reads the Secret's keys. The error says what is missing and holds no value.
    pub(super) fn read(credentials: &Credentials) -> Result<Self, String> {
        let keys = Keys(credentials);
        let identity = if let Some(address) = keys.get("ST_AUTH")? {
            Identity::Temp {
                address: address_of("ST_AUTH", &address)?,
                user: keys.need("ST_USER")?,
                key: keys.need("ST_KEY")?,
            }
        } else if let Some(storage) = keys.get("OS_STORAGE_URL")? {
            Identity::Given(Pass {
                storage: address_of("OS_STORAGE_URL", &storage)?,
                token: keys.need("OS_AUTH_TOKEN")?,
            })
        } else if let Some(address) = keys.get("OS_AUTH_URL")? {
            keystone(&keys, &address)?
        } else {
            return Err(
                "the storage Secret has none of ST_AUTH, OS_AUTH_URL and OS_STORAGE_URL".to_owned(),
            );
        };
        Ok(Self {
            identity,
            kept: Mutex::new(None),
        })
    }

    /// Whether all is plain http, so that no certificates are needed.
    pub(super) fn is_plain(&self) -> bool {
        let address = match &self.identity {
            Identity::Temp { address, .. }
            | Identity::KeystoneTwo { address, .. }
            | Identity::KeystoneThree { address, .. } => address,
            Identity::Given(pass) => &pass.storage,
        };
        // The storage may be elsewhere; only an address of this machine is sure to stay plain.
        address.scheme() == "http" && matches!(address.host_str(), Some("127.0.0.1" | "localhost"))
    }

    async fn log_in(&self, client: &Client) -> Result<(Pass, Option<Duration>), Failure> {
        match &self.identity {
            Identity::Given(pass) => Ok((pass.clone(), None)),
            Identity::Temp { address, user, key } => {
                let request = client
                    .get(address.clone())
                    .header("x-auth-user", user)
                    .header("x-auth-key", key);
                temp_pass(&ask(request, address).await?)
            }
            Identity::KeystoneTwo {
                address,
                region,
                body,
            } => {
                let request = client.post(below(address, &["tokens"])).json(body);
                let answer = read(ask(request, address).await?).await?;
                let access = &answer["access"];
                let token = access["token"]["id"].as_str().map(str::to_owned);
                let storage = two_endpoint(&access["serviceCatalog"], region.as_deref())?;
                let life = life(&access["token"]["issued_at"], &access["token"]["expires"]);
                Ok((pass(&storage, token)?, life))
            }
            Identity::KeystoneThree {
                address,
                region,
                body,
            } => {
                let request = client.post(below(address, &["auth", "tokens"])).json(body);
                let response = ask(request, address).await?;
                let token = header(&response, "x-subject-token");
                let answer = read(response).await?;
                let known = &answer["token"];
                let storage = three_endpoint(&known["catalog"], region.as_deref())?;
                let life = life(&known["issued_at"], &known["expires_at"]);
                Ok((pass(&storage, token)?, life))
            }
        }
    }
}

#[async_trait]
impl Access for Login {
    type Pass = Pass;

    async fn pass(&self, client: &Client) -> Result<Pass, Failure> {
        let mut kept = self.kept.lock().await;
        if let Some((pass, ends)) = kept.as_ref()
            && ends.is_none_or(|ends| Instant::now() < ends)
        {
            return Ok(pass.clone());
        }
        let asked = Instant::now();
        let (pass, life) = self.log_in(client).await?;
        // A life shorter than the margin is used for half of it.
        let ends = life.map(|life| asked + life.saturating_sub(MARGIN).max(life / 2));
        *kept = Some((pass.clone(), ends));
        Ok(pass)
    }

    async fn forget(&self) -> bool {
        *self.kept.lock().await = None;
        !matches!(self.identity, Identity::Given(_))
    }

    fn sign(request: RequestBuilder, pass: &Pass) -> RequestBuilder {
        request.header("x-auth-token", &pass.token)
    }
}

/// The Secret's keys as texts. Files often end in a newline that is not part of them.
struct Keys<'a>(&'a Credentials);

impl Keys<'_> {
    fn get(&self, key: &str) -> Result<Option<String>, String> {
        let Some(bytes) = self.0.get(key) else {
            return Ok(None);
        };
        let text = std::str::from_utf8(bytes).map_err(|_| format!("{key} is no text"))?;
        Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
    }

    fn need(&self, key: &str) -> Result<String, String> {
        self.get(key)?
            .ok_or_else(|| format!("the storage Secret has no key {key}"))
    }
}

fn address_of(key: &str, text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("{key} is no URL: {error}"))?;
    if matches!(url.scheme(), "http" | "https") && url.host_str().is_some() {
        Ok(url)
    } else {
        Err(format!("{key} is no http URL"))
    }
}

/// Version 2 where the address or the keys say so, else 3.
fn keystone(keys: &Keys<'_>, address: &str) -> Result<Identity, String> {
    let address = address_of("OS_AUTH_URL", address)?;
    let path = address.path().trim_end_matches('/').to_owned();
    let (user, password) = (keys.need("OS_USERNAME")?, keys.need("OS_PASSWORD")?);
    let region = keys.get("OS_REGION_NAME")?;
    let tenant = [keys.get("OS_TENANT_ID")?, keys.get("OS_TENANT_NAME")?];
    let is_two = path.ends_with("/v2.0")
        || !path.ends_with("/v3")
            && tenant.iter().any(Option::is_some)
            && keys.get("OS_PROJECT_NAME")?.is_none();
    if is_two {
        let address = versioned(address, "v2.0");
        let mut auth = json!({ "passwordCredentials": { "username": user, "password": password } });
        match tenant {
            [Some(id), _] => auth["tenantId"] = id.into(),
            [None, Some(name)] => auth["tenantName"] = name.into(),
            [None, None] => {
                return Err(
                    "the storage Secret has neither OS_TENANT_ID nor OS_TENANT_NAME".to_owned(),
                );
            }
        }
        let body = json!({ "auth": auth });
        return Ok(Identity::KeystoneTwo {
            address,
            region,
            body,
        });
    }
    let project = keys
        .get("OS_PROJECT_NAME")?
        .map_or_else(|| keys.need("OS_TENANT_NAME"), Ok)
        .map_err(|_| "the storage Secret has no key OS_PROJECT_NAME".to_owned())?;
    let domain =
        |key: &str| Ok::<_, String>(keys.get(key)?.unwrap_or_else(|| "Default".to_owned()));
    let (user_domain, project_domain) = (
        domain("OS_USER_DOMAIN_NAME")?,
        domain("OS_PROJECT_DOMAIN_NAME")?,
    );
    let user = json!({ "name": user, "domain": { "name": user_domain }, "password": password });
    let scope = json!({ "project": { "name": project, "domain": { "name": project_domain } } });
    let identity = json!({ "methods": ["password"], "password": { "user": user } });
    Ok(Identity::KeystoneThree {
        address: versioned(address, "v3"),
        region,
        body: json!({ "auth": { "identity": identity, "scope": scope } }),
    })
}

/// The address with the version as its last segment, whether the user gave it or not.
fn versioned(address: Url, version: &str) -> Url {
    if address.path().trim_end_matches('/').ends_with(version) {
        address
    } else {
        below(&address, &[version])
    }
}

/// Sends a login. A refusal is final; silence is not.
async fn ask(request: RequestBuilder, address: &Url) -> Result<Response, Failure> {
    let place = address.origin().ascii_serialization();
    let sent = request.timeout(LOGIN).send().await;
    let response = sent.map_err(|error| Failure::Unreachable {
        reason: format!(
            "failed to log in at {place}: {}",
            chain(&error.without_url())
        ),
    })?;
    let status = response.status();
    // Keystone's root answers 300 with a list of its versions.
    if status.is_success() && status.as_u16() != 300 {
        return Ok(response);
    }
    let reason = format!(
        "{place} lets nobody in: {status} {}",
        message(response).await
    );
    Err(if status.is_server_error() || status.as_u16() == 429 {
        Failure::Unreachable { reason }
    } else {
        Failure::Credential { reason }
    })
}

async fn read(mut response: Response) -> Result<Value, Failure> {
    let broken = |reason: String| Failure::Unreachable {
        reason: format!("the identity service's answer cannot be read: {reason}"),
    };
    let mut body = Vec::new();
    while let Some(piece) = response
        .chunk()
        .await
        .map_err(|error| broken(chain(&error.without_url())))?
    {
        body.extend_from_slice(&piece);
        if body.len() > ANSWER {
            return Err(broken(format!("it is longer than {ANSWER} bytes")));
        }
    }
    serde_json::from_slice(&body).map_err(|error| broken(error.to_string()))
}

fn header(response: &Response, name: &str) -> Option<String> {
    let value = response.headers().get(name)?;
    value.to_str().ok().map(str::to_owned)
}

fn temp_pass(response: &Response) -> Result<(Pass, Option<Duration>), Failure> {
    let token = header(response, "x-auth-token").or_else(|| header(response, "x-storage-token"));
    let storage = header(response, "x-storage-url").unwrap_or_default();
    let life = header(response, "x-auth-token-expires")
        .and_then(|text| text.trim().parse().ok())
        .map(Duration::from_secs);
    Ok((pass(&storage, token)?, life))
}

fn pass(storage: &str, token: Option<String>) -> Result<Pass, Failure> {
    let wrong = |reason: &str| Failure::Credential {
        reason: format!("the identity service gives {reason}"),
    };
    let token = token.ok_or_else(|| wrong("no token"))?;
    let storage = Url::parse(storage).map_err(|_| wrong("no address of the account's storage"))?;
    Ok(Pass { storage, token })
}

/// How long a token lives, by the service's own clock: ours may be off.
fn life(issued: &Value, expires: &Value) -> Option<Duration> {
    let time = |value: &Value| {
        let text = value.as_str()?;
        let zoned = text.parse::<Timestamp>().ok();
        zoned.or_else(|| format!("{text}Z").parse().ok())
    };
    let life = time(expires)?.duration_since(time(issued)?);
    Duration::try_from(life).ok()
}

/// The public endpoint of the object store in a catalogue of version 2.
fn two_endpoint(catalogue: &Value, region: Option<&str>) -> Result<String, Failure> {
    let endpoints = object_stores(catalogue).map(|endpoint| Endpoint {
        region: endpoint["region"].as_str().unwrap_or_default(),
        url: endpoint["publicURL"].as_str().unwrap_or_default(),
    });
    choose(endpoints.collect(), region)
}

/// The same of version 3.
fn three_endpoint(catalogue: &Value, region: Option<&str>) -> Result<String, Failure> {
    let endpoints = object_stores(catalogue)
        .filter(|endpoint| endpoint["interface"] == "public")
        .map(|endpoint| Endpoint {
            region: endpoint["region"]
                .as_str()
                .or_else(|| endpoint["region_id"].as_str())
                .unwrap_or_default(),
            url: endpoint["url"].as_str().unwrap_or_default(),
        });
    choose(endpoints.collect(), region)
}

fn object_stores(catalogue: &Value) -> impl Iterator<Item = &Value> {
    let services = catalogue.as_array().into_iter().flatten();
    services
        .filter(|service| service["type"] == "object-store")
        .flat_map(|service| service["endpoints"].as_array().into_iter().flatten())
}

struct Endpoint<'a> {
    region: &'a str,
    url: &'a str,
}

fn choose(endpoints: Vec<Endpoint<'_>>, region: Option<&str>) -> Result<String, Failure> {
    let found = endpoints
        .iter()
        .find(|endpoint| region.is_none_or(|region| endpoint.region == region));
    if let Some(endpoint) = found {
        return Ok(endpoint.url.to_owned());
    }
    let known: Vec<&str> = endpoints.iter().map(|endpoint| endpoint.region).collect();
    let reason = match (known.is_empty(), region) {
        (false, Some(region)) => format!(
            "no object store is in region {region} (OS_REGION_NAME); there are {}",
            known.join(", ")
        ),
        _ => "the project has no object store in its catalogue".to_owned(),
    };
    Err(Failure::Credential { reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(pairs: &[(&str, &str)]) -> Credentials {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()))
            .collect()
    }

    #[test]
    fn the_secrets_keys_say_which_login_it_is() {
        let two = [
            ("OS_AUTH_URL", "http://keys:5000/v2.0\n"),
            ("OS_USERNAME", "u"),
            ("OS_PASSWORD", "p"),
            ("OS_TENANT_NAME", "t"),
        ];
        let mut three = two;
        three[0].1 = "https://keys/identity";
        three[3].0 = "OS_PROJECT_NAME";
        for (pairs, kind) in [
            (
                &[
                    ("ST_AUTH", "http://s/auth/v1.0"),
                    ("ST_USER", "a:b"),
                    ("ST_KEY", "k"),
                ][..],
                "TempAuth",
            ),
            (&two[..], "Keystone v2"),
            (&three[..], "Keystone v3"),
            (
                &[
                    ("OS_STORAGE_URL", "http://s/v1/AUTH_a"),
                    ("OS_AUTH_TOKEN", "t"),
                ][..],
                "token",
            ),
        ] {
            let login = Login::read(&secret(pairs)).unwrap();
            assert_eq!(format!("{login:?}"), format!("Login({kind:?})"));
        }
        let Identity::KeystoneThree { address, body, .. } =
            Login::read(&secret(&three)).unwrap().identity
        else {
            panic!("it must be version 3");
        };
        assert_eq!(address.as_str(), "https://keys/identity/v3");
        assert_eq!(
            body["auth"]["scope"]["project"]["domain"]["name"],
            "Default"
        );
    }

    #[test]
    fn what_is_missing_is_named_and_no_value_is_repeated() {
        for (pairs, words) in [
            (&[][..], "none of ST_AUTH, OS_AUTH_URL and OS_STORAGE_URL"),
            (
                &[("ST_AUTH", "http://s"), ("ST_KEY", "hunter2")][..],
                "no key ST_USER",
            ),
            (&[("ST_AUTH", "hunter2")][..], "ST_AUTH is no URL"),
            (&[("OS_STORAGE_URL", "ftp://hunter2")][..], "no http URL"),
            (
                &[("OS_AUTH_URL", "http://k/v3"), ("OS_USERNAME", "u")][..],
                "no key OS_PASSWORD",
            ),
        ] {
            let why = Login::read(&secret(pairs)).unwrap_err();
            assert!(why.contains(words) && !why.contains("hunter2"), "{why}");
        }
    }

    #[test]
    fn an_endpoint_is_chosen_by_region_or_the_known_ones_are_named() {
        let catalogue = json!([
            { "type": "compute", "endpoints": [{ "interface": "public", "region": "a", "url": "http://no" }] },
            { "type": "object-store", "endpoints": [
                { "interface": "admin", "region": "a", "url": "http://admin" },
                { "interface": "public", "region": "a", "url": "http://a" },
                { "interface": "public", "region_id": "b", "url": "http://b" },
            ] },
        ]);
        assert_eq!(three_endpoint(&catalogue, None).unwrap(), "http://a");
        assert_eq!(three_endpoint(&catalogue, Some("b")).unwrap(), "http://b");
        let refused = three_endpoint(&catalogue, Some("c")).unwrap_err();
        assert!(matches!(refused, Failure::Credential { reason } if reason.contains("a, b")));
        let old = json!([{ "type": "object-store", "endpoints": [{ "region": "a", "publicURL": "http://two" }] }]);
        assert_eq!(two_endpoint(&old, Some("a")).unwrap(), "http://two");
    }

    #[test]
    fn a_life_is_measured_by_one_clock() {
        let life = |issued, expires| life(&json!(issued), &json!(expires));
        let minute = Some(Duration::from_secs(60));
        assert_eq!(
            life("2026-01-01T00:00:00.000000Z", "2026-01-01T00:01:00.000000Z"),
            minute
        );
        assert_eq!(
            life("2026-01-01T00:00:00.5", "2026-01-01T00:01:00.5"),
            minute
        );
        assert_eq!(life("", "2026-01-01T00:01:00Z"), None);
        assert_eq!(life("2026-01-01T00:01:00Z", "2026-01-01T00:00:00Z"), None);
    }
}
