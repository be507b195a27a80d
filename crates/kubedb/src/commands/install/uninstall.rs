//! `kubedb uninstall`: takes the operator away; what users made stays unless they say otherwise.

use std::time::{Duration, Instant};

use clap::Args;
use kubedb_api::labels::FINALIZER;
use kubedb_operator::rights::{LEADER_LEASE, WEBHOOK_SECRET};
use serde_json::Value;

use super::{
    LOOK_EVERY, SAY_EVERY,
    cluster::{Cluster, Name},
    objects::{NAMESPACE, Part, Settings},
    plan, refused,
};
use crate::{
    client::{ServerArgs, Session},
    commands::{delete::duration, selection},
    error::CommandError,
    ui::Ui,
};

/// Kinds whose objects are the users'.
const USERS_KINDS: [&str; 3] = ["Postgres", "Snapshot", "DormantDatabase"];
/// Labels of the operator's pods.
const PODS: &str = "app.kubernetes.io/name=kubedb,app.kubernetes.io/component=operator";

/// What `uninstall` was told.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Takes the operator, its rights and its webhooks away. Databases, Snapshots and their definitions stay, and so do the roles of users and the policy
that keeps locked databases; databases that run go on running. With --purge all of them go too. What is in stores and volumes always stays.

Examples:
  kubedb uninstall --dry-run
  kubedb uninstall
  kubedb uninstall --purge --dry-run")]
pub(crate) struct UninstallArgs {
    /// Namespace of the operator
    #[arg(short, long, value_name = "NAME", default_value = NAMESPACE, value_parser = selection::namespace)]
    namespace: String,
    /// Delete databases, Snapshots, their definitions and the namespace, too
    #[arg(long)]
    purge: bool,
    /// Print what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// How long to wait until everything is gone, such as 30s or 5m
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    timeout: Duration,
}

/// What is done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Removal {
    /// An object goes.
    Delete(Name),
    /// The operator must be gone: one that sees a Snapshot deleted deletes its data.
    AwaitOperator,
    /// An object of users is let go.
    Release(Name),
}

/// Objects of kubedb, and of its users, that there are.
struct Found {
    installed: Vec<Name>,
    users: Vec<Value>,
}

/// Decides the order. Only what is there is in it.
fn removals(found: &Found, namespace: &str, purge: bool) -> Vec<Removal> {
    let settings = settings(namespace);
    let of = |part: Part| {
        part.objects(&settings)
            .iter()
            .map(Name::of)
            .collect::<Vec<_>>()
    };
    let is_kept = |name: &Name| {
        !purge
            && (name.kind.starts_with("ValidatingAdmissionPolicy")
                || name.name.starts_with("kubedb:core:"))
    };
    let mut admission = of(Part::Admission);
    // Webhooks first: nobody shall wait for an answer that does not come.
    admission.reverse();
    let own = [
        Name::within(namespace, "Secret", WEBHOOK_SECRET),
        Name::within(namespace, "Lease", LEADER_LEASE),
    ];
    let first = admission
        .into_iter()
        .chain(of(Part::Workload))
        .chain(of(Part::Access))
        .chain(own);
    let there = |name: &Name| found.installed.contains(name);
    let mut all: Vec<Removal> = first
        .filter(|name| there(name) && !is_kept(name))
        .map(Removal::Delete)
        .collect();
    if purge {
        all.push(Removal::AwaitOperator);
        all.extend(
            found
                .users
                .iter()
                .map(|object| Removal::Release(Name::of(object))),
        );
        let last = of(Part::Definitions).into_iter().chain(of(Part::Namespace));
        all.extend(last.filter(there).map(Removal::Delete));
    }
    all
}

fn settings(namespace: &str) -> Settings {
    Settings {
        namespace: namespace.to_owned(),
        ..Settings::default()
    }
}

/// Databases that refuse to be deleted.
fn locked(users: &[Value]) -> Vec<String> {
    let is_locked = |object: &&Value| {
        object["kind"] == "Postgres"
            && (object["spec"]["doNotPause"] == true
                || object["spec"]["terminationPolicy"] == "DoNotTerminate")
    };
    let text = |object: &Value| {
        let name = Name::of(object);
        format!("{}/{}", name.namespace.unwrap_or_default(), name.name)
    };
    users.iter().filter(is_locked).map(text).collect()
}

