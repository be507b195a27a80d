//! Get and list.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::resource::Resource;
use super::route::{Query, Target};
use super::selector::Selector;
use super::status::ApiError;
use crate::storage::{Objects, Store};

/// Part of a list.
#[derive(Debug)]
pub(crate) struct Page {
    /// What the list was read at.
    pub(crate) revision: u64,
    /// Token of the next part; empty for the last.
    pub(crate) next: String,
    /// Objects after this part, where known.
    pub(crate) remaining: Option<usize>,
    /// In the stored form.
    pub(crate) objects: Vec<Arc<Value>>,
}

/// What a continue token says. It is not secret: it only names a revision and the last object told.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    revision: u64,
    namespace: String,
    name: String,
}

impl Token {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn decode(text: &str) -> Result<Self, ApiError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        bytes
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(|| ApiError::bad_request("continue key is not valid"))
    }
}

/// One object.
pub(crate) fn get(store: &Store, target: &Target) -> Result<Arc<Value>, ApiError> {
    let key = target.resource.key(&target.namespace, &target.name);
    store
        .get(&key)
        .ok_or_else(|| ApiError::not_found(target.resource, &target.name))
}

/// The objects of a collection that a selector selects.
pub(crate) fn list(
    store: &Store,
    target: &Target,
    query: &Query,
    selector: &Selector,
) -> Result<Page, ApiError> {
    let token = match query.text("continue") {
        "" => None,
        text => Some(Token::decode(text)?),
    };
    let (revision, mut objects) = objects(store, target, query, token.as_ref())?;
    if let Some(token) = &token {
        let told = (token.namespace.as_str(), token.name.as_str());
        objects.retain(|(key, _)| (key.namespace.as_str(), key.name.as_str()) > told);
    }
    if !selector.is_empty() {
        objects.retain(|(_, object)| selector.matches(object));
    }
    let limit = match query.number("limit")? {
        None | Some(0) => usize::MAX,
        Some(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let rest = objects.len().saturating_sub(limit);
    objects.truncate(limit);
    let next = match objects.last() {
        Some((key, _)) if rest > 0 => Token {
            revision,
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        }
        .encode(),
        _ => String::new(),
    };
    Ok(Page {
        revision,
        remaining: (rest > 0 && selector.is_empty()).then_some(rest),
        next,
        objects: objects.into_iter().map(|(_, object)| object).collect(),
    })
}

/// All objects of the collection, now or at the revision that the request names.
fn objects(
    store: &Store,
    target: &Target,
    query: &Query,
    token: Option<&Token>,
) -> Result<(u64, Objects), ApiError> {
    let resource = target.resource;
    let (group, plural) = (resource.stored_group(), resource.plural.as_str());
    let wanted = revision(query)?;
    let exact = query.text("resourceVersionMatch") == "Exact";
    let at = match token {
        Some(token) => Some(token.revision),
        None if exact => wanted.filter(|wanted| *wanted > 0),
        None => None,
    };
    if let Some(wanted) = at.or(wanted) {
        let current = store.revision();
        if wanted > current {
            return Err(ApiError::too_large_revision(wanted, current));
        }
    }
    match at {
        Some(at) => Ok((at, store.list_at(at, group, plural, &target.namespace)?)),
        None => Ok(store.list(group, plural, &target.namespace)),
    }
}

/// The `resourceVersion` of a request; `None` for none.
pub(crate) fn revision(query: &Query) -> Result<Option<u64>, ApiError> {
    match query.text("resourceVersion") {
        "" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| ApiError::bad_request(format!("invalid resource version {text:?}"))),
    }
}

/// Metadata of a list.
pub(crate) fn list_metadata(page: &Page) -> Value {
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if !page.next.is_empty() {
        metadata["continue"] = page.next.as_str().into();
    }
    if let Some(remaining) = page.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    metadata
}

/// `kind` of a list.
pub(crate) fn list_kind(resource: &Resource) -> String {
    format!("{}List", resource.kind)
}
