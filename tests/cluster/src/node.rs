//! A node's machine: containerd, kubelet and kube-proxy.

use std::{fs, path::PathBuf};

use serde_json::json;

use crate::{
    error::StartError,
    images::{self, PAUSE_IMAGE},
    layout::{Layout, kept},
    machine::Machine,
    tools::program,
};

/// What runs there, in the order in which it is started.
pub const PROGRAMS: [&str; 3] = [CONTAINERD, KUBELET, "kube-proxy"];
/// What runs containers; they live on when it is killed.
pub const CONTAINERD: &str = "containerd";
/// What Kubernetes has on a node.
pub const KUBELET: &str = "kubelet";

/// Of containerd, in the node's own mounts.
pub(crate) const SOCKET: &str = "/run/containerd/containerd.sock";

/// Debian's packages, unpacked: installed ones would run as services of this machine.
pub(crate) fn packages() -> PathBuf {
    kept("packages")
}

/// What a node knows of registries: a folder for each, named by its address.
pub(crate) fn registries(machine: &Machine) -> PathBuf {
    machine.folder.join("registries")
}

/// Where the programs of a node find others.
pub(crate) fn path() -> String {
    let packages = packages();
    format!(
        "{0}/usr/bin:{0}/usr/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
        packages.display()
    )
}

/// Writes what its programs are told, and gives it the images.
pub(crate) fn prepare(layout: &Layout, machine: &Machine, node: u8) -> Result<(), StartError> {
    let folders = ["volumes", "kubelet", "cni", "plugins"].map(|name| machine.folder.join(name));
    for path in folders.into_iter().chain([registries(machine)]) {
        fs::create_dir_all(&path).map_err(StartError::prepare(path))?;
    }
    let files = [
        ("containerd.toml", containerd(machine)),
        ("cni/10-pods.conflist", network(layout, node)),
        ("kubelet.json", kubelet(layout, machine)),
        // Names outside the cluster are not for pods, and this machine's own would leak in.
        ("resolv.conf", String::new()),
    ];
    for (name, text) in files {
        let path = machine.folder.join(name);
        fs::write(&path, text).map_err(StartError::prepare(path))?;
    }
    images::give(&machine.folder.join("containerd"))
}

/// Starts one of the programs, unless it runs.
pub(crate) fn start(layout: &Layout, machine: &Machine, name: &str) -> Result<(), StartError> {
    let file = |name: &str| machine.folder.join(name).display().to_string();
    let kubeconfig = |name: &str| {
        let path = layout.keys().join(format!("{name}.kubeconfig"));
        format!("--kubeconfig={}", path.display())
    };
    let arguments = match name {
        CONTAINERD => vec!["--config".to_owned(), file("containerd.toml")],
        KUBELET => vec![
            format!("--config={}", file("kubelet.json")),
            kubeconfig(&machine.name),
            format!("--root-dir={}", file("kubelet")),
            format!("--cert-dir={}", file("kubelet")),
            format!("--hostname-override={}", machine.name),
            format!("--node-ip={}", address(layout, machine)),
        ],
        "kube-proxy" => vec![
            kubeconfig(name),
            format!("--hostname-override={}", machine.name),
            "--proxy-mode=nftables".to_owned(),
            "--cluster-cidr=10.244.0.0/16".to_owned(),
            // Limits of the kernel are not the node's to set.
            "--conntrack-max-per-core=0".to_owned(),
            "--conntrack-tcp-timeout-established=0s".to_owned(),
            "--conntrack-tcp-timeout-close-wait=0s".to_owned(),
        ],
        other => {
            return Err(StartError::Unfit(format!(
                "{other} is no program of a node"
            )));
        }
    };
    let path = match name {
        CONTAINERD => packages().join("usr/bin/containerd"),
        _ => program(name)?,
    };
    machine.start(&path, &arguments, &self::path())
}

fn address(layout: &Layout, machine: &Machine) -> String {
    let number = (1..=layout.nodes).find(|node| Layout::node_name(*node) == machine.name);
    number.map_or_else(String::new, |node| layout.node(node).to_string())
}

/// `restrict_oom_score_adj`: this machine's root may lack the right to protect a process from the end of memory, and a sandbox that asks for it dies.
fn containerd(machine: &Machine) -> String {
    let file = |name: &str| machine.folder.join(name).display().to_string();
    let runc = packages().join("usr/sbin/runc");
    format!(
        r#"version = 2
root = "{root}"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.tracing"]

[grpc]
address = "{SOCKET}"

[plugins."io.containerd.internal.v1.opt"]
path = "{opt}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{cni}"

[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{registries}"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{runc}"
"#,
        root = file("containerd"),
        opt = file("plugins"),
        cni = file("cni"),
        registries = registries(machine).display(),
        runc = runc.display(),
    )
}

/// A cable from each pod to its node, which knows the roads: on a bridge, the answers of a Service to a pod of the same node would pass by its rules.
fn network(layout: &Layout, node: u8) -> String {
    json!({
        "cniVersion": "0.4.0", "name": "pods",
        "plugins": [{
            "type": "ptp",
            "ipam": {
                "type": "host-local", "ranges": [[{"subnet": layout.pods(node)}]],
                "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/run/cni",
            },
        }],
    })
    .to_string()
}

/// Disk pressure is judged by the machine's disk, which is not the cluster's, and an image that was collected could not be had again.
fn kubelet(layout: &Layout, machine: &Machine) -> String {
    let key = |name: &str| layout.keys().join(name).display().to_string();
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": key("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": key(&format!("{}.crt", machine.name)),
        "tlsPrivateKeyFile": key(&format!("{}.key", machine.name)),
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        "cgroupDriver": "cgroupfs", "cgroupRoot": format!("/{}", machine.cgroup()),
        "clusterDNS": [layout.control()], "clusterDomain": "cluster.local",
        "resolvConf": machine.folder.join("resolv.conf"),
        "volumePluginDir": machine.folder.join("plugins"),
        "failSwapOn": false, "failCgroupV1": false,
        "localStorageCapacityIsolation": false, "oomScoreAdj": 0,
        "nodeStatusUpdateFrequency": "5s", "nodeLeaseDurationSeconds": 10,
        "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"},
    })
    .to_string()
}