/// Uninstalls.
pub(crate) async fn run(
    arguments: UninstallArgs,
    server: &ServerArgs,
    ui: &Ui,
) -> Result<(), CommandError> {
    let session = Session::open(server).await?;
    let remover = Remover {
        cluster: Cluster {
            client: session.client.clone(),
        },
        session,
        ui,
        namespace: arguments.namespace.clone(),
        until: Instant::now() + arguments.timeout,
    };
    let found = remover.look(arguments.purge).await?;
    if arguments.purge {
        let locked = locked(&found.users);
        if !locked.is_empty() {
            return Err(CommandError::State {
                message: format!("databases refuse to be deleted: {}", locked.join(", ")),
                hint: Some("unset spec.doNotPause, or set spec.terminationPolicy to Pause; nothing was changed".to_owned()),
            });
        }
    }
    let removals = removals(&found, &arguments.namespace, arguments.purge);
    for removal in &removals {
        if !arguments.dry_run {
            remover.take(removal).await?;
        }
        remover.say(removal, arguments.dry_run);
    }
    if !arguments.dry_run {
        remover.wait_until_gone(&removals).await?;
    }
    ui.note(if arguments.purge {
        "what is in stores and in volumes stays: nothing of it was deleted"
    } else {
        "databases, Snapshots and their definitions stay; until kubedb install they are looked after by nobody, and deleting one waits for it"
    });
    Ok(())
}

struct Remover<'a> {
    cluster: Cluster,
    session: Session,
    ui: &'a Ui,
    namespace: String,
    until: Instant,
}

