//! Requests to the API, counted on their way.

use std::time::Instant;

use http::{Method, Request};
use kube::{Client, client::Body};

use super::Metrics;

/// Resources that are counted by name; all others together, so that nobody's names become series.
const RESOURCES: [&str; 20] = [
    "configmaps",
    "customresourcedefinitions",
    "dormantdatabases",
    "events",
    "jobs",
    "leases",
    "namespaces",
    "persistentvolumeclaims",
    "poddisruptionbudgets",
    "pods",
    "postgreses",
    "postgresversions",
    "rolebindings",
    "roles",
    "secrets",
    "serviceaccounts",
    "servicemonitors",
    "services",
    "snapshots",
    "statefulsets",
];

impl Metrics {
    /// A client whose requests are counted here.
    #[must_use]
    pub fn counted(&self, client: Client) -> Client {
        let namespace = client.default_namespace().to_owned();
        let metrics = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (client, metrics) = (client.clone(), metrics.clone());
            async move {
                let (verb, resource) = what(request.method(), request.uri());
                let began = Instant::now();
                let answer = client.send(request).await;
                let code = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
                metrics.request(verb, resource, code, began.elapsed());
                answer
            }
        });
        Client::new(service, namespace)
    }
}

/// Verb and resource as Kubernetes calls them.
fn what(method: &Method, uri: &http::Uri) -> (&'static str, &'static str) {
    let parts: Vec<&str> = uri
        .path()
        .split('/')
        .filter(|part| !part.is_empty())
        .collect();
    // `api/VERSION` or `apis/GROUP/VERSION`, then perhaps `namespaces/NAME`, then the resource and a name.
    let rest = match parts.first() {
        Some(&"api") => parts.get(2..),
        Some(&"apis") => parts.get(3..),
        _ => None,
    };
    let rest = rest.unwrap_or_default();
    let rest = match rest {
        ["namespaces", _, rest @ ..] if !rest.is_empty() && *rest != ["status"] => rest,
        rest => rest,
    };
    let resource = rest.first().copied().unwrap_or_default();
    let resource = RESOURCES.iter().find(|known| **known == resource);
    let resource = resource.copied().unwrap_or("other");
    let watches = uri.query().unwrap_or_default().split('&');
    let watches = watches
        .into_iter()
        .any(|pair| matches!(pair, "watch=true" | "watch=1"));
    let verb = match *method {
        Method::GET if watches => "watch",
        Method::GET if rest.len() == 1 => "list",
        Method::GET => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "other",
    };
    (verb, resource)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_named_as_kubernetes_names_them() {
        for (method, uri, verb, resource) in [
            (
                Method::GET,
                "/apis/kubedb.com/v1alpha1/postgreses?watch=true&timeoutSeconds=290",
                "watch",
                "postgreses",
            ),
            (
                Method::GET,
                "/apis/kubedb.com/v1alpha1/namespaces/demo/snapshots?limit=500",
                "list",
                "snapshots",
            ),
            (
                Method::PATCH,
                "/apis/kubedb.com/v1alpha1/namespaces/demo/postgreses/pg/status?",
                "patch",
                "postgreses",
            ),
            (Method::GET, "/api/v1/namespaces/demo", "get", "namespaces"),
            (Method::GET, "/api/v1/namespaces", "list", "namespaces"),
            (
                Method::GET,
                "/api/v1/namespaces/demo/secrets/pg-auth",
                "get",
                "secrets",
            ),
            (
                Method::POST,
                "/api/v1/namespaces/demo/events",
                "create",
                "events",
            ),
            (
                Method::PUT,
                "/apis/coordination.k8s.io/v1/namespaces/kubedb/leases/kubedb-operator",
                "update",
                "leases",
            ),
            (
                Method::DELETE,
                "/apis/x.example/v1/namespaces/demo/anythings/one",
                "delete",
                "other",
            ),
            (Method::GET, "/version", "get", "other"),
        ] {
            let found = what(&method, &uri.parse().unwrap());
            assert_eq!(found, (verb, resource), "{uri}");
        }
    }
}
