//! `kubedb create -f`: sends manifests.

use clap::Args;
use kube::{
    Resource as _,
    api::PostParams,
    core::{DynamicObject, Request},
};

use kubedb_api::validate::{validate_postgres, validate_snapshot};

use super::selection;
use crate::{
    client::{ServerArgs, Session},
    error::{CommandError, Failures},
    manifest::{self, Manifest, source},
    ui::Ui,
};

const EXAMPLES: &str = "\
Kinds: Postgres, Snapshot, PostgresVersion, Namespace, Secret, ConfigMap.
All manifests are read before the first object is sent.

Examples:
  kubedb create -f scheduled-pg.yaml
  kubedb create -f https://example.com/scheduled-pg.yaml
  kubedb create -f manifests/ --recursive
  generate | kubedb create -n demo -f -";

/// What `create` was told.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct CreateArgs {
    /// File, folder, URL, or - for standard input; may be repeated
    #[arg(short, long, value_name = "SOURCE", required = true)]
    pub(crate) filename: Vec<String>,
    /// Read folders within folders too
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// Namespace of manifests that name none; `default` when absent
    #[arg(short, long, value_name = "NAME", value_parser = selection::namespace)]
    pub(crate) namespace: Option<String>,
    /// Let the server check everything and keep nothing
    #[arg(long, value_name = "WHERE", num_args = 0..=1, require_equals = true,
          default_missing_value = "server", value_parser = ["none", "client", "server"])]
    pub(crate) dry_run: Option<String>,
}

pub(super) async fn run(
    arguments: CreateArgs,
    server: &ServerArgs,
    ui: &Ui,
) -> Result<(), CommandError> {
    let dry_run = arguments.dry_run.is_some_and(|place| place != "none");
    let namespace = arguments.namespace.as_deref();
    let prepared = prepare(&arguments.filename, arguments.recursive, namespace, ui).await?;
    let session = Session::open(server).await?;
    let mut failures = Failures::default();
    for (index, (manifest, namespace)) in prepared.iter().enumerate() {
        match create(&session, manifest, namespace.as_deref(), dry_run).await {
            Ok(name) => {
                let note = if dry_run { " (server dry run)" } else { "" };
                ui.data(&format!(
                    "{} \"{name}\" created{note}",
                    manifest.kind.singular
                ));
            }
            Err(error) => {
                ui.error(&error);
                if let Some(hint) = unknown_fields(manifest, &error) {
                    ui.note(&format!("\nhint: {hint}"));
                }
                failures.add(&error);
                // Every other object would wait and fail in the same way.
                if matches!(error, CommandError::ReachServer { .. }) {
                    say_unsent(&prepared[index + 1..], ui);
                    break;
                }
            }
        }
    }
    failures.end()
}

/// What may have been meant by fields that the server does not know. Its own words are those of every Kubernetes, and only name them.
fn unknown_fields(manifest: &Manifest, error: &CommandError) -> Option<String> {
    if error.status_code() != Some(400) {
        return None;
    }
    let errors = match manifest.kind.kind {
        "Postgres" => validate_postgres(&manifest.object, &[]),
        "Snapshot" => validate_snapshot(&manifest.object),
        _ => return None,
    };
    let hints: Vec<String> = errors
        .into_iter()
        .filter(|error| error.message.starts_with("unknown field "))
        .filter_map(|error| Some(format!("{}: {}", error.field, error.hint?)))
        .collect();
    (!hints.is_empty()).then(|| hints.join("; "))
}

/// Names what was not even tried, so that nobody has to guess where to go on.
fn say_unsent(unsent: &[(Manifest, Option<String>)], ui: &Ui) {
    let names: Vec<String> = unsent
        .iter()
        .map(|(manifest, _)| format!("{} \"{}\"", manifest.kind.singular, manifest.name))
        .collect();
    if !names.is_empty() {
        ui.note(&format!("not sent: {}", names.join(", ")));
    }
}

/// Reads everything and refuses what can be refused before anything is sent.
async fn prepare(
    filenames: &[String],
    recursive: bool,
    namespace: Option<&str>,
    ui: &Ui,
) -> Result<Vec<(Manifest, Option<String>)>, CommandError> {
    let mut prepared = Vec::new();
    for source in source::read_all(filenames, recursive).await? {
        ui.data(&format!("validating \"{}\"", source.name));
        for manifest in manifest::parse(&source)? {
            if !manifest.kind.creatable {
                return Err(CommandError::manifest(format!(
                    "resource type \"{}\" doesn't support create operation",
                    manifest.kind.kind
                )));
            }
            let target = manifest.target_namespace(namespace)?;
            prepared.push((manifest, target));
        }
    }
    if prepared.is_empty() {
        return Err(CommandError::manifest("no objects passed to create"));
    }
    Ok(prepared)
}

/// Sends one object as it was written, unknown fields refused, and gives its name.
async fn create(
    session: &Session,
    manifest: &Manifest,
    namespace: Option<&str>,
    dry_run: bool,
) -> Result<String, CommandError> {
    let doing = format!("error when creating \"{}\"", manifest.source);
    let wrong = |source: Box<dyn std::error::Error + Send + Sync>| CommandError::Manifest {
        message: doing.clone(),
        source: Some(source),
    };
    let mut object = manifest.object.clone();
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = namespace.into();
    }
    let body = serde_json::to_vec(&object).map_err(|source| wrong(Box::new(source)))?;
    let path = DynamicObject::url_path(&manifest.kind.api_resource(), namespace);
    let parameters = PostParams {
        dry_run,
        ..PostParams::default()
    };
    let mut request = Request::new(path)
        .create(&parameters, body)
        .map_err(|source| wrong(Box::new(source)))?;
    let strict = with_strict_fields(&request.uri().to_string());
    *request.uri_mut() = strict.parse().map_err(|source| wrong(Box::new(source)))?;
    let created = session.client.request::<DynamicObject>(request).await;
    let created = created.map_err(|error| session.fail(error, Some(doing)))?;
    Ok(created
        .metadata
        .name
        .unwrap_or_else(|| manifest.name.clone()))
}

/// A mistyped field must not be ignored: somebody relies on it.
fn with_strict_fields(uri: &str) -> String {
    let separator = match uri.split_once('?') {
        None => "?",
        Some((_, "")) => "",
        Some(_) => "&",
    };
    format!("{uri}{separator}fieldValidation=Strict")
}

/// The kinds of `EXAMPLES` are those that `create` takes.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::kinds;

    #[test]
    fn help_names_the_kinds() {
        let named = EXAMPLES.lines().next().unwrap();
        for kind in kinds::ALL {
            assert_eq!(named.contains(kind.kind), kind.creatable, "{}", kind.kind);
        }
    }

    #[test]
    fn strictness_is_added_to_any_query() {
        let query = "fieldValidation=Strict";
        assert_eq!(with_strict_fields("/a"), format!("/a?{query}"));
        assert_eq!(with_strict_fields("/a?"), format!("/a?{query}"));
        assert_eq!(
            with_strict_fields("/a?dryRun=All"),
            format!("/a?dryRun=All&{query}")
        );
    }
}
