//! `docs/reference/rights.md`, from the table of rights. Only the test makes it.

use kubedb_operator::rights::{AGENT, OPERATOR, Right, Scope, USERS};

use crate::cli::reference::assert_current;

const HEAD: &str = "\
# Rights

Made from the program by `UPDATE=1 cargo test -p kubedb rights`; do not edit.

";

fn page() -> String {
    let mut text = HEAD.to_owned();
    text += "## The operator\n\nIn the whole cluster; with `--watch-namespace`, \"databases\" are those namespaces alone.\n\n";
    text +=
        "| where | API group | resources | only | verbs | what for |\n|---|---|---|---|---|---|\n";
    for right in OPERATOR {
        let place = match right.scope {
            Scope::Cluster => "outside namespaces",
            Scope::Databases => "databases",
            Scope::Own => "its own namespace",
        };
        text += &format!("| {place} {}", line(right));
    }
    text += "\n## An agent\n\nIn its database's namespace, and only for objects that are named: its Postgres, its Lease, its pod, the Secrets and ConfigMaps it uses.\n\n";
    text += "| API group | resources | only | verbs | what for |\n|---|---|---|---|---|\n";
    text.extend(AGENT.iter().map(line));
    text += "\n## Users\n\nPart of Kubernetes' roles of the same names.\n\n| role | resources | verbs |\n|---|---|---|\n";
    for role in USERS {
        for (resources, verbs) in role.rules {
            text += &format!(
                "| `kubedb:core:{}` | {} | {} |\n",
                role.name,
                resources.join(", "),
                verbs.join(", ")
            );
        }
    }
    text
}

fn line(right: &Right) -> String {
    let group = if right.group.is_empty() {
        "core"
    } else {
        right.group
    };
    let (resources, names) = (right.resources.join(", "), right.names.join(", "));
    let verbs = right.verbs.join(", ");
    format!(
        "| {group} | {resources} | {names} | {verbs} | {} |\n",
        right.why
    )
}

#[test]
fn the_page_of_rights_is_current() {
    assert_current("rights.md", &page(), "rights");
}
