//! Protobuf bodies: what `kubectl create namespace|secret|configmap` sends.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use k8s_pb::api::core::v1::{ConfigMap, Namespace, Secret};
use k8s_pb::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Time};
use k8s_pb::apimachinery::pkg::runtime::Unknown;
use prost::Message;
use serde_json::{Map, Value, json};

use super::object::set;
use super::resource::Resource;
use super::status::ApiError;

/// Begins every protobuf body of Kubernetes.
const MAGIC: &[u8] = b"k8s\0";

/// An object that is to be stored.
pub(crate) fn object(resource: &Resource, bytes: &Bytes) -> Result<Value, ApiError> {
    let (raw, api_version, kind) = envelope(bytes)?;
    // What is of another kind is not decoded: the check of every body refuses it.
    if kind
        .as_deref()
        .is_some_and(|kind| !kind.is_empty() && kind != resource.kind)
    {
        return Ok(json!({"apiVersion": api_version, "kind": kind, "metadata": {}}));
    }
    let mut value = match resource.plural.as_str() {
        "namespaces" => namespace(&decode(&raw)?),
        "secrets" => secret(decode(&raw)?),
        "configmaps" => config_map(decode(&raw)?),
        _ => return Err(ApiError::unsupported_media_type(&["application/json"])),
    };
    // Checked against the path with every other body.
    set(&mut value, "apiVersion", text(api_version));
    set(&mut value, "kind", text(kind));
    Ok(value)
}

/// `DeleteOptions`.
pub(crate) fn options(bytes: &Bytes) -> Result<Value, ApiError> {
    let (raw, ..) = envelope(bytes)?;
    let options: DeleteOptions = decode(&raw)?;
    let mut value = json!({ "dryRun": options.dry_run });
    set(
        &mut value,
        "propagationPolicy",
        text(options.propagation_policy),
    );
    set(
        &mut value,
        "orphanDependents",
        options.orphan_dependents.into(),
    );
    if let Some(preconditions) = options.preconditions {
        value["preconditions"] = json!({
            "uid": preconditions.uid, "resourceVersion": preconditions.resource_version,
        });
    }
    Ok(value)
}

/// What a message holds, with its `apiVersion` and `kind`.
type Envelope = (Vec<u8>, Option<String>, Option<String>);

fn envelope(bytes: &Bytes) -> Result<Envelope, ApiError> {
    let Some(rest) = bytes.strip_prefix(MAGIC) else {
        return Err(ApiError::bad_request(
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]",
        ));
    };
    let unknown: Unknown = decode(rest)?;
    let (api_version, kind) = unknown
        .type_meta
        .map_or((None, None), |meta| (meta.api_version, meta.kind));
    Ok((unknown.raw.unwrap_or_default(), api_version, kind))
}

fn decode<T: Message + Default>(bytes: &[u8]) -> Result<T, ApiError> {
    T::decode(bytes)
        .map_err(|error| ApiError::bad_request(format!("error decoding protobuf: {error}")))
}

/// Go's protobuf writes absent text as empty text.
fn text(value: Option<String>) -> Value {
    match value {
        Some(text) if !text.is_empty() => text.into(),
        _ => Value::Null,
    }
}

fn texts(map: impl IntoIterator<Item = (String, String)>) -> Value {
    let map: Map<String, Value> = map
        .into_iter()
        .map(|(key, value)| (key, value.into()))
        .collect();
    filled(map)
}

fn blobs(map: impl IntoIterator<Item = (String, Vec<u8>)>) -> Value {
    let map: Map<String, Value> = map
        .into_iter()
        .map(|(key, value)| (key, STANDARD.encode(value).into()))
        .collect();
    filled(map)
}

fn filled(map: Map<String, Value>) -> Value {
    if map.is_empty() {
        Value::Null
    } else {
        Value::Object(map)
    }
}

fn namespace(namespace: &Namespace) -> Value {
    let mut value = json!({"metadata": metadata(namespace.metadata.clone())});
    if let Some(spec) = &namespace.spec {
        value["spec"] = json!({"finalizers": spec.finalizers});
    }
    value
}

fn secret(secret: Secret) -> Value {
    let mut value = json!({"metadata": metadata(secret.metadata)});
    set(&mut value, "data", blobs(secret.data));
    set(&mut value, "stringData", texts(secret.string_data));
    set(&mut value, "type", text(secret.r#type));
    set(&mut value, "immutable", secret.immutable.into());
    value
}

fn config_map(map: ConfigMap) -> Value {
    let mut value = json!({"metadata": metadata(map.metadata)});
    set(&mut value, "data", texts(map.data));
    set(&mut value, "binaryData", blobs(map.binary_data));
    set(&mut value, "immutable", map.immutable.into());
    value
}

fn metadata(sent: Option<ObjectMeta>) -> Value {
    let Some(sent) = sent else { return json!({}) };
    let owners: Vec<Value> = sent
        .owner_references
        .into_iter()
        .map(|owner| {
            json!({
                "apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid,
                "controller": owner.controller, "blockOwnerDeletion": owner.block_owner_deletion,
            })
        })
        .collect();
    let mut value = json!({});
    set(&mut value, "name", text(sent.name));
    set(&mut value, "generateName", text(sent.generate_name));
    set(&mut value, "namespace", text(sent.namespace));
    set(&mut value, "uid", text(sent.uid));
    set(&mut value, "resourceVersion", text(sent.resource_version));
    set(
        &mut value,
        "creationTimestamp",
        time(sent.creation_timestamp),
    );
    set(&mut value, "labels", texts(sent.labels));
    set(&mut value, "annotations", texts(sent.annotations));
    if !sent.finalizers.is_empty() {
        value["finalizers"] = sent.finalizers.into();
    }
    if !owners.is_empty() {
        value["ownerReferences"] = owners.into();
    }
    value
}

/// Go's zero time is no time.
fn time(time: Option<Time>) -> Value {
    time.and_then(|time| time.seconds)
        .filter(|seconds| *seconds > 0)
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map_or(Value::Null, |time| time.to_string().into())
}

#[cfg(test)]
mod tests {
    use k8s_pb::apimachinery::pkg::runtime::TypeMeta;

    use super::super::resource;
    use super::*;

    fn body(kind: &str, message: &impl Message) -> Bytes {
        let unknown = Unknown {
            type_meta: Some(TypeMeta {
                api_version: Some("v1".to_owned()),
                kind: Some(kind.to_owned()),
            }),
            raw: Some(message.encode_to_vec()),
            ..Unknown::default()
        };
        Bytes::from([MAGIC, &unknown.encode_to_vec()].concat())
    }

    #[test]
    fn reads_a_secret_and_refuses_rubbish() {
        let secrets = resource::find("", "v1", "secrets").unwrap();
        let sent = Secret {
            metadata: Some(ObjectMeta {
                name: Some("s".to_owned()),
                namespace: Some(String::new()),
                ..ObjectMeta::default()
            }),
            data: [("k".to_owned(), vec![1, 2])].into(),
            ..Secret::default()
        };
        let whole = body("Secret", &sent);
        let value = object(secrets, &whole).unwrap();
        assert_eq!(
            value,
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "AQI="}})
        );
        assert!(object(secrets, &whole.slice(1..)).is_err());
        assert!(object(secrets, &whole.slice(..whole.len() - 3)).is_err());
    }
}
