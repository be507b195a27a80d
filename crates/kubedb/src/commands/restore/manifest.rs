//! What a Postgres that is not made yet would begin with, decided as the operator decides it.

use kube::{Api, ResourceExt, api::ListParams};
use kubedb_agent::find::{Planned, find};
use kubedb_api::{
    Postgres, PostgresVersion, Snapshot, admission,
    protocol::RestoreSource,
    validate::validate_postgres,
    verification::{Verification, VerificationPhase},
};
use kubedb_engine::{
    archive::Wal, postgres::dialect::PgDialect, repository::manifest as snapshots, store::Store,
};
use kubedb_operator::source::{Sought, restore_source};

use super::{open, tell_outlook};
use crate::{
    client::Session,
    commands::{
        describe::size,
        repo::{list::second, recover::told, target::check_version},
    },
    error::CommandError,
    manifest::{Manifest, parse, source::read_all},
    ui::Ui,
};

/// Reads the one Postgres of a source, and where it goes.
pub(super) async fn read(
    name: &str,
    namespace: Option<&str>,
) -> Result<(Option<String>, Manifest), CommandError> {
    let mut found = Vec::new();
    for source in read_all(&[name.to_owned()], false).await? {
        let manifests = parse(&source)?.into_iter();
        found.extend(manifests.filter(|manifest| manifest.kind.kind == "Postgres"));
    }
    let wrong = |reason: String| CommandError::manifest(format!("failed to read {name}: {reason}"));
    if let [_, _, ..] = found.as_slice() {
        let names: Vec<&str> = found.iter().map(|one| one.name.as_str()).collect();
        let reason = format!("several Postgres ({}); give one", names.join(", "));
        return Err(wrong(reason));
    }
    let only = found.pop();
    let only = only.ok_or_else(|| wrong("no Postgres in it".to_owned()))?;
    Ok((only.target_namespace(namespace)?, only))
}

/// Takes it as an object, unless it would be refused.
async fn check(
    (namespace, manifest): (Option<String>, Manifest),
    session: &Session,
) -> Result<Postgres, CommandError> {
    let versions: Api<PostgresVersion> = Api::all(session.client.clone());
    let versions = versions.list(&ListParams::default()).await;
    let versions = versions.map_err(|error| session.fail(error, None))?;
    let known: Vec<String> = versions.iter().map(ResourceExt::name_any).collect();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let (name, source) = (&manifest.name, &manifest.source);
    let errors = validate_postgres(&manifest.object, &known);
    if !errors.is_empty() {
        return Err(CommandError::manifest(format!(
            "Postgres {name:?} of {source} would be refused: {}",
            admission::list(&errors)
        )));
    }
    let mut postgres: Postgres = serde_json::from_value(manifest.object).map_err(|error| {
        CommandError::manifest(format!(
            "failed to read Postgres {name:?} of {source}: {error}"
        ))
    })?;
    postgres.metadata.namespace = namespace;
    Ok(postgres)
}

/// Says what it would begin with; an error says why it would not, yet or ever.
pub(super) async fn plan(
    manifest: (Option<String>, Manifest),
    session: &Session,
    ui: &Ui,
) -> Result<(), CommandError> {
    let file = match manifest.1.source.as_str() {
        "STDIN" => "-".to_owned(),
        file => file.to_owned(),
    };
    let postgres = &check(manifest, session).await?;
    let sought = Sought::seek(&session.client, postgres).await;
    let sought = sought.map_err(|error| fail(session, error))?;
    let source = match restore_source(postgres, &sought) {
        Ok(Some(source)) => source,
        Ok(None) => {
            ui.note("it begins empty: its spec.init names neither a Snapshot nor an archive");
            return Ok(());
        }
        Err(unresolved) => {
            return Err(CommandError::State {
                message: unresolved.reason,
                hint: (!unresolved.is_final)
                    .then(|| "a database that is made now waits until that is so".to_owned()),
            });
        }
    };
    let store = open(session, &source.namespace, &source.storage).await?;
    let version = postgres.spec.version.text();
    match (&source.recovery, &sought.snapshot) {
        (Some(recovery), _) => {
            let archive = open(session, &source.namespace, &recovery.storage).await?;
            let planned = find(&store, &archive, &source, recovery).await?;
            replayed(&source, &planned, (&store, &archive), &version, ui).await?;
        }
        (None, Some(snapshot)) => whole(&source, snapshot, &store, &version, ui).await?,
        (None, None) => {}
    }
    ui.note(&format!("kubedb create -f {file} makes a database of it"));
    Ok(())
}

fn fail(session: &Session, error: kubedb_operator::ReconcileError) -> CommandError {
    match error {
        kubedb_operator::ReconcileError::Request { action, source } => {
            session.fail(*source, Some(action.to_owned()))
        }
        other => CommandError::State {
            message: other.to_string(),
            hint: None,
        },
    }
}

