//! A man in the middle before a real store, who spoils the requests that a test chooses by their number.
//!
//! Each connection serves one request, which is passed on over a connection of its own.

mod kind;
mod message;

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    net::{Shutdown, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

pub use self::{
    kind::{Act, Fault},
    message::Message,
};
use crate::{door::Door, process::HelperError};

/// Longest wait for the server's answer.
const ANSWER: Duration = Duration::from_secs(120);

/// A proxy; it takes no more connections when it is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    door: Door,
    line: Arc<Line>,
}

/// Which requests a fault strikes.
#[derive(Clone, Debug)]
struct Strike {
    word: String,
    first: usize,
    last: usize,
    fault: Fault,
    seen: usize,
    struck: usize,
}

#[derive(Debug, Default)]
struct Plan {
    strikes: Vec<Strike>,
    seen: Vec<(String, String)>,
    /// The last answer to each listing.
    listings: BTreeMap<String, Message>,
}

#[derive(Debug, Default)]
struct Line {
    server: u16,
    plan: Mutex<Plan>,
}

impl FaultProxy {
    /// A proxy before the server at this port of loopback.
    pub fn start(server: u16) -> Result<Self, HelperError> {
        let line = Arc::new(Line {
            server,
            ..Line::default()
        });
        let shared = Arc::clone(&line);
        let door = Door::open("a proxy", move |client| {
            // A connection that breaks is what this is for.
            let _ = shared.serve(&client);
            let _ = client.shutdown(Shutdown::Both);
        })?;
        Ok(Self { door, line })
    }

    /// A proxy before the server at this address.
    pub fn before(endpoint: &str) -> Result<Self, HelperError> {
        let port = endpoint.split('/').nth(2).and_then(|address| {
            let (_, port) = address.rsplit_once(':')?;
            port.parse().ok()
        });
        let refused = || HelperError::Refused {
            what: "a proxy".to_owned(),
            reply: format!("{endpoint} has no port"),
        };
        Self::start(port.ok_or_else(refused)?)
    }

    /// The same address, reached through the proxy.
    #[must_use]
    pub fn through(&self, endpoint: &str) -> String {
        endpoint.replace(
            &format!(":{}", self.line.server),
            &format!(":{}", self.door.port()),
        )
    }

    /// Port of loopback where it answers.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.door.port()
    }

    /// Spoils the request of this number, counted from 0 and from now on, among those whose path or query holds `word`.
    pub fn strike(&self, word: &str, number: usize, fault: Fault) {
        self.strike_from(word, number, number, fault);
    }

    /// The same for all requests of these numbers.
    pub fn strike_from(&self, word: &str, first: usize, last: usize, fault: Fault) {
        self.line.plan().strikes.push(Strike {
            word: word.to_owned(),
            first,
            last,
            fault,
            seen: 0,
            struck: 0,
        });
    }

    /// Spoils nothing any more. Says how many requests were spoiled, and forgets what was seen.
    pub fn relent(&self) -> usize {
        let mut plan = self.line.plan();
        plan.seen.clear();
        let strikes = std::mem::take(&mut plan.strikes);
        strikes.iter().map(|strike| strike.struck).sum()
    }

    /// Methods and targets since the last time this was asked.
    #[must_use]
    pub fn take_seen(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.line.plan().seen)
    }
}

impl Line {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, client: &TcpStream) -> io::Result<()> {
        let Some(mut request) = Message::read_request(client)? else {
            return Ok(());
        };
        let fault = self.plan().choose(&request);
        match &fault {
            Some(Fault::Refuse) => return Ok(()),
            Some(Fault::Before(act)) => {
                act();
                return Ok(());
            }
            Some(Fault::Slow(time)) => thread::sleep(*time),
            Some(fault) => fault.spoil_request(&mut request),
            None => {}
        }
        if let Some(answer) = fault.as_ref().and_then(Fault::own_answer) {
            return finish(answer, client, false);
        }
        request.set("Connection", "close");
        let server = TcpStream::connect(("127.0.0.1", self.server))?;
        server.set_read_timeout(Some(ANSWER))?;
        if matches!(fault, Some(Fault::CutRequest)) {
            let mut to = &server;
            to.write_all(&request.head())?;
            to.write_all(&request.body[..request.body.len() / 2])?;
            return server.shutdown(Shutdown::Both);
        }
        request.write(&server)?;
        let is_head = request.method() == "HEAD";
        let mut answer = Message::read_answer(&server, is_head)?;
        let before = self.plan().remember(&request, &answer);
        match &fault {
            Some(Fault::LoseAnswer) => return Ok(()),
            Some(Fault::After(act)) => {
                act();
                return Ok(());
            }
            Some(Fault::CutAnswer) => return cut(&answer, client, is_head),
            Some(fault) => fault.spoil_answer(&mut answer, before),
            None => {}
        }
        finish(answer, client, is_head)
    }
}

/// Sends an answer, and says that it is the last one of its connection.
fn finish(mut answer: Message, client: &TcpStream, is_head: bool) -> io::Result<()> {
    answer.set("Connection", "close");
    // An answer to HEAD keeps the length of what it does not carry.
    if !is_head && !answer.line.contains(" 204 ") && !answer.line.contains(" 304 ") {
        answer.set("Content-Length", &answer.body.len().to_string());
    }
    answer.write(client)
}

/// Sends half of an answer that says it is whole.
fn cut(answer: &Message, mut client: &TcpStream, is_head: bool) -> io::Result<()> {
    let mut answer = answer.clone();
    if !is_head {
        answer.set("Content-Length", &answer.body.len().to_string());
    }
    let head = answer.head();
    if answer.body.is_empty() {
        client.write_all(&head[..head.len() / 2])
    } else {
        client.write_all(&head)?;
        client.write_all(&answer.body[..answer.body.len() / 2])
    }
}

impl Plan {
    /// Counts a request, and gives the fault that strikes it.
    fn choose(&mut self, request: &Message) -> Option<Fault> {
        let target = request.target();
        let mut chosen = None;
        for strike in &mut self.strikes {
            if !target.contains(&strike.word) {
                continue;
            }
            let number = strike.seen;
            strike.seen += 1;
            if (strike.first..=strike.last).contains(&number) && chosen.is_none() {
                strike.struck += 1;
                chosen = Some(strike.fault.clone());
            }
        }
        self.seen.push((request.method().to_owned(), target));
        chosen
    }

    /// Keeps a listing, and gives what it was the time before.
    fn remember(&mut self, request: &Message, answer: &Message) -> Option<Message> {
        if !kind::is_listing(request) {
            return None;
        }
        self.listings.insert(request.target(), answer.clone())
    }
}
