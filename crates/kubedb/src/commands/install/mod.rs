//! `kubedb install` and `kubedb uninstall`: makes a cluster one with kubedb, and one without.

#[cfg(test)]
mod chart;
mod cluster;
#[cfg(test)]
mod files;
#[cfg(test)]
mod monitoring;
mod objects;
#[cfg(test)]
mod page;
mod plan;
mod uninstall;
mod yaml;

use std::time::{Duration, Instant};

use clap::Args;
use kubedb_operator::rights::{MUTATING, VALIDATING};
use serde_json::Value;

use self::{
    cluster::{Cluster, Name},
    objects::{IMAGE, NAMESPACE, OPERATOR, Part, Settings},
    plan::{Change, Refusal, Seen, Step},
};
use super::{delete::duration, selection};
use crate::{
    client::{ServerArgs, Session},
    error::CommandError,
    ui::Ui,
};

pub(crate) use uninstall::{UninstallArgs, run as uninstall};

/// Between two looks at what is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between two lines of progress.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// A definition is served some seconds after it was made, where many are made at once.
const DEFINED_WITHIN: Duration = Duration::from_secs(60);

/// What `install` was told.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Installs into the cluster of the kubeconfig, or brings what is there to this version; what is so already is left alone. Definitions of the same
names that are not of this kubedb are never touched.

Examples:
  kubedb install --dry-run
  kubedb install --image registry.example.com/kubedb:0.1.0
  kubedb install --watch-namespace demo
  kubedb install -o yaml > kubedb.yaml")]
pub(crate) struct InstallArgs {
    /// Namespace of the operator
    #[arg(short, long, value_name = "NAME", default_value = NAMESPACE, value_parser = selection::namespace)]
    namespace: String,
    /// Image of the operator, which also brings the agent
    #[arg(long, value_name = "IMAGE", default_value = IMAGE)]
    image: String,
    /// Number of operators: one acts, the others answer the webhook and wait
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=10))]
    replicas: u16,
    /// Namespace whose databases it runs, repeatable; all when absent
    #[arg(long, value_name = "NAME", value_parser = selection::namespace)]
    watch_namespace: Vec<String>,
    /// Print what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the manifests instead of installing them
    #[arg(short, long, value_name = "FORMAT", value_parser = ["yaml"], conflicts_with = "dry_run")]
    output: Option<String>,
    /// Wait until the operator answers
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    wait: bool,
    /// How long to wait, such as 30s or 5m
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    timeout: Duration,
}

impl InstallArgs {
    fn settings(&self) -> Settings {
        Settings {
            namespace: self.namespace.clone(),
            image: self.image.clone(),
            replicas: self.replicas.into(),
            watch: self.watch_namespace.clone(),
            ..Settings::default()
        }
    }
}

/// Installs.
pub(crate) async fn run(
    arguments: InstallArgs,
    server: &ServerArgs,
    ui: &Ui,
) -> Result<(), CommandError> {
    let settings = arguments.settings();
    let wanted = objects::all(&settings);
    if arguments.output.is_some() {
        ui.block(&yaml::documents(&wanted));
        return Ok(());
    }
    let session = Session::open(server).await?;
    let installer = Installer {
        cluster: Cluster {
            client: session.client.clone(),
        },
        session,
        ui,
    };
    let steps = installer.plan(wanted).await?;
    for (number, step) in steps.iter().enumerate() {
        if !arguments.dry_run {
            installer.take(step).await?;
            let is_last_definition = is_definition(&step.object)
                && steps
                    .get(number + 1)
                    .is_none_or(|next| !is_definition(&next.object));
            if is_last_definition {
                installer.wait_for_definitions(&settings).await?;
            }
        }
        let note = if arguments.dry_run { " (dry run)" } else { "" };
        let name = Name::of(&step.object).text();
        ui.data(&format!("{name} {}{note}", step.change.word()));
    }
    if arguments.wait && !arguments.dry_run {
        let until = Instant::now() + arguments.timeout;
        installer.wait_for_operator(&settings, until).await?;
        ui.note(&format!(
            "kubedb {} runs in namespace {}",
            env!("CARGO_PKG_VERSION"),
            settings.namespace
        ));
    }
    Ok(())
}

fn is_definition(object: &Value) -> bool {
    object["kind"] == "CustomResourceDefinition"
}

struct Installer<'a> {
    cluster: Cluster,
    session: Session,
    ui: &'a Ui,
}

