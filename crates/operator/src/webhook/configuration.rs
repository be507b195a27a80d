//! What API servers are told about the webhook, and the one rule that they hold to by themselves.
//!
//! `failurePolicy` of the validating webhooks is `Fail`: an update of what must stay, such as of `spec.version`, cannot be found out later. So while no
//! replica answers, nobody creates or changes databases and Snapshots. It stops nothing else:
//!
//! - the operator's own writes are not asked about (`matchConditions`), else two replicas that start could wait for themselves;
//! - nor is what leaves `spec` alone: finalizers, owners and labels can always be set, so that deletions and namespaces end;
//! - status is a resource of its own, and not in the rules; nor is deletion.
//!
//! The mutating ones are `Ignore`: the operator does without defaults, and the validating ones are asked next.
//!
//! Deletion is refused by a policy, not by the webhook: it holds whoever runs or does not, and nothing undoes a deletion that slipped through.

use serde_json::{Value, json};

use crate::rights::{MUTATING, VALIDATING};

/// Service of the webhook.
pub const SERVICE: &str = "kubedb-webhook";
/// Port of the Service.
pub const SERVICE_PORT: u16 = 443;
/// Port of the pods.
pub const PORT: u16 = 8443;
/// Where defaults are asked for.
pub const MUTATE_PATH: &str = "/mutate";
/// Where objects are judged.
pub const VALIDATE_PATH: &str = "/validate";
/// The policy against deletion, and its binding.
pub const LOCK: &str = "kubedb-deletion-lock";

/// An answer takes one request to the API server, some milliseconds; a user who waits any longer thinks it hangs.
pub const TIMEOUT_SECONDS: u32 = 5;

/// Who the operator is, and where.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Namespace of the operator.
    pub namespace: &'a str,
    /// Its ServiceAccount.
    pub account: &'a str,
}

/// The MutatingWebhookConfiguration.
#[must_use]
pub fn mutating(place: Place<'_>) -> Value {
    let hook = |singular: &str, plural: &str| {
        let name = format!("{singular}.mutators.kubedb.com");
        let mut hook = webhook(place, &name, plural, MUTATE_PATH, "Ignore");
        hook["reinvocationPolicy"] = "IfNeeded".into();
        hook
    };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": MUTATING}, "webhooks": [hook("postgres", "postgreses"), hook("snapshot", "snapshots")],
    })
}

/// The ValidatingWebhookConfiguration.
#[must_use]
pub fn validating(place: Place<'_>) -> Value {
    let hook = |singular: &str, plural: &str| {
        let name = format!("{singular}.validators.kubedb.com");
        webhook(place, &name, plural, VALIDATE_PATH, "Fail")
    };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": VALIDATING},
        "webhooks": [hook("postgres", "postgreses"), hook("snapshot", "snapshots"), hook("dormantdatabase", "dormantdatabases")],
    })
}

fn webhook(place: Place<'_>, name: &str, plural: &str, path: &str, policy: &str) -> Value {
    let operator = format!(
        "request.userInfo.username != 'system:serviceaccount:{}:{}'",
        place.namespace, place.account
    );
    let changes = "request.operation != 'UPDATE' || !has(object.spec) || !has(oldObject.spec) || object.spec != oldObject.spec";
    json!({
        "name": name, "failurePolicy": policy, "sideEffects": "None", "matchPolicy": "Equivalent",
        "timeoutSeconds": TIMEOUT_SECONDS, "admissionReviewVersions": ["v1"],
        "clientConfig": {"service": {"name": SERVICE, "namespace": place.namespace, "path": path, "port": SERVICE_PORT}},
        "rules": [{"apiGroups": ["kubedb.com"], "apiVersions": ["v1alpha1"], "operations": ["CREATE", "UPDATE"],
            "resources": [plural], "scope": "Namespaced"}],
        "matchConditions": [
            {"name": "not-the-operator", "expression": operator},
            {"name": "spec-changes", "expression": changes},
        ],
    })
}

/// The ValidatingAdmissionPolicy that keeps locked databases, and its binding.
#[must_use]
pub fn lock() -> [Value; 2] {
    let told = |way_out: &str| {
        format!(
            "'postgres \"' + oldObject.metadata.name + '\" can\\'t be paused. To continue delete, {way_out} and retry'"
        )
    };
    let rule = |expression: &str, way_out: &str, message: &str| json!({"expression": expression, "messageExpression": told(way_out), "message": message, "reason": "Forbidden"});
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": LOCK},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"matchPolicy": "Equivalent", "resourceRules": [{"apiGroups": ["kubedb.com"],
                "apiVersions": ["*"], "operations": ["DELETE"], "resources": ["postgreses"], "scope": "Namespaced"}]},
            // One that is on its way out was let go when its deletion began.
            "matchConditions": [{"name": "stays", "expression": "!has(oldObject.metadata.deletionTimestamp)"}],
            "validations": [
                rule("!(has(oldObject.spec) && has(oldObject.spec.doNotPause) && oldObject.spec.doNotPause == true)",
                    "unset spec.doNotPause", "spec.doNotPause is set"),
                rule("!(has(oldObject.spec) && has(oldObject.spec.terminationPolicy) && oldObject.spec.terminationPolicy == 'DoNotTerminate')",
                    "set spec.terminationPolicy to Pause", "spec.terminationPolicy is DoNotTerminate"),
            ],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": LOCK},
        "spec": {"policyName": LOCK, "validationActions": ["Deny"]},
    });
    [policy, binding]
}
