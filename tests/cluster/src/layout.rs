//! Names, addresses and folders of a cluster: what follows from its number alone.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use kubedb_stores::net::cache;

/// More nodes than these have no subnet of their own; three use a gigabyte.
pub const NODES_MAX: u8 = 16;

/// Clusters on one machine, at once: as many as there are subnets for their pods.
const CLUSTERS_MAX: u8 = 8;

/// Where everything of one cluster is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Of the clusters on this machine: developers have 0, runs of all tests 1.
    pub number: u8,
    /// How many nodes it has.
    pub nodes: u8,
    /// Everything that belongs to this cluster alone.
    pub folder: PathBuf,
}

impl Layout {
    /// The cluster of that number. None where there are too many clusters or nodes.
    #[must_use]
    pub fn new(number: u8, nodes: u8) -> Option<Self> {
        let fits = number < CLUSTERS_MAX && (1..=NODES_MAX).contains(&nodes);
        fits.then(|| Self {
            number,
            nodes,
            folder: cache("cluster").join(format!("run-{number}")),
        })
    }

    /// What names of the machine begin with: its network link, and its groups of processes.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("kubedb{}", self.number)
    }

    /// An address of the cluster's own network.
    fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 250, self.number, last)
    }

    /// The machine's own: servers of tests that listen here are reached from pods.
    #[must_use]
    pub fn host(&self) -> Ipv4Addr {
        self.address(1)
    }

    /// That of the control plane and the DNS.
    #[must_use]
    pub fn control(&self) -> Ipv4Addr {
        self.address(2)
    }

    /// A node's, which are counted from 1.
    #[must_use]
    pub fn node(&self, node: u8) -> Ipv4Addr {
        self.address(10 + node)
    }

    /// The subnet of a node's pods.
    #[must_use]
    pub fn pods(&self, node: u8) -> String {
        format!("10.244.{}.0/24", self.number * 32 + node)
    }

    /// Names of the nodes.
    #[must_use]
    pub fn node_name(node: u8) -> String {
        format!("node{node}")
    }

    /// Certificates and kubeconfigs.
    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.folder.join("keys")
    }

    /// The administrator's.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// A machine's folder.
    #[must_use]
    pub fn machine(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Where images and packages are kept between clusters.
#[must_use]
pub(crate) fn kept(below: impl AsRef<Path>) -> PathBuf {
    cache("cluster").join(below)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn clusters_share_no_address_and_no_folder() {
        let mut seen = BTreeSet::new();
        for number in 0..CLUSTERS_MAX {
            let layout = Layout::new(number, NODES_MAX).unwrap();
            let mut mine = vec![
                layout.prefix(),
                layout.host().to_string(),
                layout.control().to_string(),
                layout.folder.display().to_string(),
            ];
            for node in 1..=NODES_MAX {
                mine.push(layout.node(node).to_string());
                mine.push(layout.pods(node));
            }
            for one in mine {
                assert!(seen.insert(one.clone()), "{one} is another's");
            }
        }
        assert_eq!(Layout::new(CLUSTERS_MAX, 1), None);
        assert_eq!(Layout::new(0, NODES_MAX + 1), None);
        assert_eq!(Layout::new(0, 0), None);
    }
}