impl Installer<'_> {
    fn fail(&self, error: kube::Error, doing: &str, name: &Name) -> CommandError {
        let doing = format!("error when {doing} {}", name.text());
        self.session.fail(error, Some(doing))
    }

    /// Looks at everything that is there, and decides.
    async fn plan(&self, wanted: Vec<Value>) -> Result<Vec<Step>, CommandError> {
        let mut objects = Vec::new();
        for object in wanted {
            let name = Name::of(&object);
            let now = self.cluster.get(&name).await;
            let now = now.map_err(|error| self.fail(error, "reading", &name))?;
            objects.push((object, Seen { now, then: None }));
        }
        // Before anything is asked of definitions that may be somebody else's.
        plan::may_take(objects.iter().filter_map(|(_, seen)| seen.now.as_ref()))
            .map_err(refused)?;
        for (object, seen) in &mut objects {
            if seen.now.is_some() {
                let name = Name::of(object);
                let then = self.cluster.apply(object, true).await;
                seen.then = Some(then.map_err(|error| self.fail(error, "comparing", &name))?);
            }
        }
        plan::plan(objects).map_err(refused)
    }

    /// A kind that was defined a moment ago may not be served yet.
    async fn take(&self, step: &Step) -> Result<(), CommandError> {
        if step.change == Change::Keep {
            return Ok(());
        }
        let name = Name::of(&step.object);
        let until = Instant::now() + DEFINED_WITHIN;
        loop {
            match self.cluster.apply(&step.object, false).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status))
                    if status.code == 404
                        && name.kind == "PostgresVersion"
                        && Instant::now() < until => {}
                Err(error) => return Err(self.fail(error, "applying", &name)),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn wait_for_definitions(&self, settings: &Settings) -> Result<(), CommandError> {
        let until = Instant::now() + DEFINED_WITHIN;
        for object in Part::Definitions.objects(settings) {
            let name = Name::of(&object);
            loop {
                let found = self.cluster.get(&name).await;
                let found = found.map_err(|error| self.fail(error, "reading", &name))?;
                if found.is_some_and(|found| has_condition(&found, "Established")) {
                    break;
                }
                if Instant::now() >= until {
                    let what = format!("{} to be served", name.text());
                    return Err(CommandError::TimedOut { what });
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    async fn wait_for_operator(
        &self,
        settings: &Settings,
        until: Instant,
    ) -> Result<(), CommandError> {
        let mut say_at = Instant::now() + SAY_EVERY / 2;
        loop {
            let missing = tokio::select! {
                missing = self.missing(settings) => missing?,
                _ = tokio::signal::ctrl_c() => {
                    self.ui.note("stopped waiting; the installation goes on in the cluster");
                    return Err(CommandError::Interrupted);
                }
            };
            let Some(missing) = missing else {
                return Ok(());
            };
            let now = Instant::now();
            if now >= until {
                return Err(CommandError::State {
                    message: format!("timed out waiting for the operator: {missing}"),
                    hint: Some(format!(
                        "kubectl -n {} get pods, and kubectl -n {} describe deployment {OPERATOR}, say why; everything is in place and goes on when the operator runs",
                        settings.namespace, settings.namespace
                    )),
                });
            }
            if now >= say_at {
                self.ui
                    .note(&format!("waiting for the operator: {missing}"));
                say_at = now + SAY_EVERY;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// What is still missing, in words.
    async fn missing(&self, settings: &Settings) -> Result<Option<String>, CommandError> {
        let name = Name::within(&settings.namespace, "Deployment", OPERATOR);
        let found = self.cluster.get(&name).await;
        let found = found.map_err(|error| self.fail(error, "reading", &name))?;
        let Some(found) = found else {
            return Ok(Some(format!("{} is gone", name.text())));
        };
        let (spec, status) = (&found["spec"], &found["status"]);
        let count = |value: &Value| value.as_i64().unwrap_or(0);
        let (wanted, ready) = (
            count(&spec["replicas"]),
            count(&status["availableReplicas"]),
        );
        let is_current = count(&status["observedGeneration"])
            >= count(&found["metadata"]["generation"])
            && count(&status["updatedReplicas"]) >= wanted
            && count(&status["replicas"]) <= wanted;
        if !is_current || ready < wanted {
            return Ok(Some(format!("{ready} of {wanted} replicas are ready")));
        }
        for (kind, name) in [
            ("MutatingWebhookConfiguration", MUTATING),
            ("ValidatingWebhookConfiguration", VALIDATING),
        ] {
            let name = Name {
                kind: kind.to_owned(),
                namespace: None,
                name: name.to_owned(),
            };
            let found = self.cluster.get(&name).await;
            let found = found
                .map_err(|error| self.fail(error, "reading", &name))?
                .unwrap_or_default();
            let hooks = found["webhooks"].as_array();
            let is_trusted = hooks.is_some_and(|hooks| {
                hooks
                    .iter()
                    .all(|hook| hook["clientConfig"]["caBundle"].is_string())
            });
            if !is_trusted {
                return Ok(Some("the webhook has no certificate yet".to_owned()));
            }
        }
        Ok(None)
    }
}

fn has_condition(object: &Value, wanted: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == wanted && condition["status"] == "True")
}

fn refused(refusal: Refusal) -> CommandError {
    let (message, hint) = match refusal {
        Refusal::Foreign(names) => (
            format!("definitions of the same names belong to something else: {}", names.join(", ")),
            "AppsCode's KubeDB owns these names too, and a cluster can have one of the two; nothing was changed. kubectl get crd NAME -o yaml shows whose a definition is"
                .to_owned(),
        ),
        Refusal::Later(names) => (
            format!("definitions are of a later kubedb: {}", names.join(", ")),
            format!("this is kubedb {}; use the later one, nothing was changed", env!("CARGO_PKG_VERSION")),
        ),
    };
    CommandError::State {
        message,
        hint: Some(hint),
    }
}
