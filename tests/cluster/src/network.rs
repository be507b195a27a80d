//! The network of a cluster: a switch that every machine is plugged into, with one cable to this machine. The switch is a machine too, so that nothing of it
//! stays when it ends.

use std::{
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::{
    error::StartError,
    layout::Layout,
    machine::{Machine, feed},
    tools::run,
};

/// The table of the rules that cut a machine off.
const PARTITION: &str = "kubedb_partition";

/// Addresses of Services, which exist in rules only: a packet needs a road all the same before a rule sees it.
const SERVICES: &str = "10.96.0.0/16";

/// The kernel takes a cable away some milliseconds after the machine at its other end has ended.
const PATIENCE: Duration = Duration::from_secs(20);

/// Makes the switch, and this machine's cable to it.
pub(crate) fn begin(layout: &Layout, switch: &Machine) -> Result<(), StartError> {
    switch.begin()?;
    let cable = layout.prefix();
    if has_link(&cable) {
        return Ok(());
    }
    let id = id(switch)?;
    let roads = roads(layout, None);
    switch.feed(
        &["ip", "-batch", "-"],
        "link add bridge type bridge\nlink set bridge up\n",
    )?;
    feed(
        Command::new("ip").args(["-batch", "-"]),
        &format!(
            "link add {cable} type veth peer name host netns {id}\naddr add {host}/24 dev {cable}\nlink set {cable} up\n{roads}",
            host = layout.host(),
        ),
    )?;
    switch.feed(
        &["ip", "-batch", "-"],
        "link set host master bridge\nlink set host up\n",
    )
}

/// Plugs a machine in. A node is told from the control plane by its number.
pub(crate) fn plug(
    layout: &Layout,
    switch: &Machine,
    machine: &Machine,
    node: Option<u8>,
) -> Result<(), StartError> {
    let address = node.map_or(layout.control(), |node| layout.node(node));
    let mut show = machine.command("ip")?;
    if run(show.args(["link", "show", "eth0"])).is_ok() {
        return Ok(());
    }
    let name = &machine.name;
    let end = Instant::now() + PATIENCE;
    while switch
        .command("ip")
        .is_ok_and(|mut ip| run(ip.args(["link", "show", name])).is_ok())
    {
        if Instant::now() > end {
            let why = format!("{name}'s cable of before is still there after {PATIENCE:?}");
            return Err(StartError::Unfit(why));
        }
        thread::sleep(Duration::from_millis(20));
    }
    let services = node.map_or_else(String::new, |_| {
        format!("route add {SERVICES} via {} dev eth0\n", layout.host())
    });
    feed(
        Command::new("ip").args(["-batch", "-"]),
        &format!(
            "link add {name} netns {} type veth peer name eth0 netns {}\n",
            id(switch)?,
            id(machine)?,
        ),
    )?;
    switch.feed(
        &["ip", "-batch", "-"],
        &format!("link set {name} master bridge\nlink set {name} up\n"),
    )?;
    machine.feed(
        &["ip", "-batch", "-"],
        &format!(
            "addr add {address}/24 dev eth0\nlink set eth0 up\n{services}{}",
            roads(layout, node)
        ),
    )
}

/// The roads to the pods of all nodes, except to one's own.
fn roads(layout: &Layout, own: Option<u8>) -> String {
    (1..=layout.nodes)
        .filter(|node| Some(*node) != own)
        .map(|node| {
            format!(
                "route add {} via {}\n",
                layout.pods(node),
                layout.node(node)
            )
        })
        .collect()
}

fn id(machine: &Machine) -> Result<u32, StartError> {
    let none = || StartError::Unfit(format!("{} has no power", machine.name));
    machine.id().ok_or_else(none)
}

/// Whether this machine has such a link.
pub(crate) fn has_link(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).exists()
}

/// Takes this machine's cable away.
pub(crate) fn end(layout: &Layout) -> Result<(), StartError> {
    let cable = layout.prefix();
    let end = Instant::now() + PATIENCE;
    while has_link(&cable) {
        // The kernel takes it away with the switch, too, but in its own time.
        let asked = run(Command::new("ip").args(["link", "delete", &cable]));
        if has_link(&cable) && Instant::now() > end {
            return asked.map(drop);
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Nothing reaches a machine's own network or leaves it: neither its own programs' packets nor those of its pods.
pub(crate) fn cut_off(machine: &Machine) -> Result<(), StartError> {
    let rules = format!(
        "table inet {PARTITION} {{
            chain in {{ type filter hook prerouting priority -500; iifname \"eth0\" drop; }}
            chain out {{ type filter hook postrouting priority 500; oifname \"eth0\" drop; }}
        }}\n"
    );
    machine.feed(&["nft", "-f", "-"], &rules)
}

/// Ends that.
pub(crate) fn rejoin(machine: &Machine) -> Result<(), StartError> {
    let mut command = machine.command("nft")?;
    run(command.args(["delete", "table", "inet", PARTITION])).map(drop)
}
