//! The labels by which Services find this instance's pod. A pod that is made anew has none, so its agent says them itself: Services lead to
//! databases also while the operator is away.

use std::time::Duration;

use kubedb_api::{
    Postgres, agent_config::AgentConfig, labels, postgres::StandbyMode, protocol::InstanceRole,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::agent::Agent;

/// Pause after a refusal.
const PAUSE: Duration = Duration::from_secs(5);

/// Remembers what was said.
#[derive(Debug)]
pub(crate) struct Label {
    is_pod: bool,
    said: Option<Value>,
    due: Instant,
}

impl Label {
    pub(crate) fn new(config: &AgentConfig) -> Self {
        Self {
            is_pod: config.kubeconfig.is_none(),
            said: None,
            due: Instant::now(),
        }
    }

    /// Says the role if it changed. A failure is only logged: a later round tries again.
    pub(crate) async fn keep(&mut self, agent: &Agent, database: Option<&Postgres>) {
        let (true, Some(role)) = (self.is_pod, agent.role()) else {
            return;
        };
        let mode = database.and_then(|database| database.spec.standby_mode);
        // Without a word of the API the mode stays what it was.
        let mode = match (mode, &self.said) {
            (None, Some(said)) if database.is_none() => said[labels::STANDBY_MODE].clone(),
            (Some(StandbyMode::Hot), _) => json!("hot"),
            _ => json!("warm"),
        };
        let role = match role {
            InstanceRole::Primary => "primary",
            InstanceRole::Standby => "replica",
        };
        let labels = json!({ labels::ROLE: role, labels::STANDBY_MODE: mode });
        if self.said.as_ref() == Some(&labels) || Instant::now() < self.due {
            return;
        }
        match agent.api.label_pod(&labels).await {
            Ok(()) => self.said = Some(labels),
            Err(error) => {
                tracing::warn!(%error, "Services do not know this instance's role yet");
                self.due = Instant::now() + PAUSE;
            }
        }
    }
}
