//! Ways to a store: its region, authorities of one's own, proxies, and identities that a cloud gives to a machine. The environment decides some of them,
//! so each of these is tried by a process of its own.

#![allow(clippy::unwrap_used)]

use std::{env, process::Command, sync::Arc};

use kubedb_engine::store::{Credentials, Location, Store};
use kubedb_stores::{
    azurite::{self, Azurite},
    certificates::Signed,
    identity::Identity,
    minio::{self, Minio},
    proxy::Proxy,
    web::{Answer, Web},
};
use object_store::PutPayload;
use serde_json::{Value, json};

const BUCKET: &str = "kubedb";

/// What a child process is told to try.
const TRIAL: &str = "KUBEDB_TEST_TRIAL";

/// Tries a store in a process with this environment, and says how it went.
fn tried(
    kind: &str,
    endpoint: &str,
    secret: &[(&str, &str)],
    environment: &[(&str, &str)],
) -> String {
    let secret: std::collections::BTreeMap<_, _> = secret.iter().copied().collect();
    let trial = json!({ "kind": kind, "endpoint": endpoint, "secret": secret }).to_string();
    let output = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "a_child_tries_a_store",
            "--ignored",
            "--nocapture",
        ])
        .env_clear()
        .env("PATH", env::var_os("PATH").unwrap())
        .env(TRIAL, trial)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let outcome = told.lines().find_map(|line| line.split_once("OUTCOME "));
    let outcome = outcome.map(|(_, outcome)| outcome.to_owned());
    outcome.unwrap_or_else(|| panic!("{told}{}", String::from_utf8_lossy(&output.stderr)))
}

#[tokio::test]
#[ignore = "the other tests start it as a process of its own"]
async fn a_child_tries_a_store() {
    let trial: Value = serde_json::from_str(&env::var(TRIAL).unwrap()).unwrap();
    let endpoint = trial["endpoint"]
        .as_str()
        .filter(|text| !text.is_empty())
        .map(str::to_owned);
    let (name, prefix) = (BUCKET.to_owned(), Some("way".to_owned()));
    let location = match trial["kind"].as_str().unwrap() {
        "s3" => Location::S3 {
            endpoint,
            bucket: name,
            prefix,
        },
        "azure" => Location::Azure {
            endpoint,
            container: name,
            prefix,
        },
        _ => Location::Gcs {
            endpoint,
            bucket: name,
            prefix,
        },
    };
    let secret = trial["secret"].as_object().unwrap();
    let credentials: Credentials = secret
        .iter()
        .map(|(key, value)| (key.clone(), value.as_str().unwrap().as_bytes().to_vec()))
        .collect();
    let outcome = async {
        let store = Store::open(&location, &credentials)?;
        let content = PutPayload::from_static(b"x");
        store.create("kubedb/a/b", content).await?;
        store.read("kubedb/a/b", 9).await?;
        let listed = store.list("kubedb/a").await?;
        store.delete("kubedb/a/b").await?;
        Ok::<_, kubedb_engine::store::StoreError>(listed.len())
    };
    match outcome.await {
        Ok(listed) => println!("OUTCOME {listed} object"),
        Err(error) => println!("OUTCOME {error}"),
    }
}

const DONE: &str = "1 object";

const KEYS: [(&str, &str); 2] = [
    ("AWS_ACCESS_KEY_ID", minio::KEYS.0),
    ("AWS_SECRET_ACCESS_KEY", minio::KEYS.1),
];

fn with_settings(settings: minio::Settings) -> (tempfile::TempDir, Minio) {
    let folder = tempfile::tempdir().unwrap();
    let server = Minio::start_with(folder.path(), &[BUCKET], settings).unwrap();
    (folder, server)
}

/// MinIO, like Amazon, refuses signatures for another region, and says which one it wants.
#[test]
fn a_region_that_nobody_gave_is_learnt_from_the_refusal() {
    let settings = minio::Settings {
        region: Some("eu-central-1".to_owned()),
        ..minio::Settings::default()
    };
    let (_folder, server) = with_settings(settings);
    assert_eq!(tried("s3", &server.endpoint(), &KEYS, &[]), DONE);
    let given = |region| [KEYS[0], KEYS[1], ("AWS_REGION", region)];
    assert_eq!(
        tried("s3", &server.endpoint(), &given("eu-central-1"), &[]),
        DONE
    );
    let wrong = tried("s3", &server.endpoint(), &given("us-west-2"), &[]);
    assert!(
        wrong.contains("expecting 'eu-central-1'") || wrong.contains("eu-central-1"),
        "{wrong}"
    );
}

