//! From an AdmissionReview to its answer.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kube::{Api, Client, ResourceExt as _, api::ListParams};
use kubedb_api::{DormantDatabase, Postgres, PostgresVersion, admission, validate};
use serde_json::{Value, json};

use crate::metrics::Metrics;

/// What is asked, of an AdmissionReview.
#[derive(Clone, Copy, Debug)]
struct Question<'a> {
    uid: &'a str,
    plural: &'a str,
    kind: &'a str,
    namespace: &'a str,
    object: &'a Value,
    /// On an update.
    old: Option<&'a Value>,
}

impl<'a> Question<'a> {
    /// `None` for what is no question that our configurations ask.
    fn of(review: &'a Value) -> Option<Self> {
        let request = &review["request"];
        let old = &request["oldObject"];
        let question = Self {
            uid: request["uid"].as_str()?,
            plural: request["resource"]["resource"].as_str()?,
            kind: request["kind"]["kind"].as_str()?,
            namespace: request["namespace"].as_str()?,
            object: &request["object"],
            old: (request["operation"] == "UPDATE").then_some(old),
        };
        let is_ours = review["apiVersion"] == "admission.k8s.io/v1"
            && request["resource"]["group"] == "kubedb.com"
            && matches!(request["operation"].as_str(), Some("CREATE" | "UPDATE"));
        is_ours.then_some(question)
    }

    fn name(&self) -> &'a str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }
}

/// What is answered.
#[derive(Clone, Debug, PartialEq)]
enum Verdict {
    Allowed,
    /// With the object as it shall be.
    Changed(Value),
    /// With the `Status` that tells why.
    Denied(Value),
}

/// What the answer depends on beyond the question.
#[derive(Clone, Debug, Default)]
struct World {
    versions: Vec<String>,
    /// Whether a Snapshot's database exists.
    has_database: bool,
    /// The paused database of a new Postgres' name.
    dormant: Option<DormantDatabase>,
}

/// The mutating webhook sets defaults. It also refuses what no default puts right, since definitions carry rules that would be asked next, and whose
/// words are Kubernetes'. What the schema itself refuses is left to it.
fn mutate(question: &Question<'_>, world: &World) -> Verdict {
    if validate::is_misshapen(question.plural, question.object) {
        return Verdict::Allowed;
    }
    let mut object = question.object.clone();
    match admit(question, &mut object, world) {
        Err(status) => Verdict::Denied(status),
        Ok(()) if object == *question.object => Verdict::Allowed,
        Ok(()) => Verdict::Changed(object),
    }
}

/// The validating webhook judges what is to be stored, after whatever others made of it.
fn validate(question: &Question<'_>, world: &World) -> Verdict {
    let mut object = question.object.clone();
    if let Err(status) = admit(question, &mut object, world) {
        return Verdict::Denied(status);
    }
    if question.plural == "snapshots" && question.old.is_none() && !world.has_database {
        let database = question.object["spec"]["databaseName"].as_str();
        let why = admission::no_such_database(database.unwrap_or_default());
        return Verdict::Denied(status(403, "Forbidden", &why));
    }
    Verdict::Allowed
}

fn admit(question: &Question<'_>, object: &mut Value, world: &World) -> Result<(), Value> {
    let known: Vec<&str> = world.versions.iter().map(String::as_str).collect();
    let (old, raw) = (question.old, question.object);
    let dormant = world.dormant.as_ref();
    admission::admit(question.plural, old, raw, object, &known, dormant)
        .map_err(|errors| admission::invalid(question.kind, question.name(), &errors))
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason, "message": message})
}

/// A JSON patch of what the defaults touch: spec and labels.
fn patch(old: &Value, new: &Value) -> Value {
    let mut patch = Vec::new();
    if old["spec"] != new["spec"] {
        patch.push(json!({"op": "add", "path": "/spec", "value": new["spec"]}));
    }
    let labels = &new["metadata"]["labels"];
    if old["metadata"]["labels"] != *labels {
        patch.push(json!({"op": "add", "path": "/metadata/labels", "value": labels}));
    }
    patch.into()
}

