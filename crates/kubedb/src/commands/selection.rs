//! Which objects `TYPE`, `TYPE NAME…` and `TYPE/NAME…` mean.

use clap::Args;
use kube::{
    api::ListParams,
    core::{DynamicObject, TypeMeta},
};

use crate::{
    client::{
        DEFAULT_NAMESPACE, Session,
        kinds::{ALL, Kind, parse_kind, parse_kinds},
    },
    error::CommandError,
};

/// Objects asked for at once: a page of this size stays below the body limits of servers.
const PAGE: u32 = 500;
/// A million objects; a server that goes on beyond is in error.
const MOST_PAGES: usize = 2_000;

/// The namespace of a command.
#[derive(Args, Clone, Debug)]
pub(crate) struct NamespaceArgs {
    /// Namespace
    #[arg(short, long, value_name = "NAME", default_value = DEFAULT_NAMESPACE, value_parser = namespace)]
    pub(crate) namespace: String,
}

/// Reads `-n`.
pub(crate) fn namespace(text: &str) -> Result<String, String> {
    if is_name(text) && !text.contains('.') {
        Ok(text.to_owned())
    } else {
        Err("a namespace has only lower-case letters, digits and hyphens".to_owned())
    }
}

/// Whether an object can be called so. Anything else would lead to another address of the server.
fn is_name(text: &str) -> bool {
    let is_inner = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    text.bytes().all(is_inner) && text.bytes().any(|byte| byte.is_ascii_alphanumeric())
}

/// Refuses what no object can be called.
pub(crate) fn check_name(name: &str) -> Result<(), CommandError> {
    if is_name(name) {
        return Ok(());
    }
    let message = format!(
        "{name:?} is no name: names have only lower-case letters, digits, hyphens and dots"
    );
    Err(CommandError::usage(message))
}

/// What was selected.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// All objects of these kinds.
    Kinds(Vec<&'static Kind>),
    /// Single objects.
    Named(Vec<(&'static Kind, String)>),
}

impl Selection {
    /// Reads the arguments of `verb`.
    pub(crate) fn parse(arguments: &[String], verb: &str) -> Result<Self, CommandError> {
        let Some((first, names)) = arguments.split_first() else {
            let types: Vec<String> = ALL
                .iter()
                .map(|kind| format!("\n  * {} ({})", kind.plural, kind.short))
                .collect();
            return Err(CommandError::usage(format!(
                "Required resource not specified.\nYou must specify the type of resource to {verb}. Valid resource types include:\n  * all{}",
                types.concat()
            )));
        };
        if arguments.iter().any(|argument| argument.contains('/')) {
            let pairs = arguments.iter().map(|argument| parse_pair(argument));
            return Ok(Self::Named(pairs.collect::<Result<_, _>>()?));
        }
        let kinds = parse_kinds(first)?;
        names.iter().try_for_each(|name| check_name(name))?;
        if names.is_empty() {
            return Ok(Self::Kinds(kinds));
        }
        let named = kinds
            .into_iter()
            .flat_map(|kind| names.iter().map(move |name| (kind, name.clone())));
        Ok(Self::Named(named.collect()))
    }

    /// The kinds in it, without doubles.
    pub(crate) fn kinds(&self) -> Vec<&'static Kind> {
        let mut kinds = Vec::new();
        match self {
            Self::Kinds(all) => kinds.extend(all),
            Self::Named(named) => {
                for (kind, _) in named {
                    if !kinds.contains(kind) {
                        kinds.push(kind);
                    }
                }
            }
        }
        kinds
    }
}

fn parse_pair(argument: &str) -> Result<(&'static Kind, String), CommandError> {
    match argument.split_once('/') {
        Some((kind, name)) if !name.is_empty() && !name.contains('/') => {
            let kind = parse_kind(kind)?;
            check_name(name)?;
            Ok((kind, name.to_owned()))
        }
        _ => Err(CommandError::usage(format!(
            "there is no need to specify a resource type as a separate argument when passing arguments in resource/name form: {argument:?} is not TYPE/NAME"
        ))),
    }
}

/// Lists all objects, page by page, and gives the version of the list for a watch to start at.
pub(crate) async fn list(
    session: &Session,
    kind: &'static Kind,
    namespace: Option<&str>,
    parameters: &ListParams,
) -> Result<(Vec<DynamicObject>, Option<String>), CommandError> {
    let api = session.api(kind, namespace);
    let mut parameters = parameters.clone().limit(PAGE);
    let mut objects = Vec::new();
    for _ in 0..MOST_PAGES {
        let page = api
            .list(&parameters)
            .await
            .map_err(|error| session.fail(error, None))?;
        objects.extend(
            page.items
                .into_iter()
                .map(|object| with_types(object, kind)),
        );
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters.continue_token = Some(token),
            None => return Ok((objects, page.metadata.resource_version)),
        }
    }
    Err(CommandError::State {
        message: format!(
            "failed to list {}: more than {MOST_PAGES} pages",
            kind.plural
        ),
        hint: None,
    })
}

/// Gets one object.
pub(crate) async fn get(
    session: &Session,
    kind: &'static Kind,
    namespace: &str,
    name: &str,
) -> Result<DynamicObject, CommandError> {
    let object = session.api(kind, Some(namespace)).get(name).await;
    let object = object.map_err(|error| session.fail(error, None))?;
    Ok(with_types(object, kind))
}

/// Servers leave `apiVersion` and `kind` out of the items of some lists.
pub(crate) fn with_types(mut object: DynamicObject, kind: &Kind) -> DynamicObject {
    object.types.get_or_insert_with(|| TypeMeta {
        api_version: kind.api_resource().api_version,
        kind: kind.kind.to_owned(),
    });
    object.metadata.managed_fields = None;
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::kinds::{POSTGRES, SNAPSHOT};

    fn parse(arguments: &[&str]) -> Result<Selection, CommandError> {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        Selection::parse(&arguments, "get")
    }

    #[test]
    fn the_three_forms_are_read() {
        let both = Selection::Kinds(vec![&POSTGRES, &SNAPSHOT]);
        assert_eq!(parse(&["pg,snap"]).unwrap(), both);
        let named = |name: &str| (&POSTGRES, name.to_owned());
        let two = Selection::Named(vec![named("a"), named("b")]);
        assert_eq!(parse(&["pg", "a", "b"]).unwrap(), two);
        assert_eq!(parse(&["pg/a", "postgres/b"]).unwrap(), two);
        assert_eq!(two.kinds(), [&POSTGRES]);
    }

    #[test]
    fn namespaces_are_checked_before_they_are_sent() {
        assert_eq!(namespace("2nd-team"), Ok("2nd-team".to_owned()));
        for wrong in ["", "a/b", "Demo", "a.b", "-"] {
            assert!(namespace(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn mixed_forms_and_nothing_are_usage_errors() {
        for wrong in [
            &["pg", "pg/a"][..],
            &["pg/"],
            &["pg/a/b"],
            &[],
            &["pg", ""],
            &["pg", "a?b"],
            &["pg", "A"],
            &["pg", ".."],
            &["pg/a b"],
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(
                matches!(error, CommandError::Usage { .. }),
                "{wrong:?}: {error}"
            );
        }
        assert!(
            parse(&[])
                .unwrap_err()
                .to_string()
                .contains("snapshots (snap)")
        );
    }
}
