//! Who scrapes a database's metrics, and where (`spec.monitor`). The agent beside each PostgreSQL answers itself: there is no exporter to configure.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A Prometheus that finds its targets by annotations of Services.
pub const BUILTIN: &str = "prometheus.io/builtin";
/// A Prometheus that CoreOS' operator runs, and that finds them by ServiceMonitors.
pub const COREOS: &str = "prometheus.io/coreos-operator";
/// The same, as it was once written.
pub const COREOS_FORMER: &str = "coreos-prometheus-operator";

/// Port of metrics where nobody says another.
pub const PORT: u16 = 56_790;
/// Name of that port on Services.
pub const PORT_NAME: &str = "prom-http";
/// Value of the label `kubedb.com/role` of the Service that leads to the metrics of all instances.
pub const STATS_ROLE: &str = "stats";

/// Who scrapes the metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Monitor {
    /// `prometheus.io/builtin`, or `prometheus.io/coreos-operator`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Where the metrics are, and how they are found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<Prometheus>,
}

/// Where the metrics are, and how they are found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Prometheus {
    /// Port of the metrics, 56790 when absent. On one machine, where instances share an address, the first instance has this port and each further one
    /// the next; when absent, each has a free one that it keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
    /// Namespace of the ServiceMonitor; the database's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Labels of the ServiceMonitor, by which a Prometheus selects it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// How often to scrape, such as `10s`; as the Prometheus does by itself when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
}

/// How a Prometheus finds the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// By annotations of a Service.
    Annotations,
    /// By a ServiceMonitor.
    ServiceMonitor,
}

impl Monitor {
    /// None where `agent` names nobody that is known; admission refuses that.
    #[must_use]
    pub fn discovery(&self) -> Option<Discovery> {
        match self.agent.as_deref() {
            Some(BUILTIN) => Some(Discovery::Annotations),
            Some(COREOS | COREOS_FORMER) => Some(Discovery::ServiceMonitor),
            _ => None,
        }
    }

    /// The port that was asked for.
    #[must_use]
    pub fn asked_port(&self) -> Option<u16> {
        let port = self.prometheus.as_ref()?.port?;
        u16::try_from(port).ok()
    }

    /// The port of each pod, and of its Service.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.asked_port().unwrap_or(PORT)
    }
}

/// Path of a database's metrics, beside `/metrics`.
#[must_use]
pub fn path(namespace: &str, database: &str) -> String {
    format!("/kubedb.com/v1alpha1/namespaces/{namespace}/postgreses/{database}/metrics")
}

/// Where an agent answers, and what keeps it from that (`status.instances.<instance>.metrics`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetricsStatus {
    /// `host:port` at which it is asked for its metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Why it does not answer there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
