//! Watches: changes after a revision, as a stream of JSON lines.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, stream};
use rand::RngExt;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use super::format::Format;
use super::read;
use super::resource::Resource;
use super::route::{Query, Target};
use super::selector::Selector;
use super::status::ApiError;
use crate::storage::{Change, ChangeKind, Compacted, Store};

/// Changes read at once: what a slow client can make us hold, beside the log that is held anyway.
const BATCH: usize = 64;
/// Time between bookmarks, as in kube-apiserver.
const BOOKMARK: Duration = Duration::from_secs(60);
/// Shortest life of a watch that names none; the longest is twice that. As in kube-apiserver.
const MIN_TIMEOUT: u64 = 1800;

/// What a watch sends, and where it stands.
struct Watcher {
    /// Weak: a client that holds its watch does not keep the storage open.
    store: Weak<Store>,
    woken: watch::Receiver<u64>,
    resource: &'static Resource,
    namespace: String,
    selector: Selector,
    format: Format,
    bookmarks: bool,
    /// Everything up to here was looked at.
    position: u64,
    /// What is sent already in its form, one event each.
    queue: VecDeque<Bytes>,
    next_bookmark: Instant,
    deadline: Instant,
    first: bool,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

/// Starts a watch.
pub(crate) fn watch(
    store: &Arc<Store>,
    target: &Target,
    query: &Query,
    selector: Selector,
    format: Format,
    permit: OwnedSemaphorePermit,
) -> Result<impl Stream<Item = Result<Bytes, Infallible>> + Send + use<>, ApiError> {
    read::check_match(query, true)?;
    let timeout = match query.number("timeoutSeconds")? {
        None | Some(0) => rand::rng().random_range(MIN_TIMEOUT..2 * MIN_TIMEOUT),
        Some(seconds) => seconds.min(24 * 3600),
    };
    let woken = store.subscribe();
    let now = Instant::now();
    let mut watcher = Watcher {
        store: Arc::downgrade(store),
        woken,
        resource: target.resource,
        namespace: target.namespace.clone(),
        selector,
        format,
        bookmarks: query.flag("allowWatchBookmarks"),
        position: 0,
        queue: VecDeque::new(),
        next_bookmark: now + BOOKMARK,
        deadline: now + Duration::from_secs(timeout),
        first: true,
        ended: false,
        _permit: permit,
    };
    let version = read::parse_revision(query).map_err(|why| ApiError::unexplained(&why))?;
    let begins_with_list = query.has("sendInitialEvents") && query.is_true("sendInitialEvents");
    if begins_with_list {
        if let Some(wanted) = version {
            read::not_later(store, wanted)?;
        }
        watcher.start_with_everything(store);
        if watcher.bookmarks {
            watcher.mark(true);
        }
        return Ok(stream(watcher));
    }
    match version {
        None | Some(0) => watcher.start_with_everything(store),
        Some(wanted) => {
            let current = store.revision();
            if wanted > current {
                return Err(ApiError::too_large_revision(wanted, current));
            }
            watcher.position = wanted;
        }
    }
    Ok(stream(watcher))
}

fn stream(watcher: Watcher) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + use<> {
    stream::unfold(watcher, |mut watcher| async move {
        let bytes = watcher.next().await?;
        Some((Ok(bytes), watcher))
    })
}

impl Watcher {
    fn start_with_everything(&mut self, store: &Store) {
        let resource = self.resource;
        let (revision, objects) =
            store.list(resource.stored_group(), &resource.plural, &self.namespace);
        self.position = revision;
        for (_, object) in objects {
            if self.selector.matches(&object) {
                self.push("ADDED", &object);
            }
        }
    }

    /// The next event; `None` at the end of the watch.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.queue.pop_front() {
                return Some(bytes);
            }
            if self.ended {
                return None;
            }
            // Marked as seen before the log is read, so that a change in between wakes us again.
            self.woken.mark_unchanged();
            if self.read()? {
                continue;
            }
            tokio::select! {
                changed = self.woken.changed() => changed.ok()?,
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => self.bookmark(),
                () = tokio::time::sleep_until(self.deadline) => {
                    self.ended = true;
                    if self.bookmarks {
                        self.bookmark();
                    }
                }
            }
        }
    }

    /// Reads a batch of changes; whether there was any. `None` when the storage is gone.
    fn read(&mut self) -> Option<bool> {
        let changes = self.store.upgrade()?.changes(self.position, BATCH);
        match changes {
            Ok(changes) => {
                for change in &changes {
                    self.position = change.revision;
                    self.look_at(change);
                }
                Some(!changes.is_empty())
            }
            Err(Compacted { oldest }) => {
                let message = format!("too old resource version: {} ({oldest})", self.position);
                let status = ApiError::expired(message).to_value();
                self.push_raw("ERROR", status);
                self.ended = true;
                Some(true)
            }
        }
    }

    fn look_at(&mut self, change: &Change) {
        let key = &change.key;
        let elsewhere = key.resource != self.resource.plural
            || key.group != self.resource.stored_group()
            || (!self.namespace.is_empty() && key.namespace != self.namespace)
            || self.selector.name().is_some_and(|name| key.name != name);
        if elsewhere {
            return;
        }
        let is = self.selector.matches(&change.object);
        let was = change.old.as_ref().map(|old| self.selector.matches(old));
        match (change.kind, was, is) {
            (ChangeKind::Added, _, true) => self.push("ADDED", &change.object),
            (ChangeKind::Modified, Some(false), true) => self.push("ADDED", &change.object),
            (ChangeKind::Modified, _, true) => self.push("MODIFIED", &change.object),
            // It left the selection: to this watch it is gone, as it was, at the revision of the change.
            (ChangeKind::Modified, Some(true), false) => {
                if let Some(old) = &change.old {
                    let mut last = Value::clone(old);
                    last["metadata"]["resourceVersion"] = change.revision.to_string().into();
                    self.push("DELETED", &Arc::new(last));
                }
            }
            (ChangeKind::Modified, None, false) => self.push("DELETED", &change.object),
            (ChangeKind::Deleted, was, is) if was.unwrap_or(is) => {
                self.push("DELETED", &change.object);
            }
            _ => {}
        }
    }

    fn push(&mut self, kind: &str, object: &Arc<Value>) {
        let value = self.format.event(self.resource, object, self.first);
        self.first = false;
        self.push_raw(kind, value);
    }

    fn push_raw(&mut self, kind: &str, object: Value) {
        let mut line = json!({"type": kind, "object": object}).to_string();
        line.push('\n');
        self.queue.push_back(Bytes::from(line));
    }

    fn bookmark(&mut self) {
        self.mark(false);
    }

    /// Tells where the watch stands; the first mark after a list says that the list is complete.
    fn mark(&mut self, ends_list: bool) {
        self.next_bookmark = Instant::now() + BOOKMARK;
        let mut metadata = json!({"resourceVersion": self.position.to_string()});
        if ends_list {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.format {
            Format::Plain => json!({
                "kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": metadata,
            }),
            Format::Metadata => json!({
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            }),
            // A row of an object that has nothing but its metadata.
            Format::Table(_) => {
                let object = Arc::new(json!({"metadata": metadata}));
                self.format.event(self.resource, &object, false)
            }
        };
        self.push_raw("BOOKMARK", object);
    }
}
