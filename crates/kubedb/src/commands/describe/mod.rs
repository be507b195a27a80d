//! `kubedb describe`: all that is known of an object, on one screen.

mod backups;
mod dormant;
mod postgres;
mod snapshot;
mod text;

use clap::Args;
use jiff::{Timestamp, tz::TimeZone};
use k8s_openapi::api::core::v1::{Event, Secret};
use kube::{
    Api,
    api::ListParams,
    core::{DynamicObject, ObjectMeta},
};
use kubedb_api::{DormantDatabase, Snapshot};

use self::text::Description;
pub(super) use self::text::size;
use super::selection::{self, NamespaceArgs, Selection};
use crate::{
    client::{
        ServerArgs, Session,
        kinds::{self, Kind},
    },
    error::CommandError,
    table::age,
    ui::Ui,
};

/// Newer ones tell the story; older ones are left out and counted.
const MOST_EVENTS: usize = 50;

const EXAMPLES: &str = "\
A name that no object has is taken as the beginning of names.

Examples:
  kubedb describe pg scheduled-pg -n demo
  kubedb describe pg -n demo -S=false -W=false
  kubedb describe snap scheduled-pg-2018 -n demo";

/// What `describe` was told.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DescribeArgs {
    /// TYPE, TYPE NAME… or TYPE/NAME…; types may be a comma list
    #[arg(value_name = "TYPE [NAME]")]
    pub(crate) objects: Vec<String>,
    #[command(flatten)]
    pub(crate) namespace: NamespaceArgs,
    /// Objects of all namespaces
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// Only objects with these labels
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub(crate) selector: Option<String>,
    #[command(flatten)]
    pub(crate) show: Show,
}

/// Which parts are shown in full.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Show {
    /// Keys and sizes of the database Secret, never values
    #[arg(short = 'S', long = "show-secret", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) secret: bool,
    /// Endpoints, one a line
    #[arg(short = 'W', long = "show-workload", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) workload: bool,
    /// Events
    #[arg(short = 'E', long = "show-event", alias = "show-events", value_name = "BOOL", num_args = 0..=1,
          require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) event: bool,
}

pub(super) async fn run(
    arguments: DescribeArgs,
    server: &ServerArgs,
    ui: &Ui,
) -> Result<(), CommandError> {
    let selection = Selection::parse(&arguments.objects, "describe")?;
    let session = Session::open(server).await?;
    let objects = select(&session, &selection, &arguments).await?;
    if objects.is_empty() {
        ui.note("No resources found.");
        return Ok(());
    }
    for (index, (kind, object)) in objects.into_iter().enumerate() {
        if index > 0 {
            ui.data("");
        }
        let text = describe(&session, kind, object, arguments.show).await?;
        ui.block(&text);
    }
    Ok(())
}

