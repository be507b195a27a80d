//! Who asks, and what they may do.

use crate::api::route::{Part, Target, Verb};
use crate::api::selector::Selector;
use crate::api::status::ApiError;

/// What an agent may reach: its own Postgres and Lease, and what is named here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentGrant {
    /// Namespace of the database.
    pub namespace: String,
    /// Name of the Postgres object, and of its Lease.
    pub database: String,
    /// Name of the instance.
    pub instance: String,
    /// Namespace and name of Secrets and ConfigMaps that may be read.
    pub secrets: Vec<(String, String)>,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) enum Identity {
    /// May do everything.
    Admin,
    /// May do what its grant says.
    Agent(std::sync::Arc<AgentGrant>),
}

impl Identity {
    /// User name, as it is told in refusals.
    pub(crate) fn user(&self) -> String {
        match self {
            Self::Admin => "kubedb:admin".to_owned(),
            Self::Agent(grant) => format!("kubedb:agent:{}:{}", grant.namespace, grant.instance),
        }
    }

    /// Refuses with kube-apiserver's words what is not allowed.
    pub(crate) fn authorize(
        &self,
        verb: Verb,
        target: &Target,
        selector: &Selector,
    ) -> Result<(), ApiError> {
        let allowed = match self {
            Self::Admin => true,
            Self::Agent(grant) => allows(grant, verb, target, selector),
        };
        if allowed {
            return Ok(());
        }
        Err(self.refusal(verb, target, selector.name().unwrap_or_default()))
    }

    /// Whether an object of this name may be created, where `authorize` let the request pass: only the body names it.
    pub(crate) fn authorize_name(&self, target: &Target, name: &str) -> Result<(), ApiError> {
        match self {
            Self::Agent(grant) if name != grant.database => {
                Err(self.refusal(Verb::Create, target, ""))
            }
            _ => Ok(()),
        }
    }

    /// `selected` is the only name that can be meant where the path has none.
    fn refusal(&self, verb: Verb, target: &Target, selected: &str) -> ApiError {
        let resource = target.resource;
        let name = match target.name.as_str() {
            "" => selected,
            name => name,
        };
        // A Namespace counts as being in itself.
        let namespace = match target.namespace.as_str() {
            "" if resource.is_namespace() => &target.name,
            namespace => namespace,
        };
        let scope = if namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace \"{namespace}\"")
        };
        let why = format!(
            "User \"{}\" cannot {} resource \"{}{}\" in API group \"{}\" {scope}",
            self.user(),
            verb.name(),
            resource.plural,
            target.part.suffix(),
            resource.group
        );
        ApiError::forbidden(resource, name, &why)
    }
}

fn allows(grant: &AgentGrant, verb: Verb, target: &Target, selector: &Selector) -> bool {
    let resource = target.resource;
    // A list or watch that is bound to one name by its field selector asks for that object alone.
    let name = match verb {
        Verb::List | Verb::Watch if target.name.is_empty() => selector.name().unwrap_or_default(),
        _ => target.name.as_str(),
    };
    let own = target.namespace == grant.namespace && name == grant.database;
    match (
        resource.group.as_str(),
        resource.plural.as_str(),
        target.part,
    ) {
        ("kubedb.com", "postgreses", Part::Main) => {
            own && matches!(verb, Verb::Get | Verb::List | Verb::Watch)
        }
        ("kubedb.com", "postgreses", Part::Status) => {
            own && matches!(verb, Verb::Get | Verb::Patch | Verb::Update)
        }
        // A create names its object only in its body: the caller checks that with `authorize_name`.
        ("coordination.k8s.io", "leases", Part::Main) => match verb {
            Verb::Create => target.namespace == grant.namespace,
            Verb::Get | Verb::Update | Verb::Patch => own,
            _ => false,
        },
        ("", "secrets" | "configmaps", Part::Main) => {
            verb == Verb::Get
                && grant
                    .secrets
                    .iter()
                    .any(|(namespace, granted)| *namespace == target.namespace && granted == name)
        }
        _ => false,
    }
}
