//! Whether the API is reached through the proxy of the environment.

use hyper_util::client::proxy::matcher::Matcher;
use kube::{Config, config::Kubeconfig};

/// Takes the environment's proxy away where it has no place: before a server on this machine, as kubectl does, and before those that `NO_PROXY` names.
/// One that the configuration itself names stays.
pub fn settle(config: &mut Config, of_configuration: bool) {
    let host = config.cluster_url.host().unwrap_or_default();
    let is_here = host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    let is_wanted = of_configuration
        || !is_here && Matcher::from_env().intercept(&config.cluster_url).is_some();
    if !is_wanted {
        config.proxy_url = None;
    }
}

/// Whether any server of a configuration has a proxy of its own there.
#[must_use]
pub fn names_proxy(kubeconfig: &Kubeconfig) -> bool {
    let clusters = kubeconfig.clusters.iter();
    clusters
        .filter_map(|named| named.cluster.as_ref()?.proxy_url.as_deref())
        .any(|proxy| !proxy.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(address: &str, of_configuration: bool) -> bool {
        let mut config = Config::new(address.parse().unwrap());
        config.proxy_url = "http://proxy.example.com:3128".parse().ok();
        settle(&mut config, of_configuration);
        config.proxy_url.is_some()
    }

    #[test]
    fn a_server_on_this_machine_is_reached_without_a_proxy() {
        for here in [
            "https://127.0.0.1:7443",
            "https://127.9.9.9",
            "https://localhost:1",
            "https://[::1]:7443",
        ] {
            assert!(!settled(here, false), "{here}");
            assert!(settled(here, true), "{here}");
        }
    }
}