/// Amazon tells the region to anybody, in a header. (Played, since there is no Amazon here.)
#[test]
fn a_region_that_nobody_gave_is_read_from_the_header() {
    let played = Web::start(None, |asked| Answer {
        status: if asked.head.starts_with("HEAD /kubedb ") {
            403
        } else {
            404
        },
        headers: "x-amz-bucket-region: ap-south-2\r\n".to_owned(),
        body: "<Error><Code>NoSuchBucket</Code></Error>".to_owned(),
    });
    let played = played.unwrap();
    let told = tried("s3", &played.address(), &KEYS, &[]);
    assert!(told.contains("bucket \"kubedb\" does not exist"), "{told}");
    let asked = played.asked();
    assert!(
        !asked[0].head.contains("authorization"),
        "{}",
        asked[0].head
    );
    assert!(
        asked[1].head.contains("/ap-south-2/s3/aws4_request"),
        "{}",
        asked[1].head
    );
}

#[test]
fn an_authority_of_ones_own_is_trusted_when_the_secret_says_so() {
    let signed = Signed::of(&["127.0.0.1"]).unwrap();
    let other = Signed::of(&["127.0.0.1"]).unwrap();
    let (_folder, server) = with_settings(minio::Settings {
        signed: Some(signed.clone()),
        ..minio::Settings::default()
    });
    let with = |pem| [KEYS[0], KEYS[1], ("CA_CERT_DATA", pem)];
    assert_eq!(
        tried("s3", &server.endpoint(), &with(&signed.authority), &[]),
        DONE
    );
    let both = format!("{}{}", other.authority, signed.authority);
    assert_eq!(tried("s3", &server.endpoint(), &with(&both), &[]), DONE);
    let words = "failed to trust store s3:kubedb/way: its certificate is signed by an authority that is not known here. If this is your store, put the certificate of the authority that signed it into CA_CERT_DATA of the storage Secret";
    assert_eq!(tried("s3", &server.endpoint(), &KEYS, &[]), words);
    let foreign = tried("s3", &server.endpoint(), &with(&other.authority), &[]);
    assert!(
        foreign.starts_with("failed to trust store s3:kubedb/way: "),
        "{foreign}"
    );
    for rubbish in [
        "",
        "not PEM",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        let told = tried("s3", &server.endpoint(), &with(rubbish), &[]);
        assert!(
            told.starts_with("failed to set up store s3:kubedb/way: "),
            "{rubbish:?}: {told}"
        );
        assert!(told.contains("CA_CERT_DATA"), "{rubbish:?}: {told}");
    }
    let elsewhere = server.endpoint().replace("127.0.0.1", "localhost");
    let named = tried("s3", &elsewhere, &with(&signed.authority), &[]);
    assert!(named.contains("its certificate is"), "{named}");
}

/// The name of the store is known to the proxy alone, so nothing comes through without it.
#[test]
fn a_proxy_of_the_environment_is_used_but_not_for_those_it_is_not_for() {
    let name = "store.invalid";
    let signed = Signed::of(&[name]).unwrap();
    let (_folder, server) = with_settings(minio::Settings {
        signed: Some(signed.clone()),
        ..minio::Settings::default()
    });
    let secret = [KEYS[0], KEYS[1], ("CA_CERT_DATA", &*signed.authority)];
    let endpoint = format!("https://{name}:9443");
    let through = |environment: &[(&str, &str)]| {
        let proxy = Proxy::start(server.port()).unwrap();
        let address = proxy.address();
        let environment: Vec<(&str, &str)> = environment
            .iter()
            .map(|(key, value)| (*key, if *value == "PROXY" { &*address } else { *value }))
            .collect();
        let told = tried("s3", &endpoint, &secret, &environment);
        (told, proxy.asked())
    };
    for variable in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
        let (told, asked) = through(&[(variable, "PROXY")]);
        assert_eq!(told, DONE, "{variable}");
        assert!(
            asked
                .iter()
                .all(|line| line.starts_with("CONNECT store.invalid:9443 ")),
            "{asked:?}"
        );
        assert!(!asked.is_empty());
    }
    for environment in [
        &[("HTTPS_PROXY", "PROXY"), ("NO_PROXY", "store.invalid")][..],
        &[("HTTPS_PROXY", "PROXY"), ("no_proxy", ".invalid")],
        &[("HTTP_PROXY", "PROXY")],
        &[],
    ] {
        let (told, asked) = through(environment);
        assert!(
            told.starts_with("failed to reach store s3:kubedb/way"),
            "{environment:?}: {told}"
        );
        assert_eq!(asked, [""; 0], "{environment:?}");
    }
}

