//! Certificates of who serves a volume and of who asks: one Secret for a database, made anew before they end.

use std::{collections::BTreeMap, sync::PoisonError};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use kubedb_api::{agent_config::volume_secret, labels};
use serde_json::json;

use super::{KubernetesPlatform, act};
use crate::{
    guarded::of_uid,
    issue::{Authority, Side, authority, certificate},
    platform::{DesiredDatabase, PlatformError},
};

/// How long certificates are good for.
const LIFETIME: SignedDuration = SignedDuration::from_hours(90 * 24);
/// They are made anew when so much is left: agents and pods take up the new ones within minutes.
const RENEWED: SignedDuration = SignedDuration::from_hours(30 * 24);

impl KubernetesPlatform {
    /// Makes the Secret, or makes it anew. Its values are never read here: an annotation says how long they are good for.
    pub(super) async fn certify(
        &self,
        desired: &DesiredDatabase,
        now: Timestamp,
    ) -> Result<(), PlatformError> {
        let lasts = |until: &Timestamp| now + RENEWED < *until;
        let known = {
            let certified = self
                .certified
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            certified.get(&desired.uid).copied()
        };
        if known.as_ref().is_some_and(lasts) {
            return Ok(());
        }
        let (namespace, name) = (&desired.key.namespace, volume_secret(&desired.key.name));
        let doing = |verb: &str| format!("{verb} Secret {namespace}/{name}");
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let found = api.get_metadata_opt(&name).await;
        let found = found.map_err(|error| act(doing("look at"), error))?;
        let found = found.map(|found| found.metadata);
        let expires = found
            .as_ref()
            .and_then(|found| expires(found, &desired.uid));
        let until = match expires.filter(lasts) {
            Some(until) => until,
            None => {
                if let Some(found) = found {
                    let deleted = api.delete(&name, &of_uid(found.uid)).await;
                    deleted.map_err(|error| act(doing("renew"), error))?;
                }
                let secret = secret(desired, name.clone(), now);
                let secret = secret.map_err(|error| act(doing("make"), error))?;
                let made = api.create(&PostParams::default(), &secret).await;
                made.map_err(|error| act(doing("make"), error))?;
                now + LIFETIME
            }
        };
        let mut certified = self
            .certified
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        certified.insert(desired.uid.clone(), until);
        Ok(())
    }
}

/// Until when a Secret of this database is good; none of another's.
fn expires(found: &ObjectMeta, uid: &str) -> Option<Timestamp> {
    let owner = found.labels.as_ref()?.get(labels::DATABASE_UID)?;
    let text = found.annotations.as_ref()?.get(labels::EXPIRES)?;
    text.parse().ok().filter(|_| owner == uid)
}

fn secret(desired: &DesiredDatabase, name: String, now: Timestamp) -> Result<Secret, rcgen::Error> {
    let expires = now + LIFETIME;
    // Its key is forgotten: nobody signs anything more.
    let whose = format!("{}/{}", desired.key.namespace, desired.key.name);
    let signer = Authority {
        of: &whose,
        made: now,
        expires,
    };
    let root = authority(signer)?;
    let sign = |side, name: String| certificate((signer, &root.key), side, &[name], now, expires);
    let server = sign(Side::Server, format!("*.{}.svc", desired.key.namespace))?;
    let client = sign(Side::Client, format!("{}.kubedb", desired.key.name))?;
    let labels = [
        (labels::KIND, "Postgres"),
        (labels::NAME, &desired.key.name),
        (labels::DATABASE_UID, &desired.uid),
    ];
    let owner = json!([{
        "apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "name": desired.key.name, "uid": desired.uid,
    }]);
    let data = [
        ("ca.crt", root.certificate),
        ("tls.crt", server.certificate),
        ("tls.key", server.key),
        ("client.crt", client.certificate),
        ("client.key", client.key),
    ];
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(name),
            labels: Some(owned(labels)),
            annotations: Some(owned([(labels::EXPIRES, &*expires.to_string())])),
            owner_references: serde_json::from_value(owner).ok(),
            ..ObjectMeta::default()
        },
        string_data: Some(data.map(|(key, text)| (key.to_owned(), text)).into()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    })
}

fn owned<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}
