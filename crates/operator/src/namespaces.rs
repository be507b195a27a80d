//! The namespaces that an operator is for. However many they are, of each kind they are told of as by one watch.

use std::collections::{HashMap, HashSet};

use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use kube::{
    Api, ResourceExt as _,
    core::NamespaceResourceScope,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;

/// Namespaces; all where none is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespaces(Vec<String>);

impl<S: Into<String>> FromIterator<S> for Namespaces {
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> Self {
        let mut names: Vec<String> = names.into_iter().map(Into::into).collect();
        names.sort();
        names.dedup();
        Self(names)
    }
}

/// What a watch tells.
pub(crate) type Events<K> = BoxStream<'static, Result<Event<K>, watcher::Error>>;

impl Namespaces {
    /// Watches a kind in them. One that fails begins anew after a pause, and keeps none of the others.
    ///
    /// `known` says what there was in a namespace when it was last told of, as much of it as whoever hears of its end needs.
    pub(crate) fn watch<K>(
        &self,
        config: &watcher::Config,
        api: impl Fn(Option<&str>) -> Api<K>,
        known: impl Fn(&str) -> Vec<K> + Send + 'static,
    ) -> Events<K>
    where
        K: kube::Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
    {
        let one = |api: Api<K>| watcher(api, config.clone()).default_backoff();
        let names = match self.0.as_slice() {
            [] => return one(api(None)).boxed(),
            [name] => return one(api(Some(name))).boxed(),
            names => names,
        };
        let sources = names.iter().map(|name| {
            let name = name.clone();
            let source = one(api(Some(&name)));
            source.map(move |event| (name.clone(), event)).boxed()
        });
        let mut merged = Merged::new(names);
        stream::select_all(sources)
            .flat_map(move |(name, event)| {
                stream::iter(match event {
                    Ok(event) => {
                        let told = merged.hear(&name, event, &known);
                        told.into_iter().map(Ok).collect::<Vec<_>>()
                    }
                    Err(error) => vec![Err(error)],
                })
            })
            .boxed()
    }
}

/// For kinds with a namespace.
pub(crate) fn api_of<K>(client: &kube::Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// What several watches have told until all of them have told everything once, and what each tells anew after that.
struct Merged<K> {
    /// Of those whose first list is not over.
    lacking: HashSet<String>,
    /// Everything until then, by namespace and name.
    first: HashMap<String, HashMap<String, K>>,
    /// Names in the list that a watch is telling anew.
    anew: HashMap<String, HashSet<String>>,
}

impl<K: kube::Resource> Merged<K> {
    fn new(names: &[String]) -> Self {
        Self {
            lacking: names.iter().cloned().collect(),
            first: HashMap::new(),
            anew: HashMap::new(),
        }
    }

    /// What one watch would tell. A list that one of them tells anew becomes what has changed by it: the others' objects are there as before.
    fn hear(
        &mut self,
        namespace: &str,
        event: Event<K>,
        known: &impl Fn(&str) -> Vec<K>,
    ) -> Vec<Event<K>> {
        if self.lacking.is_empty() {
            return self.hear_again(namespace, event, known);
        }
        let its = self.first.entry(namespace.to_owned()).or_default();
        match event {
            Event::Init => {
                its.clear();
                self.lacking.insert(namespace.to_owned());
            }
            Event::InitApply(object) | Event::Apply(object) => {
                its.insert(object.name_any(), object);
            }
            Event::Delete(object) => drop(its.remove(&object.name_any())),
            Event::InitDone => drop(self.lacking.remove(namespace)),
        }
        if !self.lacking.is_empty() {
            return Vec::new();
        }
        let all = std::mem::take(&mut self.first).into_values().flatten();
        let all = all.map(|(_, object)| Event::InitApply(object));
        let all = std::iter::once(Event::Init).chain(all);
        all.chain([Event::InitDone]).collect()
    }

    fn hear_again(
        &mut self,
        namespace: &str,
        event: Event<K>,
        known: &impl Fn(&str) -> Vec<K>,
    ) -> Vec<Event<K>> {
        match event {
            Event::Init => {
                self.anew.insert(namespace.to_owned(), HashSet::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                let names = self.anew.entry(namespace.to_owned()).or_default();
                names.insert(object.name_any());
                vec![Event::Apply(object)]
            }
            Event::InitDone => {
                let told = self.anew.remove(namespace).unwrap_or_default();
                let mut gone = known(namespace);
                gone.retain(|object| !told.contains(&object.name_any()));
                gone.into_iter().map(Event::Delete).collect()
            }
            other => vec![other],
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(name: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.to_owned());
        object
    }

    fn words(events: Vec<Event<ConfigMap>>) -> Vec<String> {
        let word = |event: Event<ConfigMap>| match event {
            Event::Init => "Init".to_owned(),
            Event::InitDone => "InitDone".to_owned(),
            Event::InitApply(object) => format!("InitApply {}", object.name_any()),
            Event::Apply(object) => format!("Apply {}", object.name_any()),
            Event::Delete(object) => format!("Delete {}", object.name_any()),
        };
        let mut words: Vec<String> = events.into_iter().map(word).collect();
        let count = words.len();
        // In between the order is nobody's business.
        if count > 2 {
            words[1..count - 1].sort();
        }
        words
    }

    fn merged() -> Merged<ConfigMap> {
        Merged::new(&["a".to_owned(), "b".to_owned()])
    }

    #[test]
    fn nothing_is_told_before_all_have_told_everything() {
        let mut merged = merged();
        let mut hear = |namespace: &str, event| words(merged.hear(namespace, event, &|_| vec![]));
        assert!(hear("a", Event::Init).is_empty());
        for name in ["one", "two", "three"] {
            assert!(hear("a", Event::InitApply(object(name))).is_empty());
        }
        assert!(hear("a", Event::InitDone).is_empty());
        // What happens there meanwhile counts, and a list begun anew says all.
        assert!(hear("a", Event::Delete(object("one"))).is_empty());
        assert!(hear("a", Event::Apply(object("four"))).is_empty());
        for _ in 0..2 {
            assert!(hear("b", Event::Init).is_empty());
            assert!(hear("b", Event::InitApply(object("five"))).is_empty());
        }
        assert_eq!(
            hear("b", Event::InitDone),
            [
                "Init",
                "InitApply five",
                "InitApply four",
                "InitApply three",
                "InitApply two",
                "InitDone"
            ]
        );
        assert_eq!(hear("a", Event::Apply(object("six"))), ["Apply six"]);
        assert_eq!(hear("b", Event::Delete(object("five"))), ["Delete five"]);
    }

    #[test]
    fn a_list_told_anew_ends_what_it_lacks_there_and_nothing_elsewhere() {
        let mut merged = merged();
        let known = |namespace: &str| match namespace {
            "a" => vec![object("stays"), object("goes")],
            _ => vec![object("other")],
        };
        let mut hear = |namespace: &str, event| words(merged.hear(namespace, event, &known));
        for namespace in ["a", "b"] {
            hear(namespace, Event::Init);
            hear(namespace, Event::InitDone);
        }
        assert!(hear("a", Event::Init).is_empty());
        assert_eq!(
            hear("a", Event::InitApply(object("stays"))),
            ["Apply stays"]
        );
        assert_eq!(hear("a", Event::InitApply(object("new"))), ["Apply new"]);
        assert_eq!(hear("a", Event::InitDone), ["Delete goes"]);
    }

    #[test]
    fn a_namespace_counts_once() {
        let names: Namespaces = ["b", "a", "b"].into_iter().collect();
        assert_eq!(names.0, ["a", "b"]);
    }
}
