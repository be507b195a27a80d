//! The control plane's machine: etcd, kube-apiserver, the controllers, the scheduler, the DNS, and what makes volumes.

use std::{fs, net::IpAddr, path::PathBuf};

use serde_json::json;

use crate::{
    certificates::{Authority, Holder},
    error::StartError,
    layout::Layout,
    machine::Machine,
    tools::{self, program},
};

/// What runs there, in the order in which it is started.
pub const PROGRAMS: [&str; 6] = [
    ETCD,
    APISERVER,
    "kube-controller-manager",
    "kube-scheduler",
    "coredns",
    PROVISIONER,
];
/// The database of the control plane.
pub const ETCD: &str = "etcd";
/// The API.
pub const APISERVER: &str = "kube-apiserver";
/// What makes the folders of volumes.
pub const PROVISIONER: &str = "provisioner";

/// On its machine it has all ports to itself.
const API_PORT: u16 = 6443;
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Programs that ask the API: file of their certificate, user and group, as Kubernetes binds its built-in roles to them.
const USERS: [(&str, &str, Option<&str>); 6] = [
    ("admin", "admin", Some("system:masters")),
    (
        "kube-controller-manager",
        "system:kube-controller-manager",
        None,
    ),
    ("kube-scheduler", "system:kube-scheduler", None),
    ("kube-proxy", "system:kube-proxy", None),
    ("coredns", "coredns", None),
    ("provisioner", "provisioner", None),
];

/// Writes every certificate, and a kubeconfig for everybody who asks the API.
pub(crate) fn write_keys(layout: &Layout) -> Result<(), StartError> {
    let keys = layout.keys();
    kubedb_stores::left::private(&keys).map_err(StartError::prepare(&keys))?;
    let authority = Authority::write(&keys, "kubedb-cluster")?;
    let serving: [IpAddr; 3] = [
        layout.control().into(),
        [127, 0, 0, 1].into(),
        // The Service through which pods ask.
        [10, 96, 0, 1].into(),
    ];
    let server = Holder {
        name: "kube-apiserver",
        // It asks kubelets for logs and the like as an administrator.
        group: Some("system:masters"),
        names: &["localhost", "kubernetes.default.svc", "kubernetes"],
        addresses: &serving,
    };
    authority.issue(&keys, "tls", server)?;
    for (file, name, group) in USERS {
        user(layout, &authority, file, (name, group), &[])?;
    }
    for node in 1..=layout.nodes {
        let file = Layout::node_name(node);
        let name = format!("system:node:{file}");
        let address = layout.node(node).into();
        user(
            layout,
            &authority,
            &file,
            (&name, Some("system:nodes")),
            &[address],
        )?;
    }
    let (from, to) = (keys.join("admin.kubeconfig"), layout.kubeconfig());
    fs::copy(from, &to)
        .map(drop)
        .map_err(StartError::prepare(to))
}

fn user(
    layout: &Layout,
    authority: &Authority,
    file: &str,
    (name, group): (&str, Option<&str>),
    addresses: &[IpAddr],
) -> Result<(), StartError> {
    let keys = layout.keys();
    let holder = Holder {
        name,
        group,
        names: &[],
        addresses,
    };
    authority.issue(&keys, file, holder)?;
    let user = json!({
        "client-certificate": keys.join(format!("{file}.crt")),
        "client-key": keys.join(format!("{file}.key")),
    });
    let server = format!("https://{}:{API_PORT}", layout.control());
    let text = tools::kubeconfig(&server, &keys.join("ca.crt"), &user);
    let path = keys.join(format!("{file}.kubeconfig"));
    fs::write(&path, text).map_err(StartError::prepare(path))
}