fn response(question: &Question<'_>, verdict: Verdict) -> Value {
    let mut response = json!({"uid": question.uid, "allowed": true});
    match verdict {
        Verdict::Allowed => {}
        Verdict::Changed(object) => {
            let patch = patch(question.object, &object).to_string();
            response["patchType"] = "JSONPatch".into();
            response["patch"] = STANDARD.encode(patch).into();
        }
        Verdict::Denied(status) => {
            response["allowed"] = false.into();
            response["status"] = status;
        }
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

/// Asks the API what an answer depends on.
pub(super) struct Reviewer {
    pub(super) client: Client,
    pub(super) metrics: Metrics,
}

impl Reviewer {
    /// `None` for what is no question of ours.
    pub(super) async fn answer(&self, is_mutating: bool, review: &Value) -> Option<Value> {
        let question = Question::of(review)?;
        let verdict = match (self.world(&question).await, is_mutating) {
            (Ok(world), true) => mutate(&question, &world),
            (Ok(world), false) => validate(&question, &world),
            // Whether it is right is not known. The validating webhook, which is asked next, says so.
            (Err(_), true) => Verdict::Allowed,
            (Err(error), false) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "what an answer depends on could not be read");
                let why = "failed to read what the answer depends on: try again";
                Verdict::Denied(status(503, "ServiceUnavailable", why))
            }
        };
        Some(response(&question, verdict))
    }

    async fn world(&self, question: &Question<'_>) -> Result<World, kube::Error> {
        let mut world = World::default();
        match question.plural {
            "postgreses" => {
                // Asked each time: one that was added a moment ago counts.
                let versions: Api<PostgresVersion> = Api::all(self.client.clone());
                let found = versions.list(&ListParams::default()).await?;
                world.versions = found.iter().map(|version| version.name_any()).collect();
                if question.old.is_none() && !question.name().is_empty() {
                    let api: Api<DormantDatabase> =
                        Api::namespaced(self.client.clone(), question.namespace);
                    world.dormant = api.get_opt(question.name()).await?;
                }
            }
            "snapshots" if question.old.is_none() => {
                let name = question.object["spec"]["databaseName"].as_str();
                if let Some(name) = name.filter(|name| kubedb_core::names::check(name).is_ok()) {
                    let api: Api<Postgres> =
                        Api::namespaced(self.client.clone(), question.namespace);
                    world.has_database = api.get_metadata_opt(name).await?.is_some();
                }
            }
            _ => {}
        }
        Ok(world)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(plural: &str, object: Value, old: Value) -> Value {
        let operation = if old.is_null() { "CREATE" } else { "UPDATE" };
        let kind = if plural == "snapshots" {
            "Snapshot"
        } else {
            "Postgres"
        };
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "u", "kind": {"group": "kubedb.com", "version": "v1alpha1", "kind": kind},
            "resource": {"group": "kubedb.com", "version": "v1alpha1", "resource": plural},
            "namespace": "demo", "operation": operation, "object": object, "oldObject": old,
        }})
    }

    fn postgres(spec: Value) -> Value {
        json!({"apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "metadata": {"name": "p"}, "spec": spec})
    }

    fn world() -> World {
        World {
            versions: vec!["9.6".to_owned()],
            ..World::default()
        }
    }

    #[test]
    fn defaults_come_as_a_patch_that_leaves_the_rest() {
        let review = review("postgreses", postgres(json!({"version": 9.6})), Value::Null);
        let question = Question::of(&review).unwrap();
        let answer = response(&question, mutate(&question, &world()));
        let patch = answer["response"]["patch"].as_str().unwrap();
        let patch: Value = serde_json::from_slice(&STANDARD.decode(patch).unwrap()).unwrap();
        let wanted = json!([{"op": "add", "path": "/spec", "value":
            {"version": 9.6, "replicas": 1, "standbyMode": "warm", "streamingMode": "asynchronous"}}]);
        assert_eq!(patch, wanted);
        assert_eq!(answer["response"]["uid"], "u");
    }

    #[test]
    fn what_the_schema_refuses_is_left_to_the_schema() {
        for spec in [json!(null), json!({"version": "9.6", "replicas": "3"})] {
            let review = review("postgreses", postgres(spec), Value::Null);
            let question = Question::of(&review).unwrap();
            assert_eq!(mutate(&question, &world()), Verdict::Allowed);
        }
    }

    #[test]
    fn both_refuse_in_the_words_of_validation() {
        let review = review(
            "postgreses",
            postgres(json!({"version": "8.4"})),
            Value::Null,
        );
        let question = Question::of(&review).unwrap();
        for verdict in [mutate(&question, &world()), validate(&question, &world())] {
            let Verdict::Denied(status) = verdict else {
                panic!("{verdict:?}")
            };
            assert_eq!(status["code"], 422);
            let message = status["message"].as_str().unwrap();
            assert!(message.starts_with(
                "Postgres.kubedb.com \"p\" is invalid: spec.version: KubeDB doesn't support Postgres version: 8.4"
            ));
        }
    }

    #[test]
    fn a_snapshot_of_no_database_is_refused_by_the_validating_one() {
        let object = json!({"apiVersion": "kubedb.com/v1alpha1", "kind": "Snapshot", "metadata": {"name": "s"},
            "spec": {"databaseName": "pg", "gcs": {"bucket": "b"}}});
        let review = review("snapshots", object, Value::Null);
        let question = Question::of(&review).unwrap();
        assert!(matches!(mutate(&question, &world()), Verdict::Changed(_)));
        let refused = validate(&question, &world());
        let why = "postgreses.kubedb.com \"pg\" not found";
        assert_eq!(refused, Verdict::Denied(status(403, "Forbidden", why)));
        let world = World {
            has_database: true,
            ..World::default()
        };
        assert_eq!(validate(&question, &world), Verdict::Allowed);
    }

    #[test]
    fn questions_of_others_are_none() {
        let mut asked = review("postgreses", postgres(json!({})), Value::Null);
        assert!(Question::of(&asked).is_some());
        asked["request"]["operation"] = "DELETE".into();
        assert!(Question::of(&asked).is_none());
        assert!(Question::of(&json!([])).is_none());
    }
}
