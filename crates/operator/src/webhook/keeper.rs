//! Keeps the Secret with the certificates, the trust of the configurations, and what is served.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::{
            MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
        },
        core::v1::Secret,
    },
};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Options,
    certificates::{Authority, Leaf, State, Step, decide},
};
use crate::{
    issue::{self, Side},
    rights::{MUTATING, VALIDATING, WEBHOOK_SECRET},
};

/// Keys of the Secret.
const STATE: &str = "state.json";
const AUTHORITY_KEY: &str = "ca.key";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// For people: the same as in `caBundle`.
const BUNDLE: &str = "ca.crt";

/// Steps in a row before the next pause; a beginning takes two.
const STEPS_MAX: usize = 8;

/// What to serve with.
pub(super) type Tls = Arc<rustls::ServerConfig>;

/// Why a look failed. The next one tries again.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeepError {
    #[error("failed to {action}")]
    Request {
        action: &'static str,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("failed to make a certificate")]
    Make(#[from] rcgen::Error),
    #[error("failed to read a certificate: it is not in PEM")]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error("failed to use a certificate")]
    Tls(#[from] rustls::Error),
    #[error("failed to encode the state of the rotation")]
    Encode(#[from] serde_json::Error),
}

fn signer(made: Timestamp, expires: Timestamp) -> issue::Authority<'static> {
    issue::Authority {
        of: "webhook",
        made,
        expires,
    }
}

fn request(action: &'static str) -> impl FnOnce(kube::Error) -> KeepError {
    move |source| KeepError::Request {
        action,
        source: Box::new(source),
    }
}

/// The Secret's contents.
#[derive(Clone)]
struct Kept {
    state: State,
    authority_key: String,
    certificate: String,
    key: String,
}

/// Looks at everything again and again, and says what to serve with.
pub(super) struct Keeper {
    pub(super) client: Client,
    pub(super) options: Options,
    pub(super) serve: watch::Sender<Option<Tls>>,
    /// PEM of the certificate that is served.
    pub(super) served: String,
}

impl Keeper {
    /// Until `shutdown`.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut failing = false;
        loop {
            let looked = tokio::select! {
                looked = self.look() => looked,
                () = shutdown.cancelled() => return,
            };
            match looked {
                Ok(()) => failing = false,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    // Once until it works again: it may be an API server that is away for long.
                    if failing {
                        tracing::debug!(
                            error,
                            "the webhook's certificate could not be looked at again"
                        );
                    } else {
                        tracing::warn!(
                            error,
                            "the webhook's certificate could not be looked at; it is tried again"
                        );
                    }
                    failing = true;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(self.options.look_every) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Takes steps until there is none to take.
    async fn look(&mut self) -> Result<(), KeepError> {
        for _ in 0..STEPS_MAX {
            let secrets: Api<Secret> =
                Api::namespaced(self.client.clone(), &self.options.namespace);
            let secret = secrets
                .get_opt(WEBHOOK_SECRET)
                .await
                .map_err(request("read the webhook's Secret"))?;
            let kept = secret.as_ref().and_then(read);
            let mut is_trusted = false;
            if let Some(kept) = &kept {
                self.use_it(kept)?;
                is_trusted = publish(&self.client, &kept.state.bundle()).await?;
            }
            let now = Timestamp::now();
            let state = kept.as_ref().map(|kept| &kept.state);
            let names = self.options.names();
            let step = decide(state, &names, is_trusted, &self.options.lifetimes, now);
            if step == Step::Rest {
                return Ok(());
            }
            let next = self.take(step, kept, names, now)?;
            tracing::info!(?step, "the webhook's certificates changed");
            let written = write(&secrets, secret, &next).await;
            match written {
                // Another replica was quicker.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                other => other.map_err(request("write the webhook's Secret"))?,
            }
        }
        Ok(())
    }

    fn take(
        &self,
        step: Step,
        kept: Option<Kept>,
        names: Vec<String>,
        now: Timestamp,
    ) -> Result<Kept, KeepError> {
        let authority = || -> Result<(Authority, String), KeepError> {
            let expires = now + self.options.lifetimes.authority;
            let pair = issue::authority(signer(now, expires))?;
            let authority = Authority {
                certificate: pair.certificate,
                made: now,
                expires,
            };
            Ok((authority, pair.key))
        };
        let mut next = match (step, kept) {
            (Step::Begin, _) | (_, None) => {
                let (authority, key) = authority()?;
                let leaf = Leaf {
                    authority: now,
                    made: now,
                    expires: now,
                    names: Vec::new(),
                };
                Kept {
                    state: State {
                        authorities: vec![authority],
                        leaf,
                        published: None,
                    },
                    authority_key: key,
                    certificate: String::new(),
                    key: String::new(),
                }
            }
            (_, Some(kept)) => kept,
        };
        match step {
            Step::Authority => {
                let (authority, key) = authority()?;
                next.state.authorities.insert(0, authority);
                next.state.published = None;
                next.authority_key = key;
            }
            Step::Published => next.state.published = Some(now),
            Step::Unpublished => next.state.published = None,
            Step::Forget => next.state.authorities.truncate(1),
            Step::Begin | Step::Certificate => self.sign(&mut next, names, now)?,
            Step::Rest => {}
        }
        Ok(next)
    }

    fn sign(&self, kept: &mut Kept, names: Vec<String>, now: Timestamp) -> Result<(), KeepError> {
        let Some(newest) = kept.state.authorities.first() else {
            return Ok(());
        };
        // Nothing outlives who signed it.
        let expires = (now + self.options.lifetimes.certificate).min(newest.expires);
        let signer = (signer(newest.made, newest.expires), &*kept.authority_key);
        let pair = issue::certificate(signer, Side::Server, &names, now, expires)?;
        kept.state.leaf = Leaf {
            authority: newest.made,
            made: now,
            expires,
            names,
        };
        (kept.certificate, kept.key) = (pair.certificate, pair.key);
        Ok(())
    }

    fn use_it(&mut self, kept: &Kept) -> Result<(), KeepError> {
        if self.served != kept.certificate {
            let tls = tls(&kept.certificate, &kept.key)?;
            self.serve.send_replace(Some(tls));
            self.served.clone_from(&kept.certificate);
        }
        Ok(())
    }
}

fn tls(certificate: &str, key: &str) -> Result<Tls, KeepError> {
    let chain =
        CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// `None` for what is not whole, or whose certificate and key do not fit: then everything is made anew.
fn read(secret: &Secret) -> Option<Kept> {
    let data = secret.data.as_ref()?;
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
    let kept = Kept {
        state: serde_json::from_str(&text(STATE)?).ok()?,
        authority_key: text(AUTHORITY_KEY)?,
        certificate: text(CERTIFICATE)?,
        key: text(KEY)?,
    };
    let is_whole = tls(&kept.certificate, &kept.key).is_ok()
        && rcgen::KeyPair::from_pem(&kept.authority_key).is_ok();
    is_whole.then_some(kept)
}

/// Creates or replaces; a replacement only of what was read.
async fn write(secrets: &Api<Secret>, old: Option<Secret>, kept: &Kept) -> Result<(), kube::Error> {
    let state = serde_json::to_string(&kept.state).map_err(kube::Error::SerdeError)?;
    let data: BTreeMap<String, ByteString> = [
        (STATE, state),
        (AUTHORITY_KEY, kept.authority_key.clone()),
        (CERTIFICATE, kept.certificate.clone()),
        (KEY, kept.key.clone()),
        (BUNDLE, kept.state.bundle()),
    ]
    .into_iter()
    .map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())))
    .collect();
    let params = PostParams::default();
    match old {
        Some(old) => {
            let new = Secret {
                data: Some(data),
                ..old
            };
            secrets.replace(WEBHOOK_SECRET, &params, &new).await?;
        }
        None => {
            let new = Secret {
                metadata: ObjectMeta {
                    name: Some(WEBHOOK_SECRET.to_owned()),
                    ..ObjectMeta::default()
                },
                type_: Some("Opaque".to_owned()),
                data: Some(data),
                ..Secret::default()
            };
            secrets.create(&params, &new).await?;
        }
    }
    Ok(())
}

/// Puts the bundle into the configurations where it is not, and says whether all had it already. A configuration that does not exist asks nobody.
async fn publish(client: &Client, bundle: &str) -> Result<bool, KeepError> {
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let action = "read a webhook configuration";
    let found = validating.get_opt(VALIDATING).await;
    let found = found.map_err(request(action))?;
    let hooks = found.and_then(|found| found.webhooks).unwrap_or_default();
    let hooks = hooks
        .iter()
        .map(|hook| (hook.name.as_str(), &hook.client_config));
    let lacking = missing(hooks, bundle);
    let mut had_it = lacking.is_none();
    if let Some(patch) = lacking {
        patch_one(&validating, VALIDATING, patch).await?;
    }
    let found = mutating.get_opt(MUTATING).await;
    let found = found.map_err(request(action))?;
    let hooks = found.and_then(|found| found.webhooks).unwrap_or_default();
    let hooks = hooks
        .iter()
        .map(|hook| (hook.name.as_str(), &hook.client_config));
    if let Some(patch) = missing(hooks, bundle) {
        had_it = false;
        patch_one(&mutating, MUTATING, patch).await?;
    }
    Ok(had_it)
}

/// What gives the bundle to those webhooks that have another.
fn missing<'a>(
    hooks: impl Iterator<Item = (&'a str, &'a WebhookClientConfig)>,
    bundle: &str,
) -> Option<Value> {
    let wanted = ByteString(bundle.as_bytes().to_vec());
    let encoded = STANDARD.encode(bundle);
    let lacking: Vec<Value> = hooks
        .filter(|(_, config)| config.ca_bundle.as_ref() != Some(&wanted))
        .map(|(name, _)| json!({"name": name, "clientConfig": {"caBundle": encoded}}))
        .collect();
    (!lacking.is_empty()).then(|| json!({ "webhooks": lacking }))
}

async fn patch_one<K>(api: &Api<K>, name: &str, patch: Value) -> Result<(), KeepError>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    // The list is a map by name to Kubernetes: webhooks that are not named stay as they are.
    api.patch(name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .map(drop)
        .map_err(request("tell a webhook configuration whom to trust"))
}
