//! A TCP proxy before a real server, that passes bytes on as slowly as a test wants.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use kubedb_stores::door::Door;

use crate::process::HelperError;

/// Bytes that are passed on at once.
const PIECE: usize = 16 << 10;

/// A proxy; its connections end with it.
#[derive(Debug)]
pub struct SlowProxy {
    door: Door,
    line: Arc<Line>,
}

#[derive(Debug, Default)]
struct Line {
    /// Bytes a second towards the server, of all connections together; 0 is as fast as can be.
    rate: AtomicU64,
    turn: Mutex<()>,
    is_over: AtomicBool,
    is_cut: AtomicBool,
    /// What a client asks for when the line breaks.
    breaks_at: Mutex<Option<String>>,
}

impl SlowProxy {
    /// A proxy before the server at this port of loopback.
    pub fn start(server: u16) -> Result<Self, HelperError> {
        let on_loopback = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        Self::start_at(on_loopback(0), on_loopback(server))
    }

    /// The same at an address of this machine, before a server at another.
    pub fn start_at(address: SocketAddrV4, server: SocketAddrV4) -> Result<Self, HelperError> {
        let line = Arc::new(Line::default());
        let shared = Arc::clone(&line);
        let door = Door::open_at(address, "a proxy", move |client| {
            // A server that is down is down for the client too: its connection closes.
            if !shared.is_cut.load(Ordering::Relaxed)
                && let Ok(server) = TcpStream::connect(server)
            {
                shared.join(client, server);
            }
        })?;
        Ok(Self { door, line })
    }

    /// Where it answers.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.door.port())
    }

    /// Lets nothing pass while it is cut.
    pub fn cut(&self, is_cut: bool) {
        self.line.is_cut.store(is_cut, Ordering::Relaxed);
    }

    /// Cuts itself as soon as a client asks for something with this in its name, which it does not get.
    pub fn cut_at(&self, asked: &str) {
        let mut breaks_at = self.line.breaks_at();
        *breaks_at = Some(asked.to_owned());
    }

    /// Whether nothing passes.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.line.is_cut.load(Ordering::Relaxed)
    }

    /// Passes on at most so many bytes a second from now on; 0 is as fast as can be.
    pub fn limit(&self, bytes_per_second: u64) {
        self.line.rate.store(bytes_per_second, Ordering::Relaxed);
    }
}

impl Drop for SlowProxy {
    fn drop(&mut self) {
        self.line.is_over.store(true, Ordering::Relaxed);
    }
}

impl Line {
    fn join(self: &Arc<Self>, client: TcpStream, server: TcpStream) {
        let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else {
            return;
        };
        let line = Arc::clone(self);
        thread::spawn(move || line.pass(client, server, true));
        let line = Arc::clone(self);
        thread::spawn(move || line.pass(server_too, client_too, false));
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream, is_slow: bool) {
        let mut piece = vec![0; PIECE];
        while let Ok(read @ 1..) = from.read(&mut piece) {
            if is_slow {
                self.wait_for_turn(read as u64);
                self.break_at(&piece[..read]);
            }
            let ends = self.is_over.load(Ordering::Relaxed) || self.is_cut.load(Ordering::Relaxed);
            if ends || to.write_all(&piece[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }

    fn breaks_at(&self) -> MutexGuard<'_, Option<String>> {
        self.breaks_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn break_at(&self, piece: &[u8]) {
        let mut breaks_at = self.breaks_at();
        let is_asked = |asked: &mut String| {
            let asked = asked.as_bytes();
            piece.windows(asked.len()).any(|part| part == asked)
        };
        if breaks_at.take_if(is_asked).is_some() {
            self.is_cut.store(true, Ordering::Relaxed);
        }
    }

    fn wait_for_turn(&self, bytes: u64) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = self.rate.load(Ordering::Relaxed);
        if let Some(micros) = (bytes * 1_000_000).checked_div(rate) {
            thread::sleep(Duration::from_micros(micros));
        }
    }
}