#[test]
fn a_proxy_for_clear_text_is_used() {
    let (_folder, server) = with_settings(minio::Settings::default());
    let proxy = Proxy::start(server.port()).unwrap();
    let told = tried(
        "s3",
        "http://store.invalid",
        &KEYS,
        &[("HTTP_PROXY", &proxy.address())],
    );
    assert_eq!(told, DONE);
    assert!(
        proxy
            .asked()
            .iter()
            .all(|line| line.contains(" http://store.invalid/kubedb")),
        "{:?}",
        proxy.asked()
    );
}

/// MinIO with a token service: it gives a role to who shows a token of a provider that it knows, as Amazon does to service accounts.
struct Roles {
    server: Minio,
    signed: Signed,
    token: String,
    folder: tempfile::TempDir,
    /// MinIO reads its keys now and then.
    _identity: Identity,
}

impl Roles {
    fn start() -> Self {
        let identity = Identity::start().unwrap();
        let signed = Signed::of(&["127.0.0.1"]).unwrap();
        let (folder, server) = with_settings(minio::Settings {
            signed: Some(signed.clone()),
            identities: Some(identity.configuration()),
            ..minio::Settings::default()
        });
        let token = identity.token(&json!({ "policy": "readwrite" })).unwrap();
        Self {
            server,
            signed,
            token,
            folder,
            _identity: identity,
        }
    }

    /// Credentials that live an hour, as a metadata service gives them.
    async fn credentials(&self) -> Value {
        let root = reqwest::Certificate::from_pem(self.signed.authority.as_bytes()).unwrap();
        let client = reqwest::Client::builder()
            .tls_certs_only([root])
            .build()
            .unwrap();
        let form = [
            ("Action", "AssumeRoleWithWebIdentity"),
            ("Version", "2011-06-15"),
            ("DurationSeconds", "3600"),
            ("WebIdentityToken", &self.token),
        ];
        let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
        let text = loop {
            let asked = client.post(self.server.endpoint()).form(&form).send().await;
            let text = asked.unwrap().text().await.unwrap();
            // It serves objects a moment before it knows its users, and these a moment before their policies.
            let is_early = ["STSIAMNotInitialized", "are defined, credentials"];
            if !is_early.iter().any(|early| text.contains(early)) {
                break text;
            }
            assert!(std::time::Instant::now() < end, "{text}");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        };
        let element = |name: &str| {
            let (_, rest) = text
                .split_once(&format!("<{name}>"))
                .unwrap_or_else(|| panic!("{text}"));
            rest.split_once('<').unwrap().0.to_owned()
        };
        json!({
            "Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": element("AccessKeyId"), "SecretAccessKey": element("SecretAccessKey"),
            "Token": element("SessionToken"), "Expiration": element("Expiration"), "LastUpdated": "2026-01-01T00:00:00Z"
        })
    }

    fn tried(&self, environment: &[(&str, &str)]) -> String {
        let secret = [("CA_CERT_DATA", &*self.signed.authority)];
        tried("s3", &self.server.endpoint(), &secret, environment)
    }
}

/// A service account of Kubernetes: its token is traded for a role by a real token service.
#[tokio::test]
async fn a_service_account_of_kubernetes_opens_s3() {
    let roles = Roles::start();
    roles.credentials().await;
    let file = roles.folder.path().join("token");
    let endpoint = roles.server.endpoint();
    let environment = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", file.to_str().unwrap()),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/backup"),
        ("AWS_ENDPOINT_URL_STS", &endpoint),
    ];
    std::fs::write(&file, &roles.token).unwrap();
    assert_eq!(roles.tried(&environment), DONE);
    std::fs::write(&file, roles.token.replace('.', ".e")).unwrap();
    let refused = roles.tried(&environment);
    assert!(
        !refused.contains(DONE) && refused.starts_with("failed to "),
        "{refused}"
    );
}

/// The metadata service of a machine of Amazon's, in its second version. (The service is played; what it gives opens a real store.)
#[tokio::test]
async fn a_machine_of_amazons_opens_s3_by_its_role() {
    let roles = Roles::start();
    let given = roles.credentials().await.to_string();
    let service = Web::start(None, move |asked| {
        let body = match asked.head.split(' ').take(2).collect::<Vec<_>>()[..] {
            ["PUT", "/latest/api/token"] => "a-session",
            _ if !asked.head.contains("x-aws-ec2-metadata-token: a-session") => {
                return Answer {
                    status: 401,
                    ..Answer::default()
                };
            }
            ["GET", "/latest/meta-data/iam/security-credentials/"] => "backup",
            ["GET", "/latest/meta-data/iam/security-credentials/backup"] => &given,
            _ => {
                return Answer {
                    status: 404,
                    ..Answer::default()
                };
            }
        };
        Answer {
            status: 200,
            headers: String::new(),
            body: body.to_owned(),
        }
    });
    let service = service.unwrap();
    let told = roles.tried(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &service.address())]);
    assert_eq!(told, DONE);
}

