//! `deploy/`: the same objects as files, for whoever installs with kubectl or Helm. Only the test makes them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    chart, monitoring,
    objects::{Part, Settings},
    yaml::{documents, yaml},
};

const HEAD: &str =
    "# Made from the program by `UPDATE=1 cargo test -p kubedb deploy`; do not edit.\n";

/// Paths below `deploy/` and what is in them.
pub(super) fn tree() -> BTreeMap<String, String> {
    let settings = Settings::default();
    let mut files = BTreeMap::new();
    let mut resources = Vec::new();
    for part in Part::ALL {
        let objects = part.objects(&settings);
        let path = match part {
            Part::Namespace => "namespace.yaml",
            Part::Access => "access.yaml",
            Part::Workload => "operator.yaml",
            Part::Admission => "admission.yaml",
            Part::Catalogue => "catalogue/versions.yaml",
            Part::Definitions => {
                for object in objects {
                    let path = definition_path(&object);
                    files.insert(path.clone(), file(&[object]));
                    resources.push(path);
                }
                continue;
            }
        };
        files.insert(path.to_owned(), file(&objects));
        if part != Part::Catalogue {
            resources.push(path.to_owned());
        }
    }
    files.insert("kustomization.yaml".to_owned(), kustomization(&resources));
    files.insert(
        "catalogue/kustomization.yaml".to_owned(),
        kustomization(&["versions.yaml".to_owned()]),
    );
    for (path, text) in monitoring::tree() {
        files.insert(path, format!("{HEAD}{text}"));
    }
    for (path, text) in chart::tree() {
        files.insert(format!("helm/kubedb/{path}"), format!("{HEAD}{text}"));
    }
    files
}

/// `crds/postgreses.kubedb.com.yaml`.
pub(super) fn definition_path(object: &Value) -> String {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    format!("crds/{name}.yaml")
}

fn kustomization(resources: &[String]) -> String {
    let list: String = resources.iter().map(|path| format!("- {path}\n")).collect();
    format!(
        "{HEAD}apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{list}"
    )
}

fn file(objects: &[Value]) -> String {
    format!("{HEAD}{}", documents(objects))
}

#[cfg(test)]
mod tests {
    use std::{
        env, fs,
        path::{Path, PathBuf},
    };

    use super::*;

    fn deploy() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
    }

    fn on_disk(folder: &Path, root: &Path, into: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                on_disk(&path, root, into);
            } else {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                into.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }

    #[test]
    fn the_files_of_deploy_are_current() {
        let (root, wanted) = (deploy(), tree());
        if env::var_os("UPDATE").is_some() {
            let _ = fs::remove_dir_all(&root);
            for (path, text) in &wanted {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
        }
        let mut found = BTreeMap::new();
        on_disk(&root, &root, &mut found);
        let old: Vec<&String> = wanted
            .keys()
            .chain(found.keys())
            .filter(|path| wanted.get(*path) != found.get(*path))
            .collect();
        assert!(
            old.is_empty(),
            "deploy/ is old: UPDATE=1 cargo test -p kubedb deploy\n{old:?}"
        );
    }

    #[test]
    fn every_object_is_in_a_file() {
        let files = tree();
        for object in super::super::objects::all(&Settings::default()) {
            let text = yaml(&object);
            assert!(
                files.values().any(|file| file.contains(&text)),
                "{} is in no file",
                object["metadata"]["name"]
            );
        }
    }
}
