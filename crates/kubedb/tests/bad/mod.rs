//! Changes that make a good manifest wrong, and what was answered.
#![allow(dead_code, reason = "each test file uses a part of it")]

use serde_json::Value;

pub(crate) const POSTGRES: &str = "
apiVersion: kubedb.com/v1alpha1
kind: Postgres
metadata: {name: NAME, namespace: demo}
spec:
  version: \"9.6\"
  replicas: 1
  storage: {storageClassName: standard, accessModes: [ReadWriteOnce], resources: {requests: {storage: 50Mi}}}
  backupSchedule: {cronExpression: \"@every 6h\", storageSecretName: gcs-secret, gcs: {bucket: kubedb}}
";

pub(crate) const SNAPSHOT: &str = "
apiVersion: kubedb.com/v1alpha1
kind: Snapshot
metadata: {name: NAME, namespace: demo}
spec: {databaseName: scheduled-pg, storageSecretName: gcs-secret, gcs: {bucket: kubedb}}
";

/// Lines of a table that are no comments.
pub(crate) fn lines(table: &str) -> impl Iterator<Item = &str> {
    table
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// A good manifest with the changes of one line.
pub(crate) fn changed(base: &str, name: &str, line: &str) -> Value {
    let mut object: Value = serde_yaml_ng::from_str(base).unwrap();
    object["metadata"]["name"] = name.into();
    for change in line.split(" && ") {
        let (path, value) = change.split_once(": ").expect(change);
        let value: Value = serde_yaml_ng::from_str(value).expect(change);
        // Keys of labels hold dots, so only what follows the first parts is taken apart.
        let mut place = &mut object;
        for part in path.split('.') {
            place = &mut place[part];
        }
        *place = value;
    }
    object
}

/// A record of what was sent and said: the change, and below it the answer, each of its lines indented.
#[derive(Default)]
pub(crate) struct Table(String);

impl Table {
    pub(crate) fn add(&mut self, sent: &str, said: &str) {
        self.0 += sent;
        self.0.push('\n');
        for line in said.trim_end().lines() {
            self.0 += &format!("    {line}\n");
        }
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

/// Texts for `create -f -`, each with a name.
pub(crate) fn texts() -> Vec<(&'static str, Vec<u8>)> {
    let head = "apiVersion: kubedb.com/v1alpha1\nkind: Postgres\n";
    let plain: &[(&str, &str)] = &[
        ("nothing", ""),
        ("a comment alone", "# nothing\n"),
        ("a word", "postgres\n"),
        ("a number", "9.6\n"),
        ("a list", "- a\n- b\n"),
        ("an open bracket", "kind: [\n"),
        ("an open quote", "kind: \"Postgres\n"),
        ("two colons", "kind: Postgres: x\n"),
        ("a tab", "kind: Postgres\nmetadata:\n\tname: x\n"),
        (
            "wrong indentation",
            "kind: Postgres\nmetadata:\n  name: x\n   namespace: y\n",
        ),
        ("a key twice", "kind: Postgres\nkind: Snapshot\n"),
        (
            "a key twice, deep",
            "metadata:\n  labels:\n    a: b\n    a: c\n",
        ),
        (
            "a key twice in JSON",
            "{\"kind\": \"Postgres\", \"kind\": \"Snapshot\"}",
        ),
        ("JSON that ends early", "{\"kind\": \"Postgres\","),
        ("JSON with a comma too many", "{\"kind\": \"Postgres\",,}"),
        ("an unknown alias", "kind: *nobody\n"),
        (
            "a tag of a language",
            "kind: !!python/object:os.system [ls]\n",
        ),
        ("a key that is no text", "1: 2\n"),
        ("a key that is a list", "[a]: 2\n"),
        ("a template", "kind: {{ .Values.kind }}\n"),
        (
            "a conflict of git",
            "<<<<<<< HEAD\nkind: Postgres\n=======\nkind: Snapshot\n>>>>>>> other\n",
        ),
        ("HTML", "<!DOCTYPE html><html><body>404</body></html>"),
        ("no apiVersion", "kind: Postgres\nmetadata: {name: x}\n"),
        (
            "no kind",
            "apiVersion: kubedb.com/v1alpha1\nmetadata: {name: x}\n",
        ),
        (
            "a kind that is a list",
            "apiVersion: v1\nkind: [Secret]\nmetadata: {name: x}\n",
        ),
        (
            "another version",
            "apiVersion: kubedb.com/v1\nkind: Postgres\nmetadata: {name: x}\n",
        ),
        (
            "another group",
            "apiVersion: postgresql.cnpg.io/v1\nkind: Cluster\nmetadata: {name: x}\n",
        ),
        (
            "a kind of the original",
            "apiVersion: kubedb.com/v1alpha1\nkind: MongoDB\nmetadata: {name: x}\n",
        ),
        (
            "a kind in small letters",
            "apiVersion: kubedb.com/v1alpha1\nkind: postgres\nmetadata: {name: x}\n",
        ),
        (
            "a plural",
            "apiVersion: kubedb.com/v1alpha1\nkind: Postgreses\nmetadata: {name: x}\n",
        ),
        (
            "a kind of Kubernetes",
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n",
        ),
        (
            "a DormantDatabase",
            "apiVersion: kubedb.com/v1alpha1\nkind: DormantDatabase\nmetadata: {name: x}\n",
        ),
        (
            "an item that is no object",
            "apiVersion: v1\nkind: List\nitems: [1]\n",
        ),
        ("an empty List", "apiVersion: v1\nkind: List\nitems: []\n"),
        ("the second document", "---\nkind: [\n---\n"),
        (
            "the third document",
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n---\nkind: x: y\n",
        ),
    ];
    let mut texts: Vec<(&str, Vec<u8>)> = plain
        .iter()
        .map(|(name, text)| (*name, text.as_bytes().to_vec()))
        .collect();
    let with_head = |rest: &str| format!("{head}{rest}").into_bytes();
    texts.extend([
        ("no metadata", with_head("spec: {}\n")),
        ("no name", with_head("metadata: {}\n")),
        ("metadata that is text", with_head("metadata: x\n")),
        (
            "a name that is a number",
            with_head("metadata: {name: 5}\n"),
        ),
        ("a name that is null", with_head("metadata: {name: null}\n")),
        (
            "bytes that are no text",
            [&with_head("metadata: {name: ")[..], &[0xff, 0xfe]].concat(),
        ),
        (
            "UTF-16",
            "kind: x"
                .encode_utf16()
                .flat_map(u16::to_le_bytes)
                .collect(),
        ),
        ("a NUL", b"kind: a\0b\n".to_vec()),
        (
            "lists ten thousand deep",
            [vec![b'['; 10_000], vec![b']'; 10_000]].concat(),
        ),
        (
            "maps a thousand deep",
            [b"{\"a\":".repeat(1_000), b"1".to_vec(), vec![b'}'; 1_000]].concat(),
        ),
        ("a thousand million laughs", laughs()),
        ("five MiB", vec![b'a'; 5 << 20]),
        ("two thousand documents", b"---\na\n".repeat(2_000)),
        ("two thousand items", items(2_000)),
    ]);
    texts
}

/// Nine lines that mean a thousand million values.
fn laughs() -> Vec<u8> {
    let mut text = "a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for (next, last) in ('b'..='i').zip('a'..) {
        let items = vec![format!("*{last}"); 10].join(",");
        text += &format!("{next}: &{next} [{items}]\n");
    }
    text.into_bytes()
}

fn items(count: usize) -> Vec<u8> {
    let item = "{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"a\"}}";
    let list = vec![item; count].join(",");
    format!("{{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{list}]}}").into_bytes()
}

/// Compares a record with the one that is kept beside the inputs.
pub(crate) fn keep(name: &str, record: &Table) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("said");
    settings.set_prepend_module_to_snapshot(false);
    settings.bind(|| insta::assert_snapshot!(name, record.text()));
}
