//! The Helm chart: the same objects with templates in place of what an installation chooses.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    files::definition_path,
    objects::{Part, Settings},
    yaml::{documents, yaml},
};

/// Texts in places that hold no text: Helm puts a number and a map there, so they lose their quotes.
const REPLICAS: &str = "{{ $.Values.replicas }}";
const RESOURCES: &str = "{{ toJson $.Values.resources }}";
/// Between these an object is made once for each watched namespace.
const EACH: &str = "{{- range $namespace := $.Values.watchNamespaces }}\n";
const END: &str = "{{- end }}\n";

fn settings(watch: &[&str]) -> Settings {
    Settings {
        namespace: "{{ $.Release.Namespace }}".to_owned(),
        image: "{{ $.Values.image }}".to_owned(),
        replicas: REPLICAS.into(),
        resources: RESOURCES.into(),
        account: "{{ $.Values.serviceAccount.name }}".to_owned(),
        watch: watch.iter().map(|name| (*name).to_owned()).collect(),
    }
}

/// Paths within the chart and what is in them.
pub(super) fn tree() -> BTreeMap<String, String> {
    let plain = settings(&[]);
    let mut files = BTreeMap::new();
    for object in Part::Definitions.objects(&plain) {
        files.insert(definition_path(&object), yaml(&object));
    }
    let admission = documents(&Part::Admission.objects(&plain));
    let catalogue = documents(&Part::Catalogue.objects(&plain));
    for (name, text) in [
        ("access", access()),
        ("operator", operator(&plain)),
        ("admission", admission),
        ("catalogue", catalogue),
    ] {
        files.insert(format!("templates/{name}.yaml"), text);
    }
    files.insert("Chart.yaml".to_owned(), yaml(&about()));
    files.insert("values.yaml".to_owned(), values());
    files
}

fn about() -> Value {
    json!({"apiVersion": "v2", "name": "kubedb", "version": env!("CARGO_PKG_VERSION"), "appVersion": env!("CARGO_PKG_VERSION"),
        "type": "application", "kubeVersion": ">=1.30.0-0",
        "description": "PostgreSQL databases with scheduled backups that people can trust"})
}

fn values() -> String {
    let default = Settings::default();
    let resources = yaml(&json!({"resources": default.resources}));
    format!(
        "# Image of the operator, which also brings the agent.\nimage: {}\n\
         # One operator acts, the others answer the webhook and wait.\nreplicas: {}\n\
         {resources}\
         # Namespaces whose databases the operator runs; all when empty.\nwatchNamespaces: []\n\
         serviceAccount:\n  # Whether the account is made; otherwise it must be there.\n  create: true\n  name: {}\n",
        default.image, default.replicas, default.account
    )
}

/// Roles of the whole cluster where nothing is watched by name, else those of each watched namespace.
fn access() -> String {
    let everywhere = Part::Access.objects(&settings(&[]));
    let within = Part::Access.objects(&settings(&["{{ $namespace }}"]));
    let texts = everywhere.iter().map(|object| {
        let text = yaml(object);
        if object["kind"] == "ServiceAccount" {
            format!("{{{{- if $.Values.serviceAccount.create }}}}\n{text}{END}")
        } else if !within.contains(object) {
            format!("{{{{- if not $.Values.watchNamespaces }}}}\n{text}{END}")
        } else {
            text
        }
    });
    let mut text = texts.collect::<Vec<_>>().join("---\n");
    for object in within.iter().filter(|object| !everywhere.contains(object)) {
        text += &format!("{EACH}---\n{}{END}", yaml(object));
    }
    text
}

fn operator(settings: &Settings) -> String {
    let text = documents(&Part::Workload.objects(settings));
    let text = unquoted(&unquoted(&text, REPLICAS), RESOURCES);
    let mut lines = String::new();
    for line in text.split_inclusive('\n') {
        lines += line;
        // The last argument that is always there.
        if line.trim_start().starts_with("- --webhook=") {
            let indentation = &line[..line.len() - line.trim_start().len()];
            lines += &format!("{EACH}{indentation}- --watch-namespace={{{{ $namespace }}}}\n{END}");
        }
    }
    lines
}

fn unquoted(text: &str, template: &str) -> String {
    text.replace(&format!("'{template}'"), template)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Helm would make of a template with these values: the few forms that the chart has, and no others.
    fn rendered(template: &str, watch: &[&str]) -> String {
        let default = Settings::default();
        let known = [
            ("{{ $.Release.Namespace }}", default.namespace.clone()),
            ("{{ $.Values.image }}", default.image.clone()),
            (
                "{{ $.Values.serviceAccount.name }}",
                default.account.clone(),
            ),
            (REPLICAS, default.replicas.to_string()),
            (RESOURCES, default.resources.to_string()),
        ];
        let mut text = template.to_owned();
        for (form, value) in known {
            text = text.replace(form, &value);
        }
        let mut made = String::new();
        // What stands in the block that is open: how often, and its lines.
        let mut block: Option<(Vec<&str>, String)> = None;
        for line in text.split_inclusive('\n') {
            let all = match line {
                "{{- if $.Values.serviceAccount.create }}\n" => Some(vec![""]),
                "{{- if not $.Values.watchNamespaces }}\n" if watch.is_empty() => Some(vec![""]),
                "{{- if not $.Values.watchNamespaces }}\n" => Some(Vec::new()),
                EACH => Some(watch.to_vec()),
                _ => None,
            };
            match (all, block.take()) {
                (Some(all), None) => block = Some((all, String::new())),
                (None, Some((all, lines))) if line == END => {
                    made.extend(
                        all.iter()
                            .map(|name| lines.replace("{{ $namespace }}", name)),
                    );
                }
                (None, Some((all, lines))) => block = Some((all, lines + line)),
                (None, None) => made += line,
                (Some(_), Some(_)) => panic!("a block within a block: {line}"),
            }
        }
        assert!(!made.contains("{{"), "{made}");
        made
    }

    fn objects(text: &str) -> Vec<Value> {
        serde_yaml_ng::Deserializer::from_str(text)
            .map(|document| serde::Deserialize::deserialize(document).unwrap())
            .filter(|value: &Value| !value.is_null())
            .collect()
    }

    #[test]
    fn the_chart_makes_what_install_makes() {
        for watch in [vec![], vec!["demo"], vec!["demo", "prod"]] {
            let mut made: Vec<Value> = tree()
                .iter()
                .filter(|(path, _)| path.starts_with("templates/") || path.starts_with("crds/"))
                .flat_map(|(_, text)| objects(&rendered(text, &watch)))
                .collect();
            let settings = Settings {
                watch: watch.iter().map(|name| (*name).to_owned()).collect(),
                ..Settings::default()
            };
            // Helm makes the namespace when it is asked to.
            let mut wanted: Vec<Value> = super::super::objects::all(&settings)
                .into_iter()
                .filter(|object| object["kind"] != "Namespace")
                .collect();
            made.sort_by_key(Value::to_string);
            wanted.sort_by_key(Value::to_string);
            let other = made
                .iter()
                .zip(&wanted)
                .find(|(made, wanted)| made != wanted);
            assert_eq!(other, None, "{watch:?}");
            assert_eq!(made.len(), wanted.len(), "{watch:?}");
        }
    }
}
