//! Ports of loopback that nobody else has, and that no other database counts on.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    sync::{Mutex, PoisonError},
};

/// Below the range that systems give to outgoing connections, so that a restart finds them free.
const RANGE: std::ops::Range<u16> = 21_000..31_000;
/// Nothing is free.
#[derive(Debug, thiserror::Error)]
#[error("failed to find a free port between {} and {}", RANGE.start, RANGE.end)]
pub(super) struct FindPortError;

/// The ports that databases have pinned, running or not.
#[derive(Debug, Default)]
pub(super) struct Ports {
    pinned: Mutex<BTreeSet<u16>>,
}

impl Ports {
    /// Notes ports that a database has.
    pub(super) fn pin(&self, ports: impl IntoIterator<Item = u16>) {
        self.lock().extend(ports);
    }

    /// Gives ports back.
    pub(super) fn release(&self, ports: impl IntoIterator<Item = u16>) {
        let mut pinned = self.lock();
        for port in ports {
            pinned.remove(&port);
        }
    }

    /// A free port, pinned from now on. The search begins anywhere, so that servers on other folders seldom want the same one.
    pub(super) fn choose(&self) -> Result<u16, FindPortError> {
        let mut pinned = self.lock();
        let start = rand::random_range(RANGE);
        let in_turn = || (start..RANGE.end).chain(RANGE.start..start);
        let port = in_turn()
            .find(|port| !pinned.contains(port) && is_free(*port))
            // Databases that are down give way when nothing else is left: they move at their next start.
            .or_else(|| in_turn().find(|port| is_free(*port)))
            .ok_or(FindPortError)?;
        pinned.insert(port);
        Ok(port)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<u16>> {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a server could listen there now.
pub(super) fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_others_are_spared_and_none_is_given_twice() {
        let ports = Ports::default();
        let free = RANGE.start + 100..RANGE.start + 200;
        ports.pin(RANGE.filter(|port| !free.contains(port)));
        let chosen: BTreeSet<u16> = (0..20).filter_map(|_| ports.choose().ok()).collect();
        assert_eq!(chosen.len(), 20);
        assert!(chosen.iter().all(|port| free.contains(port)), "{chosen:?}");
        ports.release(chosen.clone());
        assert!(ports.choose().is_ok_and(|port| free.contains(&port)));
    }

    #[test]
    fn a_port_in_use_is_not_free() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(!is_free(port));
        drop(listener);
        assert!(is_free(port));
    }
}
