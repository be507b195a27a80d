//! Images that a node cannot have, and what to do about it. A node's runtime says only what a registry answered it; whether the Secret was there
//! that the node should have shown is known by asking for it.

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;

use super::{KubernetesPlatform, observe::CONTAINER};

/// Secrets that are looked for: a pod that names more has other troubles.
const SECRETS_MAX: usize = 8;

/// An image that could not be pulled, in the words of the pod's node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unpulled {
    /// Of the container that waits for it.
    pub(super) container: String,
    /// Its name, as the pod has it.
    pub(super) image: String,
    /// What the node says.
    pub(super) words: String,
}

/// Why, as far as a node's words tell: each runtime and each registry has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// The registry gives it to nobody, or not to whoever asked. Some say so of what they do not have, too.
    Refused,
    /// The registry has no such image.
    Absent,
    /// The node does not know who signed the registry's certificate.
    Untrusted,
    /// The node does not reach the registry.
    Unreached,
    Unknown,
}

/// In this order: a refusal is worded as if the image might not exist.
const WORDS: [(Cause, &[&str]); 4] = [
    (
        Cause::Refused,
        &[
            "unauthorized",
            "authorization",
            "authentication required",
            "basic auth credentials",
            "access denied",
            "denied:",
            "is denied",
            "forbidden",
        ],
    ),
    (
        Cause::Untrusted,
        &["x509:", "tls: failed to verify", "certificate signed by"],
    ),
    (
        Cause::Unreached,
        &[
            "no such host",
            "connection refused",
            "i/o timeout",
            "no route to host",
            "network is unreachable",
            "deadline exceeded",
            "server misbehaving",
        ],
    ),
    (
        Cause::Absent,
        &["not found", "manifest unknown", "name unknown"],
    ),
];

fn cause(words: &str) -> Cause {
    let words = words.to_lowercase();
    let is_said = |(_, all): &&(Cause, &[&str])| all.iter().any(|one| words.contains(one));
    WORDS
        .iter()
        .find(is_said)
        .map_or(Cause::Unknown, |(cause, _)| *cause)
}

/// The registry of an image, as a Secret must name it; none of an image that names none, for which kubectl needs no name either.
fn registry(image: &str) -> Option<&str> {
    let first = image.split_once('/').map(|(first, _)| first);
    first.filter(|first| first.contains(['.', ':']) || *first == "localhost")
}

/// What to do about it. `named` are the pod's pull Secrets, `missing` those of them that are not there.
fn advice(unpulled: &Unpulled, namespace: &str, named: &[String], missing: &[String]) -> String {
    let named_server = registry(&unpulled.image);
    let server = named_server.unwrap_or("the usual registry");
    let flag = named_server.map_or_else(String::new, |server| format!("--docker-server={server} "));
    let make = |name: &str| {
        format!(
            "kubectl create secret docker-registry {name} -n {namespace} {flag}--docker-username=… --docker-password=…"
        )
    };
    let whose = if unpulled.container == CONTAINER {
        "spec.db.image of its PostgresVersion"
    } else {
        "kubedb install --image"
    };
    match cause(&unpulled.words) {
        Cause::Refused if named.is_empty() => format!(
            "the registry wants to know who asks, or has no such image; {}, then name it in spec.imagePullSecrets and delete the pod",
            make("NAME")
        ),
        Cause::Refused | Cause::Unknown if !missing.is_empty() => {
            let name = missing.first().map_or("NAME", String::as_str);
            format!("there is no Secret {name}; {}", make(name))
        }
        Cause::Refused => format!(
            "the registry does not take what Secret {} holds for {server}, or has no such image; delete the Secret and make it anew: {}",
            named.join(" and "),
            make(named.first().map_or("NAME", String::as_str))
        ),
        Cause::Absent => format!("the registry has no such image; {whose} names it"),
        Cause::Untrusted => format!(
            "the node does not trust the certificate of {server}; its authority belongs into the settings of the nodes' container runtime"
        ),
        Cause::Unreached => format!("the node does not reach {server}; {whose} names it"),
        Cause::Unknown => format!("{whose} names it"),
    }
}

impl Unpulled {
    /// In one sentence.
    fn told(&self, advice: &str) -> String {
        format!(
            "image {} of container {} cannot be pulled: {advice} (its node says: {})",
            self.image, self.container, self.words
        )
    }
}

