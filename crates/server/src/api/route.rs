//! What a request asks for: path, query, verb.

use std::collections::HashMap;

use http::{Method, Uri};

use super::object::unparsable;
use super::resource::{self, Resource};
use super::status::{ApiError, Cause};

/// Query parameters looked at at most.
const MAX_PARAMETERS: usize = 64;

/// Part of an object that a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Main,
    Status,
    /// Only of a Namespace: its `spec.finalizers`.
    Finalize,
}

impl Part {
    /// As in RBAC: `postgreses/status`.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Main => "",
            Self::Status => "/status",
            Self::Finalize => "/finalize",
        }
    }
}

/// Objects of a resource.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) resource: &'static Resource,
    /// Empty for all namespaces and for cluster-scoped objects.
    pub(crate) namespace: String,
    /// Empty for a collection.
    pub(crate) name: String,
    pub(crate) part: Part,
}

/// What a path means.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    Objects(Target),
    /// `/healthz` and the like.
    Health,
    Version,
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/GROUP`
    Group(String),
    /// `/apis/GROUP/VERSION`
    Resources(String, String),
    /// `/openapi/v2`
    OldOpenApi,
    /// `/openapi/v3`
    OpenApiIndex,
    /// `/openapi/v3/apis/GROUP/VERSION`
    OpenApi(String, String),
}

impl Route {
    /// Reads a path.
    pub(crate) fn parse(uri: &Uri) -> Result<Self, ApiError> {
        let parts: Vec<String> = uri
            .path()
            .split('/')
            .filter(|part| !part.is_empty())
            .map(decode)
            .collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let route = match parts.as_slice() {
            ["healthz" | "livez" | "readyz", ..] => Self::Health,
            ["version"] => Self::Version,
            ["api"] => Self::CoreVersions,
            ["apis"] => Self::Groups,
            ["apis", group] => Self::Group((*group).to_owned()),
            ["api", version] => Self::Resources(String::new(), (*version).to_owned()),
            ["apis", group, version] => Self::Resources((*group).to_owned(), (*version).to_owned()),
            ["openapi", "v2"] => Self::OldOpenApi,
            ["openapi", "v3"] => Self::OpenApiIndex,
            ["openapi", "v3", "api", version] => {
                Self::OpenApi(String::new(), (*version).to_owned())
            }
            ["openapi", "v3", "apis", group, version] => {
                Self::OpenApi((*group).to_owned(), (*version).to_owned())
            }
            ["api", version, rest @ ..] => Self::Objects(target("", version, rest)?),
            ["apis", group, version, rest @ ..] => Self::Objects(target(group, version, rest)?),
            _ => return Err(ApiError::no_page()),
        };
        Ok(route)
    }
}

/// What is said of a path in a group: only groups of Kubernetes itself answer with a `Status`.
pub(crate) fn absent(group: &str) -> ApiError {
    let known = resource::all()
        .iter()
        .any(|one| one.group == group && !one.custom);
    if known {
        ApiError::no_such_path()
    } else {
        ApiError::no_page()
    }
}

fn target(group: &str, version: &str, rest: &[&str]) -> Result<Target, ApiError> {
    // `namespaces/x/status` is a part of the Namespace, `namespaces/x/secrets` are the Secrets in it.
    let (namespace, rest) = match rest {
        ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => ("", rest),
        ["namespaces", namespace, inner @ ..] if !inner.is_empty() => (*namespace, inner),
        _ => ("", rest),
    };
    let (plural, name, part) = match rest {
        [plural] => (*plural, "", ""),
        [plural, name] => (*plural, *name, ""),
        [plural, name, part] => (*plural, *name, *part),
        _ => return Err(absent(group)),
    };
    let resource = resource::find(group, version, plural).ok_or_else(|| absent(group))?;
    let part = match part {
        "" => Part::Main,
        "status" if resource.status => Part::Status,
        "finalize" if resource.is_namespace() => Part::Finalize,
        _ if resource.custom => return Err(ApiError::not_found(resource, name)),
        _ => return Err(ApiError::no_such_path()),
    };
    let scoped = !namespace.is_empty();
    if scoped != resource.namespaced && (scoped || !name.is_empty()) {
        return Err(absent(group));
    }
    Ok(Target {
        resource,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        part,
    })
}

/// What is to be done with objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    /// As in RBAC.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }

    /// The verb of a request; an error when its method means nothing for the target.
    pub(crate) fn of(method: &Method, target: &Target, query: &Query) -> Result<Self, ApiError> {
        let named = !target.name.is_empty();
        let scoped = !target.namespace.is_empty() || !target.resource.namespaced;
        let verb = match *method {
            // A name in the path makes it a read, whatever the query says.
            Method::GET | Method::HEAD if named => Self::Get,
            Method::GET | Method::HEAD if query.flag("watch") => Self::Watch,
            Method::GET | Method::HEAD => Self::List,
            Method::POST if !named && scoped => Self::Create,
            Method::PUT if named => Self::Update,
            Method::PATCH if named && target.part != Part::Finalize => Self::Patch,
            Method::DELETE if named && target.part == Part::Main => Self::Delete,
            Method::DELETE if !named && scoped && !target.resource.is_namespace() => {
                Self::DeleteCollection
            }
            _ if target.resource.custom => {
                let method = match *method {
                    Method::PUT | Method::PATCH if !named => {
                        return Err(ApiError::bad_request("name must be provided"));
                    }
                    Method::POST => "create",
                    Method::PUT => "update",
                    Method::PATCH => "patch",
                    Method::DELETE => "delete",
                    ref other => {
                        return Err(ApiError::unsupported(target.resource, other.as_str()));
                    }
                };
                return Err(ApiError::unsupported(target.resource, method));
            }
            _ => return Err(ApiError::method_not_allowed()),
        };
        Ok(verb)
    }
}

/// Query parameters; the first of a name counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(HashMap<String, String>);

impl Query {
    pub(crate) fn parse(uri: &Uri) -> Self {
        let mut map = HashMap::new();
        for pair in uri
            .query()
            .unwrap_or_default()
            .split('&')
            .take(MAX_PARAMETERS)
        {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            map.entry(decode(name))
                .or_insert_with(|| decode(&value.replace('+', " ")));
        }
        Self(map)
    }

    /// Empty when absent.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// Whether it was told at all.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Anything but a no.
    pub(crate) fn is_true(&self, name: &str) -> bool {
        !matches!(self.text(name), "0" | "false")
    }

    /// `true`, `1` or present without a value.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.0
            .get(name)
            .is_some_and(|value| matches!(value.as_str(), "" | "1" | "true" | "True" | "t"))
    }

    /// A number; `None` when absent. A negative one counts as none.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.0.get(name) else {
            return Ok(None);
        };
        match text.parse::<i64>() {
            Ok(number) => Ok(u64::try_from(number).ok()),
            Err(_) => Err(ApiError::bad_request(unparsable("ParseInt", text))),
        }
    }

    /// Reads the options of a change, which are an object of `kind`; whether nothing is to be stored.
    pub(crate) fn change(&self, kind: &str) -> Result<bool, ApiError> {
        let dry_run = match self.text("dryRun") {
            "" => false,
            "All" => true,
            other => return Err(unknown_dry_run(kind, other)),
        };
        let mode = self.text("fieldValidation");
        if matches!(mode, "" | "Ignore" | "Strict" | "Warn") {
            return Ok(dry_run);
        }
        let known = ["", "Ignore", "Strict", "Warn"];
        let cause = Cause::unsupported("fieldValidation", &format!("{mode:?}"), &known);
        Err(ApiError::invalid_options(kind, cause))
    }
}

/// `dryRun` knows one word.
pub(crate) fn unknown_dry_run(kind: &str, word: &str) -> ApiError {
    let cause = Cause::unsupported("dryRun", &format!("[{word:?}]"), &["All"]);
    ApiError::invalid_options(kind, cause)
}

/// Percent decoding; what is not UTF-8 becomes a replacement character, which no name has.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let hex = (bytes[index] == b'%')
            .then(|| text.get(index + 1..index + 3))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(hex.unwrap_or(bytes[index]));
        index += if hex.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(path: &str) -> Option<(String, String, String, Part)> {
        match Route::parse(&path.parse().unwrap()) {
            Ok(Route::Objects(target)) => Some((
                target.resource.qualified(),
                target.namespace,
                target.name,
                target.part,
            )),
            _ => None,
        }
    }

    #[test]
    fn tells_namespaces_from_what_is_in_them() {
        let found = |resource: &str, namespace: &str, name: &str, part| {
            Some((
                resource.to_owned(),
                namespace.to_owned(),
                name.to_owned(),
                part,
            ))
        };
        assert_eq!(
            objects("/api/v1/namespaces/a"),
            found("namespaces", "", "a", Part::Main)
        );
        assert_eq!(
            objects("/api/v1/namespaces/a/status"),
            found("namespaces", "", "a", Part::Status)
        );
        assert_eq!(
            objects("/api/v1/namespaces/a/secrets"),
            found("secrets", "a", "", Part::Main)
        );
        assert_eq!(
            objects("/apis/kubedb.com/v1alpha1/namespaces/a/postgreses/p/status"),
            found("postgreses.kubedb.com", "a", "p", Part::Status)
        );
        assert_eq!(
            objects("/apis/kubedb.com/v1alpha1/postgreses"),
            found("postgreses.kubedb.com", "", "", Part::Main)
        );
        for wrong in [
            "/api/v1/pods",
            "/api/v1/secrets/x",
            "/api/v1/namespaces/a/secrets/s/status",
            "/apis/catalog.kubedb.com/v1alpha1/namespaces/a/postgresversions",
            "/apis/kubedb.com/v1/postgreses",
        ] {
            assert_eq!(objects(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn decodes_queries() {
        let query = Query::parse(
            &"/x?labelSelector=a%3Db%2Cc&limit=5&watch=1&f=%zz"
                .parse()
                .unwrap(),
        );
        assert_eq!(query.text("labelSelector"), "a=b,c");
        assert_eq!(query.number("limit").unwrap(), Some(5));
        assert!(query.flag("watch") && !query.flag("other"));
        assert_eq!(query.text("f"), "%zz");
        assert!(query.number("f").is_err());
    }
}
