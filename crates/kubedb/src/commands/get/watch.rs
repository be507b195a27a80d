//! `kubedb get --watch`: changed rows, until Ctrl-C.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, pin_mut};
use kube::{
    api::{ListParams, WatchParams},
    core::{DynamicObject, WatchEvent},
};

use super::{GetArgs, Group, Printer};
use crate::{
    client::{Session, kinds::Kind},
    commands::selection::{self, Selection, with_types},
    error::CommandError,
    ui::Ui,
};

/// Servers end watches after some minutes; ours ask for less than the client's 295 s limit.
const WATCH_SECONDS: u32 = 290;
/// Failures in a row before giving up: with pauses of up to 8 s half a minute, a server's restart.
const MOST_FAILURES: u32 = 8;
/// The first pause; each is twice the one before, up to 32 times this.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// 8 s.
const MOST_DOUBLINGS: u32 = 5;

/// A watch that lasted this long worked.
const HEALTHY: Duration = Duration::from_secs(10);
/// Pause between two watches.
const BREATH: Duration = Duration::from_millis(250);

/// Versions of the objects printed so far, by namespace and name: a relist prints only what changed.
type Seen = HashMap<(Option<String>, Option<String>), Option<String>>;

pub(super) async fn run(
    session: &Session,
    groups: Vec<Group>,
    selection: &Selection,
    arguments: &GetArgs,
    printer: &mut Printer,
    ui: &Ui,
) -> Result<(), CommandError> {
    let Some(group) = groups.first() else {
        return Ok(());
    };
    let watched = Watched {
        session,
        kind: group.kind,
        arguments,
        selection,
    };
    printer.print_all(&groups, true, ui)?;
    let mut seen: Seen = group.objects.iter().map(key_and_version).collect();
    let forever = watched.follow(group.version.clone(), &mut seen, printer, ui);
    tokio::select! {
        result = forever => result,
        // Ctrl-C is how a watch ends; it is no failure.
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

struct Watched<'a> {
    session: &'a Session,
    kind: &'static Kind,
    arguments: &'a GetArgs,
    selection: &'a Selection,
}

impl Watched<'_> {
    async fn follow(
        &self,
        start: Option<String>,
        seen: &mut Seen,
        printer: &mut Printer,
        ui: &Ui,
    ) -> Result<(), CommandError> {
        // Single objects come without a list's version: list once, print what changed meanwhile.
        let mut version = match start {
            Some(version) => version,
            None => self.relist(seen, printer, ui).await?,
        };
        let (mut failures, mut is_old) = (0, false);
        while !ui.nobody_reads() {
            let started = Instant::now();
            let result = if is_old {
                let listed = self.relist(seen, printer, ui).await;
                listed.map(|newer| version = newer)
            } else {
                self.watch_once(&mut version, seen, printer, ui).await
            };
            if started.elapsed() > HEALTHY {
                failures = 0;
            }
            match result {
                // A server that ends watches at once must not be asked without a breath.
                Ok(()) => {
                    is_old = false;
                    tokio::time::sleep(BREATH).await;
                }
                // The server no longer knows what came after this version: only a list tells.
                Err(error) if error.status_code() == Some(410) => is_old = true,
                Err(error) if is_passing(&error) && failures < MOST_FAILURES => {
                    if failures == 0 {
                        ui.note(&format!("{error}: trying again"));
                    }
                    tokio::time::sleep(FIRST_PAUSE * (1 << failures.min(MOST_DOUBLINGS))).await;
                    failures += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn namespace(&self) -> Option<&str> {
        (!self.arguments.all_namespaces).then_some(&*self.arguments.namespace.namespace)
    }

    fn is_wanted(&self, object: &DynamicObject) -> bool {
        match self.selection {
            Selection::Kinds(_) => true,
            Selection::Named(named) => named
                .iter()
                .any(|(_, name)| object.metadata.name.as_ref() == Some(name)),
        }
    }

    async fn relist(
        &self,
        seen: &mut Seen,
        printer: &mut Printer,
        ui: &Ui,
    ) -> Result<String, CommandError> {
        let parameters = ListParams {
            label_selector: self.arguments.selector.clone(),
            ..ListParams::default()
        };
        let (objects, version) =
            selection::list(self.session, self.kind, self.namespace(), &parameters).await?;
        for object in &objects {
            self.show(object, seen, printer, ui)?;
        }
        Ok(version.unwrap_or_default())
    }

    fn show(
        &self,
        object: &DynamicObject,
        seen: &mut Seen,
        printer: &mut Printer,
        ui: &Ui,
    ) -> Result<(), CommandError> {
        let (key, version) = key_and_version(object);
        let known = seen.get(&key) == Some(&version);
        if known || !self.is_wanted(object) {
            return Ok(());
        }
        seen.insert(key, version);
        printer.print_change(self.kind, object, ui)
    }

    /// Prints changes until the server ends the watch.
    async fn watch_once(
        &self,
        version: &mut String,
        seen: &mut Seen,
        printer: &mut Printer,
        ui: &Ui,
    ) -> Result<(), CommandError> {
        let mut parameters = WatchParams::default().timeout(WATCH_SECONDS);
        parameters.label_selector = self.arguments.selector.clone();
        let api = self.session.api(self.kind, self.namespace());
        let stream = api.watch(&parameters, version).await;
        let stream = stream.map_err(|error| self.session.fail(error, None))?;
        pin_mut!(stream);
        while let Some(event) = stream.next().await {
            if ui.nobody_reads() {
                break;
            }
            match event.map_err(|error| self.session.fail(error, None))? {
                WatchEvent::Bookmark(bookmark) => *version = bookmark.metadata.resource_version,
                WatchEvent::Error(status) => {
                    return Err(self.session.fail(kube::Error::Api(status), None));
                }
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let object = with_types(object, self.kind);
                    advance(version, &object);
                    self.show(&object, seen, printer, ui)?;
                }
                WatchEvent::Deleted(object) => {
                    let object = with_types(object, self.kind);
                    advance(version, &object);
                    if seen.remove(&key_and_version(&object).0).is_some() {
                        printer.print_change(self.kind, &object, ui)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// What a server says, or does not say, while it starts or stops.
fn is_passing(error: &CommandError) -> bool {
    matches!(error, CommandError::ReachServer { .. })
        || matches!(error.status_code(), Some(429 | 500 | 503 | 504))
}

fn advance(version: &mut String, object: &DynamicObject) {
    if let Some(newer) = &object.metadata.resource_version {
        version.clone_from(newer);
    }
}

fn key_and_version(object: &DynamicObject) -> ((Option<String>, Option<String>), Option<String>) {
    let metadata = &object.metadata;
    let key = (metadata.namespace.clone(), metadata.name.clone());
    (key, metadata.resource_version.clone())
}
