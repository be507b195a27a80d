//! Whatever is sent: an answer, never a panic. Requests are made from pieces of real ones, in a seeded order.

#![allow(clippy::unwrap_used)]

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use kubedb_server::ApiServer;

/// Requests sent.
const REQUESTS: usize = 60_000;

const METHODS: &[&str] = &[
    "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "BREW",
];
const PARTS: &[&str] = &[
    "api",
    "apis",
    "v1",
    "kubedb.com",
    "v1alpha1",
    "namespaces",
    "default",
    "postgreses",
    "secrets",
    "configmaps",
    "events",
    "events.k8s.io",
    "coordination.k8s.io",
    "leases",
    "status",
    "finalize",
    "x",
    "",
    "%00",
    "%ff",
    "..",
    "%2e%2e",
    "healthz",
    "openapi",
    "v2",
    "v3",
    "watch",
    "version",
    "%",
    "\u{e9}",
];
const QUERIES: &[&str] = &[
    "watch=1&timeoutSeconds=1",
    "limit=1",
    "limit=-9223372036854775809",
    "continue=e30",
    "continue=%00",
    "resourceVersion=0",
    "resourceVersion=18446744073709551616",
    "resourceVersionMatch=Exact",
    "labelSelector=a%20in%20(",
    "labelSelector=%00",
    "labelSelector=a%3E99999999999999999999",
    "fieldSelector=metadata.name%3Dx%5C",
    "fieldSelector=%5C",
    "dryRun=All",
    "dryRun=x",
    "fieldValidation=Strict",
    "propagationPolicy=Foreground",
    "sendInitialEvents=true",
    "includeObject=Object",
    "&&&=&=",
    "gracePeriodSeconds=-1",
    "pretty=%zz",
];
const MEDIA: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/merge-patch+json",
    "application/json-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
    "",
    ";;;",
    "text/plain",
];
const ACCEPT: &[&str] = &[
    "*/*",
    "application/json;as=Table;v=v1;g=meta.k8s.io",
    "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    "application/yaml",
    ",;,;",
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
];
const BODIES: &[&str] = &[
    "",
    "{}",
    "[]",
    "null",
    "1",
    "\"x\"",
    "{\"metadata\": 1}",
    "{\"metadata\": {\"name\": 1}}",
    "{\"metadata\": {\"labels\": [1]}}",
    "{\"metadata\": {\"name\": \"x\", \"finalizers\": [null, 1]}, \"data\": [1], \"spec\": \"x\", \"status\": 7}",
    "{\"kind\": [], \"apiVersion\": {}, \"metadata\": {\"name\": \"x\", \"ownerReferences\": [{}]}}",
    "{\"apiVersion\": \"kubedb.com/v1alpha1\", \"kind\": \"Postgres\", \"metadata\": {\"name\": \"x\"}, \"spec\": []}",
    "{\"apiVersion\": \"kubedb.com/v1alpha1\", \"kind\": \"Postgres\", \"metadata\": {\"name\": \"x\"}, \"spec\": {\"version\": \"9.6\", \"replicas\": 1e300, \"storage\": {\"resources\": {\"requests\": {\"storage\": \"1Gi\"}}}}}",
    "{\"metadata\": {\"name\": \"x\"}, \"involvedObject\": 3, \"spec\": {\"renewTime\": \"2\"}, \"data\": {\"a\": {\"b\": []}}}",
    "[{\"op\": \"add\", \"path\": \"\", \"value\": 1}]",
    "[{\"op\": \"remove\", \"path\": \"/metadata\"}]",
    "[{\"op\": \"add\", \"path\": \"/metadata/finalizers/-\", \"value\": {}}]",
    "[{\"op\": \"move\", \"from\": \"/spec\", \"path\": \"/spec/a\"}]",
    "{\"metadata\": null}",
    "{\"$patch\": \"delete\"}",
    "{\"metadata\": {\"$patch\": \"replace\"}, \"data\": {\"$retainKeys\": 1}}",
    "{\"metadata\": {\"finalizers\": [{\"$patch\": \"replace\"}]}, \"status\": {\"conditions\": [1, {\"type\": 2}]}}",
    "a: &a [*a]",
    "a: b: c",
    "metadata: {name: x}\n---\nx",
    "k8s\u{0}",
    "k8s\u{0}\u{12}\u{7f}\u{1}",
];

/// SplitMix64: the same seed gives the same requests.
struct Random(u64);

impl Random {
    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }

    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % count as u64).unwrap()
    }

    /// Half of the paths are real ones, or the parser alone would be tried.
    fn path(&mut self) -> String {
        let real = [
            "/api/v1/namespaces/default/configmaps",
            "/api/v1/namespaces/default/secrets/x",
            "/api/v1/namespaces/x",
            "/apis/kubedb.com/v1alpha1/namespaces/default/postgreses",
            "/apis/kubedb.com/v1alpha1/namespaces/default/postgreses/x/status",
            "/apis/events.k8s.io/v1/namespaces/default/events",
            "/apis/coordination.k8s.io/v1/namespaces/default/leases/x",
            "/api/v1/namespaces/default/configmaps/x",
            "/api/v1/namespaces",
        ];
        let mut path = match self.below(2) {
            0 => self.pick(&real).to_owned(),
            _ => (0..=self.below(7))
                .map(|_| format!("/{}", self.pick(PARTS)))
                .collect(),
        };
        for index in 0..self.below(4) {
            path.push(if index == 0 { '?' } else { '&' });
            path.push_str(self.pick(QUERIES));
        }
        path
    }

    /// A body, whole or with one byte changed.
    fn body(&mut self) -> Vec<u8> {
        let mut body = self.pick(BODIES).as_bytes().to_vec();
        if !body.is_empty() && self.below(3) == 0 {
            let place = self.below(body.len());
            body[place] = u8::try_from(self.below(256)).unwrap();
        }
        body
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let server = ApiServer::open(&folder.path().join("kubedb.sqlite")).unwrap();
    let client = server.client();
    let mut random = Random(7);
    let mut answers = std::collections::BTreeMap::new();
    for _ in 0..REQUESTS {
        let (method, path, body) = (random.pick(METHODS), random.path(), random.body());
        let (media, accept) = (random.pick(MEDIA), random.pick(ACCEPT));
        let request = Request::builder()
            .method(method)
            .uri(&path)
            .header("content-type", media)
            .header("accept", accept)
            .body(kube::client::Body::from(body.clone()));
        // Some are no HTTP at all.
        let Ok(request) = request else { continue };
        let response = client.send(request).await.unwrap();
        let code = response.status();
        let is_watch = path.contains("watch=1") && code == StatusCode::OK;
        let text = if is_watch {
            String::new()
        } else {
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let sent = String::from_utf8_lossy(&body);
        assert!(
            !text.contains("InternalError"),
            "{method} {path} {media} {sent}: {text}"
        );
        *answers.entry(code.as_u16()).or_insert(0) += 1;
    }
    // Rubbish of every kind came through: some of it was fine, some refused for its form, some for its content.
    for code in [200, 201, 400, 404, 405, 406, 415, 422] {
        assert!(answers.contains_key(&code), "{answers:?}");
    }
}