type Objects = Vec<(&'static Kind, DynamicObject)>;

async fn select(
    session: &Session,
    selection: &Selection,
    arguments: &DescribeArgs,
) -> Result<Objects, CommandError> {
    let namespace = (!arguments.all_namespaces).then_some(&*arguments.namespace.namespace);
    let parameters = ListParams {
        label_selector: arguments.selector.clone(),
        ..ListParams::default()
    };
    let mut found = Vec::new();
    match selection {
        Selection::Kinds(kinds) => {
            for kind in kinds {
                let (objects, _) = selection::list(session, kind, namespace, &parameters).await?;
                found.extend(objects.into_iter().map(|object| (*kind, object)));
            }
        }
        Selection::Named(named) => {
            for (kind, name) in named {
                let (objects, _) = selection::list(session, kind, namespace, &parameters).await?;
                let matching = by_name_or_prefix(objects, name);
                if matching.is_empty() {
                    // The server's own words for what is not there.
                    selection::get(session, kind, &arguments.namespace.namespace, name).await?;
                }
                found.extend(matching.into_iter().map(|object| (*kind, object)));
            }
        }
    }
    Ok(found)
}

/// The object of this name, or those whose names begin so.
fn by_name_or_prefix(objects: Vec<DynamicObject>, name: &str) -> Vec<DynamicObject> {
    let name_of = |object: &DynamicObject| object.metadata.name.clone().unwrap_or_default();
    let (exact, others): (Vec<_>, Vec<_>) = objects
        .into_iter()
        .partition(|object| name_of(object) == name);
    if exact.is_empty() {
        others
            .into_iter()
            .filter(|object| name_of(object).starts_with(name))
            .collect()
    } else {
        exact
    }
}

async fn describe(
    session: &Session,
    kind: &'static Kind,
    object: DynamicObject,
    show: Show,
) -> Result<String, CommandError> {
    let mut text = Description::new(TimeZone::system());
    let metadata = object.metadata.clone();
    match kind.kind {
        "Postgres" => postgres::describe(session, parse(session, object)?, show, &mut text).await?,
        "Snapshot" => {
            let snapshot: Snapshot = parse(session, object)?;
            snapshot::describe(&snapshot, &mut text);
            let named = snapshot.spec.storage.storage_secret_name.as_deref();
            used_secret(session, &metadata, named, show, &mut text).await?;
        }
        "DormantDatabase" => {
            let dormant: DormantDatabase = parse(session, object)?;
            dormant::describe(session, dormant, show, &mut text).await?;
        }
        _ => plain(session, kind, &object, &mut text).await?,
    }
    if show.event && kind != &kinds::EVENT {
        events(session, kind, &metadata, &mut text).await?;
    }
    Ok(text.finish())
}

fn parse<K: serde::de::DeserializeOwned>(
    session: &Session,
    object: DynamicObject,
) -> Result<K, CommandError> {
    let value = serde_json::to_value(object).and_then(serde_json::from_value);
    value.map_err(|source| session.fail(kube::Error::SerdeError(source), None))
}

/// What every object has, and the sizes of a Secret's keys.
async fn plain(
    session: &Session,
    kind: &Kind,
    object: &DynamicObject,
    text: &mut Description,
) -> Result<(), CommandError> {
    text.metadata(&object.metadata, "CreationTimestamp");
    text.labels(&object.metadata);
    if let Some(phase) = object.data["status"]["phase"].as_str() {
        text.pair("Status", phase);
    }
    if let Some(reason) = object.data["status"]["reason"].as_str() {
        text.pair("Reason", reason);
    }
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    match kind.kind {
        "Secret" => secret(session, namespace, name, "Secret", text).await,
        "ConfigMap" => {
            let data = object.data["data"].as_object();
            text.line("");
            text.line("Data:");
            for (key, value) in data.into_iter().flatten() {
                text.pair(
                    &format!("  {key}"),
                    format!("{} bytes", value.as_str().map_or(0, str::len)),
                );
            }
            Ok(())
        }
        "PostgresVersion" => {
            let spec = &object.data["spec"];
            text.pair("Version", spec["version"].as_str().unwrap_or_default());
            text.maybe("Image", spec["db"]["image"].as_str());
            text.maybe(
                "Deprecated",
                spec["deprecated"].as_bool().map(|flag| flag.to_string()),
            );
            Ok(())
        }
        _ => Ok(()),
    }
}

/// A Secret that an object names: in full, or its name alone.
async fn used_secret(
    session: &Session,
    metadata: &ObjectMeta,
    named: Option<&str>,
    show: Show,
    text: &mut Description,
) -> Result<(), CommandError> {
    let Some(name) = named.filter(|name| !name.is_empty()) else {
        return Ok(());
    };
    if !show.secret {
        text.pair("Secrets", name);
        return Ok(());
    }
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    secret(session, namespace, name, "Database Secret", text).await
}

/// Keys of a Secret and how long their values are.
async fn secret(
    session: &Session,
    namespace: &str,
    name: &str,
    heading: &str,
    text: &mut Description,
) -> Result<(), CommandError> {
    let api: Api<Secret> = Api::namespaced(session.client.clone(), namespace);
    let found = api
        .get_opt(name)
        .await
        .map_err(|error| session.fail(error, None))?;
    text.line("");
    text.line(&format!("{heading}:"));
    text.pair("  Name", name);
    let Some(found) = found else {
        text.pair("  Type", "not found");
        return Ok(());
    };
    text.pair("  Type", found.type_.unwrap_or_else(|| "Opaque".to_owned()));
    text.line("  Data");
    text.line("  ====");
    for (key, value) in found.data.unwrap_or_default() {
        // The original's layout: four spaces, whatever the other keys' lengths.
        text.line(&format!("  {key}:    {} bytes", value.0.len()));
    }
    Ok(())
}

/// Events of an object, newest first.
async fn events(
    session: &Session,
    kind: &Kind,
    metadata: &ObjectMeta,
    text: &mut Description,
) -> Result<(), CommandError> {
    let name = metadata.name.as_deref().unwrap_or_default();
    let fields = format!(
        "involvedObject.name={name},involvedObject.kind={}",
        kind.kind
    );
    let parameters = ListParams::default().fields(&fields);
    let namespace = metadata
        .namespace
        .as_deref()
        .unwrap_or(crate::client::DEFAULT_NAMESPACE);
    let (objects, _) =
        selection::list(session, &kinds::EVENT, Some(namespace), &parameters).await?;
    let mut events = Vec::with_capacity(objects.len());
    for object in objects {
        events.push(parse::<Event>(session, object)?);
    }
    // An object of the same name that existed before has other events.
    events.retain(|event| {
        event.involved_object.uid.is_none() || event.involved_object.uid == metadata.uid
    });
    render_events(events, Timestamp::now(), text);
    Ok(())
}

fn render_events(mut events: Vec<Event>, now: Timestamp, text: &mut Description) {
    events.sort_by_key(|event| std::cmp::Reverse(last_time(event)));
    let left_out = events.len().saturating_sub(MOST_EVENTS);
    let rows = events.iter().take(MOST_EVENTS).map(|event| {
        let first = event
            .first_timestamp
            .as_ref()
            .map(|time| time.0)
            .or(last_time(event));
        let source = event
            .source
            .as_ref()
            .and_then(|source| source.component.clone());
        vec![
            age(first, now),
            age(last_time(event), now),
            event.count.unwrap_or(1).to_string(),
            source
                .or(event.reporting_component.clone())
                .unwrap_or_default(),
            event.type_.clone().unwrap_or_default(),
            event.reason.clone().unwrap_or_default(),
            event
                .message
                .clone()
                .unwrap_or_default()
                .trim()
                .replace('\n', " "),
        ]
    });
    let titles = [
        "FirstSeen",
        "LastSeen",
        "Count",
        "From",
        "Type",
        "Reason",
        "Message",
    ];
    let rows = rows.collect();
    text.table("Events", &titles, rows);
    if left_out > 0 {
        text.line(&format!("  ({left_out} older ones)"));
    }
}

fn last_time(event: &Event) -> Option<Timestamp> {
    let series = event
        .series
        .as_ref()
        .and_then(|series| series.last_observed_time.as_ref());
    event
        .last_timestamp
        .as_ref()
        .map(|time| time.0)
        .or(series.map(|time| time.0))
        .or(event.event_time.as_ref().map(|time| time.0))
        .or(event
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0))
}
