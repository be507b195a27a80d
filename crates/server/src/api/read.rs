//! Get and list.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::object::unparsable;
use super::resource::Resource;
use super::route::{Query, Target};
use super::selector::Selector;
use super::status::{ApiError, Cause};
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
    /// 0 for a list that goes on with what is there now.
    revision: u64,
    namespace: String,
    name: String,
}

impl Token {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// The same place in the list as it is when it is asked for.
    fn as_of_now(&self) -> String {
        let now = Self {
            revision: 0,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        };
        now.encode()
    }

    fn decode(text: &str) -> Result<Self, ApiError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        bytes
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(|| {
                ApiError::bad_request("invalid continue token: continue key is not valid")
            })
    }
}

/// One object.
pub(crate) fn get(store: &Store, target: &Target, query: &Query) -> Result<Arc<Value>, ApiError> {
    if let Some(wanted) = revision(query)? {
        not_later(store, wanted)?;
    }
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
    check_match(query, false)?;
    let token = match query.text("continue") {
        "" => None,
        _ if !matches!(query.text("resourceVersion"), "" | "0") => {
            let why = "specifying resource version is not allowed when using continue";
            return Err(ApiError::bad_request(why));
        }
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
        Some(token) => Some(token.revision).filter(|revision| *revision > 0),
        None if exact => wanted.filter(|wanted| *wanted > 0),
        None => None,
    };
    if let Some(wanted) = at.or(wanted) {
        not_later(store, wanted)?;
    }
    match at {
        Some(at) => match (store.list_at(at, group, plural, &target.namespace), token) {
            (Ok(objects), _) => Ok((at, objects)),
            (Err(_), Some(token)) => Err(ApiError::expired_continue(token.as_of_now())),
            (Err(compacted), None) => Err(compacted.into()),
        },
        None => Ok(store.list(group, plural, &target.namespace)),
    }
}

pub(crate) fn not_later(store: &Store, wanted: u64) -> Result<(), ApiError> {
    let current = store.revision();
    if wanted > current {
        return Err(ApiError::too_large_revision(wanted, current));
    }
    Ok(())
}

/// The `resourceVersion` of a request; `None` for none.
pub(crate) fn revision(query: &Query) -> Result<Option<u64>, ApiError> {
    parse_revision(query)
        .map_err(|why| ApiError::bad_request(format!("invalid resource version: {why}")))
}

/// The same, with the bare reason when it is none.
pub(crate) fn parse_revision(query: &Query) -> Result<Option<u64>, String> {
    match query.text("resourceVersion") {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            let why = unparsable("ParseUint", text);
            format!("resourceVersion: Invalid value: {text:?}: {why}")
        }),
    }
}

/// Checks how a list or watch wants its version matched, and whether a watch wants a list first.
pub(crate) fn check_match(query: &Query, is_watch: bool) -> Result<(), ApiError> {
    let (version, how) = (
        query.text("resourceVersion"),
        query.text("resourceVersionMatch"),
    );
    let told = query.has("sendInitialEvents");
    let field = "resourceVersionMatch";
    let forbidden = |why: &str| Cause::forbidden(field, why);
    let unsupported = |known: &[&str]| Cause::unsupported(field, &format!("{how:?}"), known);
    let mut causes = Vec::new();
    let mut say = |holds: bool, cause: Cause| causes.extend(holds.then_some(cause));
    if is_watch {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        say(told && how != "NotOlderThan", forbidden(why));
        let known = matches!(how, "" | "NotOlderThan");
        say(told && !known, unsupported(&["NotOlderThan"]));
        let why =
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
        say(!told && !how.is_empty(), forbidden(why));
    } else {
        if !how.is_empty() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            say(version.is_empty(), forbidden(why));
            let why = "resourceVersionMatch is forbidden when continue is provided";
            say(!query.text("continue").is_empty(), forbidden(why));
            let known = matches!(how, "Exact" | "NotOlderThan");
            say(!known, unsupported(&["Exact", "NotOlderThan", ""]));
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            say(how == "Exact" && version == "0", forbidden(why));
        }
        let why = "sendInitialEvents is forbidden for list";
        say(told, Cause::forbidden("sendInitialEvents", why));
    }
    if causes.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid_kind(
            "meta.k8s.io",
            "ListOptions",
            "",
            &causes,
        ))
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
