//! A port whose clients are met, each in a thread of its own, until it is closed.

use std::{
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use crate::process::HelperError;

/// A free port that is listened at; nobody else comes in once it is dropped.
#[derive(Debug)]
pub struct Door {
    address: SocketAddrV4,
    is_closed: Arc<AtomicBool>,
    porter: Option<JoinHandle<()>>,
}

impl Door {
    /// Opens one on loopback for `what`, and meets whoever comes.
    pub fn open(
        what: &str,
        meet: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> Result<Self, HelperError> {
        Self::open_at(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0), what, meet)
    }

    /// The same at an address of this machine, such as one that a test's own networks reach.
    pub fn open_at(
        address: SocketAddrV4,
        what: &str,
        meet: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> Result<Self, HelperError> {
        let failed = |source| HelperError::Prepare {
            what: what.to_owned(),
            source,
        };
        let listener = TcpListener::bind(address).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let address = SocketAddrV4::new(*address.ip(), port);
        let is_closed = Arc::new(AtomicBool::new(false));
        let (closed, meet) = (is_closed.clone(), Arc::new(meet));
        let porter = thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if closed.load(Ordering::Relaxed) {
                    return;
                }
                let meet = meet.clone();
                thread::spawn(move || meet(client));
            }
        });
        Ok(Self {
            address,
            is_closed,
            porter: Some(porter),
        })
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.is_closed.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
        if let Some(porter) = self.porter.take() {
            let _ = porter.join();
        }
    }
}