impl KubernetesPlatform {
    /// Why a pod's image is not there, and what to do.
    pub(super) async fn unpulled(&self, pod: &Pod, unpulled: &Unpulled) -> String {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let secrets = pod.spec.iter().flat_map(|spec| &spec.image_pull_secrets);
        let named = secrets.flatten().map(|secret| secret.name.clone());
        let named: Vec<String> = named.take(SECRETS_MAX).collect();
        let mut missing = Vec::new();
        // Older kubelets say no cause while they wait for their next try.
        if matches!(cause(&unpulled.words), Cause::Refused | Cause::Unknown) {
            let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
            for name in &named {
                // Its metadata alone. One that could not be looked for is not known to be missing.
                if let Ok(None) = secrets.get_metadata_opt(name).await {
                    missing.push(name.clone());
                }
            }
        }
        unpulled.told(&advice(unpulled, namespace, &named, &missing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpulled(container: &str, words: &str) -> Unpulled {
        Unpulled {
            container: container.to_owned(),
            image: "registry.example.com:5000/team/postgres:15".to_owned(),
            words: words.to_owned(),
        }
    }

    #[test]
    fn what_runtimes_and_registries_say_is_understood() {
        let pulling = "failed to pull and unpack image \"r/postgres:15\": failed to resolve reference \"r/postgres:15\"";
        for (words, expected) in [
            (
                "pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth credentials",
                Cause::Refused,
            ),
            (
                "pulling from host r failed with status code [manifests 15]: 401 Unauthorized",
                Cause::Refused,
            ),
            (
                "unexpected status from HEAD request to https://r/v2/postgres/manifests/15: 403 Forbidden",
                Cause::Refused,
            ),
            (
                "reading manifest 15 in r/postgres: requested access to the resource is denied",
                Cause::Refused,
            ),
            ("r/postgres:15: not found", Cause::Absent),
            (
                "reading manifest 15 in r/postgres: manifest unknown",
                Cause::Absent,
            ),
            (
                "failed to do request: Head \"https://r/v2/postgres/manifests/15\": x509: certificate signed by unknown authority",
                Cause::Untrusted,
            ),
            (
                "failed to do request: Head \"https://r/v2/postgres/manifests/15\": dial tcp: lookup r: no such host",
                Cause::Unreached,
            ),
            ("short read: expected 32 bytes but got 0", Cause::Unknown),
        ] {
            assert_eq!(cause(&format!("{pulling}: {words}")), expected, "{words}");
        }
    }

    #[test]
    fn the_registry_of_an_image_is_named_as_a_secret_names_it() {
        for (image, expected) in [
            (
                "registry.example.com:5000/team/postgres:15",
                Some("registry.example.com:5000"),
            ),
            ("localhost/postgres", Some("localhost")),
            ("postgres:15", None),
            ("team/postgres:15", None),
        ] {
            assert_eq!(registry(image), expected, "{image}");
        }
    }

    #[test]
    fn advice_names_what_is_lacking() {
        let refused = unpulled("postgres", "401 Unauthorized");
        let key = ["key".to_owned()];
        let make = "kubectl create secret docker-registry key -n demo --docker-server=registry.example.com:5000 ";
        let told = advice(&refused, "demo", &[], &[]);
        assert!(
            told.contains("then name it in spec.imagePullSecrets"),
            "{told}"
        );
        let told = advice(&refused, "demo", &key, &key);
        assert!(
            told.starts_with(&format!("there is no Secret key; {make}")),
            "{told}"
        );
        let usual = Unpulled {
            image: "postgres:15".to_owned(),
            ..refused.clone()
        };
        let usual = advice(&usual, "demo", &key, &key);
        assert!(usual.contains("-n demo --docker-username"), "{usual}");
        let waits = unpulled("postgres", "Back-off pulling image \"postgres:15\"");
        assert_eq!(advice(&waits, "demo", &key, &key), told);
        let told = advice(&refused, "demo", &key, &[]);
        assert!(
            told.contains("does not take what Secret key holds") && told.contains(make),
            "{told}"
        );
        let told = advice(&unpulled("postgres", "not found"), "demo", &key, &[]);
        assert_eq!(
            told,
            "the registry has no such image; spec.db.image of its PostgresVersion names it"
        );
        let told = advice(&unpulled("install", "no such host"), "demo", &key, &[]);
        assert_eq!(
            told,
            "the node does not reach registry.example.com:5000; kubedb install --image names it"
        );
    }
}