impl Remover<'_> {
    fn fail(&self, error: kube::Error, doing: &str, what: &str) -> CommandError {
        self.session
            .fail(error, Some(format!("error when {doing} {what}")))
    }

    async fn get(&self, name: &Name) -> Result<Option<Value>, CommandError> {
        let found = self.cluster.get(name).await;
        found.map_err(|error| self.fail(error, "reading", &name.text()))
    }

    async fn list(
        &self,
        kind: &str,
        namespace: Option<&str>,
        labels: &str,
    ) -> Result<Vec<Value>, CommandError> {
        let found = self.cluster.list(kind, namespace, labels).await;
        found.map_err(|error| self.fail(error, "listing", kind))
    }

    async fn look(&self, purge: bool) -> Result<Found, CommandError> {
        let settings = settings(&self.namespace);
        let parts = Part::ALL
            .into_iter()
            .filter(|part| *part != Part::Catalogue);
        let mut names: Vec<Name> = parts
            .flat_map(|part| part.objects(&settings))
            .map(|object| Name::of(&object))
            .collect();
        names.push(Name::within(&self.namespace, "Secret", WEBHOOK_SECRET));
        names.push(Name::within(&self.namespace, "Lease", LEADER_LEASE));
        let (mut installed, mut objects) = (Vec::new(), Vec::new());
        for name in names {
            if let Some(object) = self.get(&name).await? {
                installed.push(name);
                objects.push(object);
            }
        }
        plan::may_take(objects.iter()).map_err(refused)?;
        let mut users = Vec::new();
        if purge {
            for kind in USERS_KINDS {
                users.extend(self.list(kind, None, "").await?);
            }
        }
        Ok(Found { installed, users })
    }

    async fn take(&self, removal: &Removal) -> Result<(), CommandError> {
        match removal {
            Removal::Delete(name) => {
                let deleted = self.cluster.delete(name).await;
                deleted
                    .map(drop)
                    .map_err(|error| self.fail(error, "deleting", &name.text()))
            }
            Removal::AwaitOperator => self.await_operator().await,
            Removal::Release(name) => self.release(name).await,
        }
    }

    fn say(&self, removal: &Removal, dry_run: bool) {
        let note = if dry_run { " (dry run)" } else { "" };
        match removal {
            Removal::Delete(name) => self.ui.data(&format!("{} deleted{note}", name.text())),
            Removal::Release(name) => {
                let namespace = name.namespace.as_deref().unwrap_or_default();
                self.ui.data(&format!(
                    "{} of namespace {namespace} deleted with its definition{note}",
                    name.text()
                ));
            }
            Removal::AwaitOperator => {}
        }
    }

    async fn await_operator(&self) -> Result<(), CommandError> {
        let look = || async {
            let pods = self.list("Pod", Some(&self.namespace), PODS).await?;
            Ok(pods.iter().map(Name::of).collect())
        };
        self.wait(look).await
    }

    async fn wait_until_gone(&self, removals: &[Removal]) -> Result<(), CommandError> {
        let look = || async {
            let mut left = Vec::new();
            for removal in removals {
                if let Removal::Delete(name) = removal
                    && let Some(object) = self.get(name).await?
                    // One that is made anew by somebody else is none of ours.
                    && !object["metadata"]["deletionTimestamp"].is_null()
                {
                    left.push(name.clone());
                }
            }
            Ok(left)
        };
        self.wait(look).await
    }

    async fn wait<F>(&self, look: impl Fn() -> F) -> Result<(), CommandError>
    where
        F: Future<Output = Result<Vec<Name>, CommandError>>,
    {
        let mut say_at = Instant::now() + SAY_EVERY / 2;
        loop {
            let left = tokio::select! {
                left = look() => left?,
                _ = tokio::signal::ctrl_c() => return Err(CommandError::Interrupted),
            };
            if left.is_empty() {
                return Ok(());
            }
            let texts: Vec<String> = left.iter().map(Name::text).collect();
            let now = Instant::now();
            if now >= self.until {
                let what = format!("{} to go", texts.join(", "));
                return Err(CommandError::TimedOut { what });
            }
            if now >= say_at {
                self.ui
                    .note(&format!("waiting for {} to go", texts.join(", ")));
                say_at = now + SAY_EVERY;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Somebody, such as an agent that still tells its state, may write at the same time.
    async fn release(&self, name: &Name) -> Result<(), CommandError> {
        while let Some(mut object) = self.get(name).await? {
            object["kind"] = name.kind.as_str().into();
            match self.cluster.release(&object, FINALIZER).await {
                Ok(()) => break,
                Err(kube::Error::Api(status))
                    if status.code == 409 && Instant::now() < self.until => {}
                Err(error) => return Err(self.fail(error, "releasing", &name.text())),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(users: Vec<Value>) -> Found {
        let settings = settings("kubedb");
        let parts = Part::ALL
            .into_iter()
            .filter(|part| *part != Part::Catalogue);
        let mut installed: Vec<Name> = parts
            .flat_map(|part| part.objects(&settings))
            .map(|object| Name::of(&object))
            .collect();
        installed.push(Name::within("kubedb", "Secret", WEBHOOK_SECRET));
        Found { installed, users }
    }

    fn postgres(spec: Value) -> Value {
        json!({"kind": "Postgres", "metadata": {"namespace": "demo", "name": "pg"}, "spec": spec})
    }

    #[test]
    fn without_purge_what_users_made_stays() {
        let all = removals(&found(Vec::new()), "kubedb", false);
        let names: Vec<String> = all
            .iter()
            .filter_map(|removal| match removal {
                Removal::Delete(name) => Some(name.text()),
                _ => None,
            })
            .collect();
        assert!(
            names[0].starts_with("validatingwebhookconfiguration."),
            "{names:?}"
        );
        for kept in [
            "customresourcedefinition",
            "namespace/",
            "policy",
            "kubedb:core:",
        ] {
            let goes = names
                .iter()
                .find(|name| name.contains(kept) && !name.starts_with("poddisruptionbudget"));
            assert_eq!(goes, None, "{kept}");
        }
        assert!(names.contains(&"deployment.apps/kubedb-operator".to_owned()));
        assert!(names.contains(&"secret/kubedb-webhook".to_owned()));
    }

    #[test]
    fn no_object_is_let_go_while_an_operator_could_delete_its_data() {
        let all = removals(&found(vec![postgres(json!({}))]), "kubedb", true);
        let place = |wanted: &dyn Fn(&Removal) -> bool| all.iter().position(wanted).unwrap();
        let operator =
            place(&|removal| matches!(removal, Removal::Delete(name) if name.kind == "Deployment"));
        let rights = place(
            &|removal| matches!(removal, Removal::Delete(name) if name.kind == "ClusterRoleBinding"),
        );
        let gone = place(&|removal| *removal == Removal::AwaitOperator);
        let released = place(&|removal| matches!(removal, Removal::Release(_)));
        let defined = place(
            &|removal| matches!(removal, Removal::Delete(name) if name.kind == "CustomResourceDefinition"),
        );
        assert!(operator < gone && rights < gone && gone < released && released < defined);
        assert!(matches!(all.last(), Some(Removal::Delete(name)) if name.kind == "Namespace"));
    }

    #[test]
    fn locked_databases_are_named() {
        let free = postgres(json!({"doNotPause": false}));
        assert!(locked(&[free]).is_empty());
        for spec in [
            json!({"doNotPause": true}),
            json!({"terminationPolicy": "DoNotTerminate"}),
        ] {
            assert_eq!(locked(&[postgres(spec)]), ["demo/pg"]);
        }
    }
}