/// A backup, and WAL behind it.
async fn replayed(
    source: &RestoreSource,
    planned: &Planned,
    (store, archive): (&Store, &Store),
    version: &str,
    ui: &Ui,
) -> Result<(), CommandError> {
    check_version(&planned.target, version)?;
    let recovery = source.recovery.as_ref();
    let what = match (&planned.found.archive, recovery) {
        (Wal::Walg(_), _) => format!("{} (wal-g)", archive.label()),
        (_, Some(recovery)) => format!("{}/{}", recovery.namespace, recovery.database),
        (_, None) => source.database.clone(),
    };
    let told = told(&what, &planned.target, &planned.found);
    if let Wal::Walg(_) = planned.found.archive {
        ui.note(&told);
        ui.note("  how long that takes is not known");
        return Ok(());
    }
    let base = &planned.found.plan.base;
    // The backup may lie in the archive's own store, too.
    let mut stores = vec![store.clone()];
    if store.label() != archive.label() {
        stores.push(archive.clone());
    }
    for store in &stores {
        if let Ok(manifest) = snapshots::read(store, &base.manifest).await {
            check_major(&manifest, version)?;
        }
    }
    ui.note(&told);
    tell_outlook(&stores, &base.manifest, ui).await;
    Ok(())
}

/// A Snapshot, and nothing behind it.
async fn whole(
    source: &RestoreSource,
    snapshot: &Snapshot,
    store: &Store,
    version: &str,
    ui: &Ui,
) -> Result<(), CommandError> {
    let manifest = snapshots::read(store, &source.manifest)
        .await
        .map_err(|error| CommandError::Restore(error.into()))?;
    check_major(&manifest, version)?;
    let status = snapshot.status.as_ref();
    for line in lines(
        source,
        &manifest,
        status.and_then(|it| it.verification.as_deref()),
    ) {
        ui.note(&line);
    }
    if manifest.logical.is_some() {
        ui.note(
            "  how long that takes is not known: rows are loaded, and every index is made anew",
        );
        return Ok(());
    }
    tell_outlook(std::slice::from_ref(store), &source.manifest, ui).await;
    Ok(())
}

fn lines(
    source: &RestoreSource,
    manifest: &snapshots::Manifest,
    verification: Option<&Verification>,
) -> Vec<String> {
    let begin = format!(
        "{}/{} comes back as Snapshot {} holds it, complete at {}",
        manifest.namespace,
        manifest.database,
        manifest.snapshot,
        second(manifest.created)
    );
    let held = match &manifest.logical {
        None => format!(
            "{} of PostgreSQL {}, timeline {}",
            size(manifest.sizes.database_bytes),
            manifest.cluster.postgres_version,
            manifest.timeline
        ),
        Some(rows) => {
            let wanted = source.databases.as_ref();
            let part = wanted.map_or_else(String::new, |wanted| {
                format!("; of its databases {} alone", wanted.join(", "))
            });
            format!(
                "as SQL of PostgreSQL {}: {} databases, {} tables, {} rows{part}",
                manifest.cluster.postgres_version, rows.databases, rows.tables, rows.rows
            )
        }
    };
    let proof = verification.map_or_else(
        || {
            let (name, namespace) = (&manifest.snapshot, &source.namespace);
            format!("never verified: kubedb verify snap {name} -n {namespace} does it")
        },
        verified,
    );
    vec![begin, format!("  {held}"), format!("  {proof}")]
}

/// What is known of its data beyond that it was read back once.
fn verified(known: &Verification) -> String {
    let level = known.request.level;
    let when = known.completion_time.map(second);
    let when = when.map_or_else(String::new, |when| format!(" at {when}"));
    match known.phase {
        VerificationPhase::Succeeded => format!("verified ({level:?}){when}"),
        VerificationPhase::Failed if known.damaged => format!(
            "FOUND DAMAGED ({level:?}){when}: {}",
            known.reason.as_deref().unwrap_or_default()
        ),
        VerificationPhase::Failed => format!(
            "its verification failed ({level:?}){when}: {}",
            known.reason.as_deref().unwrap_or_default()
        ),
        VerificationPhase::Inconclusive => format!("its verification proved nothing{when}"),
        VerificationPhase::Pending | VerificationPhase::Running => {
            "being verified just now".to_owned()
        }
    }
}

/// A physical Snapshot comes back in its own major, a logical one in a later one too.
fn check_major(manifest: &snapshots::Manifest, version: &str) -> Result<(), CommandError> {
    let theirs = &manifest.cluster.major;
    let (Ok(wanted), Ok(held)) = (PgDialect::of(version), PgDialect::of(theirs)) else {
        return Ok(());
    };
    let (is_served, how) = if manifest.logical.is_some() {
        (
            wanted.number() >= held.number(),
            "that major or a later one",
        )
    } else {
        (wanted.number() == held.number(), "that major")
    };
    if is_served {
        return Ok(());
    }
    Err(CommandError::State {
        message: format!(
            "Snapshot {} holds PostgreSQL {}, and spec.version is {version}",
            manifest.snapshot, manifest.cluster.postgres_version
        ),
        hint: Some(format!(
            "give spec.version: {theirs}; it comes back in {how} alone"
        )),
    })
}
