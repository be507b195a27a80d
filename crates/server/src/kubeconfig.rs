//! The file that tells kubectl, kubedb and agents where the server is and who they are.

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

/// A kubeconfig in YAML; `authority` is PEM.
pub(crate) fn render(
    address: SocketAddr,
    authority: &str,
    user: &str,
    token: &str,
    namespace: &str,
) -> Result<String, serde_yaml_ng::Error> {
    serde_yaml_ng::to_string(&json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "kubedb", "cluster": {
            "server": format!("https://{address}"),
            "certificate-authority-data": STANDARD.encode(authority),
        }}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "kubedb", "context": {
            "cluster": "kubedb", "user": user, "namespace": namespace,
        }}],
        "current-context": "kubedb",
    }))
}