/// Starts one of the programs, unless it runs.
pub(crate) fn start(layout: &Layout, control: &Machine, name: &str) -> Result<(), StartError> {
    let keys = layout.keys();
    let key = |name: &str| keys.join(name).display().to_string();
    let arguments = match name {
        ETCD => tools::etcd_arguments(&keys, &control.folder.join("etcd"), 2379, 2380),
        APISERVER => apiserver(layout, control)?,
        "kube-controller-manager" => vec![
            format!("--kubeconfig={}", key("kube-controller-manager.kubeconfig")),
            "--bind-address=127.0.0.1".to_owned(),
            "--leader-elect=false".to_owned(),
            "--use-service-account-credentials".to_owned(),
            format!("--root-ca-file={}", key("ca.crt")),
            format!("--service-account-private-key-file={}", key("sa.key")),
            format!("--cluster-signing-cert-file={}", key("ca.crt")),
            format!("--cluster-signing-key-file={}", key("ca.key")),
            // Kubelets say every two and a half seconds that they live; nobody waits most of a minute for a test.
            "--node-monitor-grace-period=12s".to_owned(),
            "--node-monitor-period=1s".to_owned(),
        ],
        "kube-scheduler" => vec![
            format!("--kubeconfig={}", key("kube-scheduler.kubeconfig")),
            "--bind-address=127.0.0.1".to_owned(),
            "--leader-elect=false".to_owned(),
        ],
        "coredns" => vec!["-conf".to_owned(), corefile(layout, control)?],
        PROVISIONER => vec![
            "provisioner".to_owned(),
            key("provisioner.kubeconfig"),
            layout.folder.display().to_string(),
        ],
        other => {
            return Err(StartError::Unfit(format!(
                "{other} is no program of a control plane"
            )));
        }
    };
    let path = match name {
        PROVISIONER => provisioner(layout),
        _ => program(name)?,
    };
    control.start(&path, &arguments, PATH)
}

/// A name of its own for the program that the developer has started: this is how it is found among processes.
pub(crate) fn provisioner(layout: &Layout) -> PathBuf {
    layout.folder.join(PROVISIONER)
}

fn apiserver(layout: &Layout, control: &Machine) -> Result<Vec<String>, StartError> {
    let keys = layout.keys();
    let key = |name: &str| keys.join(name).display().to_string();
    let policy = control.folder.join("audit-policy.json");
    fs::write(&policy, audit_policy()).map_err(StartError::prepare(&policy))?;
    let mut arguments = tools::apiserver_arguments(&keys, 2379, API_PORT);
    arguments.extend([
        "--bind-address=0.0.0.0".to_owned(),
        format!("--advertise-address={}", layout.control()),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        format!("--kubelet-client-certificate={}", key("tls.crt")),
        format!("--kubelet-client-key={}", key("tls.key")),
        format!("--kubelet-certificate-authority={}", key("ca.crt")),
        // Names of nodes are in no DNS.
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        // Webhooks are asked at their pods: no rule for Services is on this machine.
        "--enable-aggregator-routing=true".to_owned(),
        format!("--audit-policy-file={}", policy.display()),
        format!("--audit-log-path={}", audit_log(control).display()),
    ]);
    Ok(arguments)
}

/// Who asked for what, a line of JSON each.
pub(crate) fn audit_log(control: &Machine) -> PathBuf {
    control.folder.join("audit.log")
}

/// Secrets and our kinds: who reads them is a promise. Everything else would be a gigabyte that nobody reads.
fn audit_policy() -> String {
    json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "Metadata", "resources": [
                {"group": "", "resources": ["secrets"]},
                {"group": "kubedb.com"},
                {"group": "catalog.kubedb.com"},
            ]},
            {"level": "None"},
        ],
    })
    .to_string()
}

/// Names outside the cluster are not answered: nothing there is for tests.
fn corefile(layout: &Layout, control: &Machine) -> Result<String, StartError> {
    let path = control.folder.join("Corefile");
    let text = format!(
        "cluster.local in-addr.arpa ip6.arpa {{\n  bind {}\n  errors\n  ready {}:8181\n  kubernetes cluster.local in-addr.arpa ip6.arpa {{\n    kubeconfig {}\n    pods insecure\n    ttl 5\n  }}\n}}\n",
        layout.control(),
        layout.control(),
        layout.keys().join("coredns.kubeconfig").display(),
    );
    fs::write(&path, text).map_err(StartError::prepare(&path))?;
    Ok(path.display().to_string())
}