/// EKS gives a pod its role by an agent beside it. (The agent is played; what it gives opens a real store.)
#[tokio::test]
async fn a_pod_of_eks_opens_s3_by_its_role() {
    let roles = Roles::start();
    let given = roles.credentials().await.to_string();
    let agent = Web::start(None, move |asked| {
        let is_known = asked
            .head
            .contains("\r\nauthorization: a-token-of-the-pod\r\n");
        Answer {
            status: if is_known { 200 } else { 403 },
            headers: String::new(),
            body: given.clone(),
        }
    });
    let agent = agent.unwrap();
    let file = roles.folder.path().join("token");
    std::fs::write(&file, "a-token-of-the-pod").unwrap();
    let told = roles.tried(&[
        (
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            &format!("{}/v1/credentials", agent.address()),
        ),
        (
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
            file.to_str().unwrap(),
        ),
    ]);
    assert_eq!(told, DONE);
}

/// A token of Azure's directory for storage, whose signature Azurite does not check.
fn azure_token(identity: &Identity) -> String {
    let claims = json!({ "iss": "https://sts.windows.net/ab1f708d-50f6-404c-a006-d71b2ac7a606/", "aud": "https://storage.azure.com" });
    identity.token(&claims).unwrap()
}

/// A workload of AKS trades its token at Azure's directory. (The directory is played; what it gives opens a real store.)
#[test]
fn a_workload_of_azure_opens_its_container() {
    let signed = Signed::of(&["127.0.0.1"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let server = Azurite::start(folder.path(), &[BUCKET]).unwrap();
    let server = server.with_tokens(signed.clone()).unwrap();
    let identity = Identity::start().unwrap();
    let given = Arc::new(azure_token(&identity));
    let directory = Web::start(Some(&signed), {
        let given = given.clone();
        move |asked| {
            let is_known = asked.head.starts_with("POST /a-tenant/oauth2/v2.0/token ")
                && [
                    "client_id=a-client",
                    "client_assertion=a-token",
                    "grant_type=client_credentials",
                ]
                .iter()
                .all(|part| asked.body.contains(part));
            Answer {
                status: if is_known { 200 } else { 401 },
                headers: "Content-Type: application/json\r\n".to_owned(),
                body:
                    json!({ "token_type": "Bearer", "expires_in": 3_599, "access_token": *given })
                        .to_string(),
            }
        }
    });
    let directory = directory.unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "a-token").unwrap();
    let secret = [
        ("AZURE_ACCOUNT_NAME", azurite::ACCOUNT.0),
        ("CA_CERT_DATA", &*signed.authority),
    ];
    let (file, authority) = (file.to_str().unwrap(), directory.address());
    let environment = |client| {
        [
            ("AZURE_CLIENT_ID", client),
            ("AZURE_TENANT_ID", "a-tenant"),
            ("AZURE_FEDERATED_TOKEN_FILE", file),
            ("AZURE_AUTHORITY_HOST", &*authority),
        ]
    };
    let told = tried(
        "azure",
        &server.endpoint(),
        &secret,
        &environment("a-client"),
    );
    assert_eq!(told, DONE, "{:?}", directory.asked());
    let told = tried(
        "azure",
        &server.endpoint(),
        &secret,
        &environment("another"),
    );
    assert!(told.starts_with("failed to "), "{told}");

    // A machine of Azure's asks its metadata service.
    let service = Web::start(None, move |asked| {
        let is_known =
            asked.head.contains("resource=https") && asked.head.contains("\r\nmetadata: true\r\n");
        Answer {
            status: if is_known { 200 } else { 400 },
            headers: "Content-Type: application/json\r\n".to_owned(),
            body: json!({ "access_token": *given, "expires_in": "3599", "expires_on": "4102444800", "not_before": "1", "resource": "https://storage.azure.com/", "token_type": "Bearer" }).to_string(),
        }
    });
    let service = service.unwrap();
    let told = tried(
        "azure",
        &server.endpoint(),
        &secret,
        &[("IDENTITY_ENDPOINT", &service.address())],
    );
    assert_eq!(told, DONE, "{:?}", service.asked());
    // The key of the account opens it still.
    let with_key = [
        secret[0],
        secret[1],
        ("AZURE_ACCOUNT_KEY", azurite::ACCOUNT.1),
    ];
    assert_eq!(tried("azure", &server.endpoint(), &with_key, &[]), DONE);
}
