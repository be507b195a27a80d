//! The API as an operator of a test sees it: slower than it is, until a write at which the operator is killed.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::StreamExt as _;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, BodyStream, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Bytes;
use kube::{Client, client::Body};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::UnboundedReceiverStream;

/// An answer as it comes.
type Piecewise = UnsyncBoxBody<Bytes, <Body as hyper::body::Body>::Error>;

/// Where an operator is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The write does not reach the API.
    Before(usize),
    /// It does, and its answer is lost.
    After(usize),
}

/// How slow the API is, at this moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slow {
    /// Lists of Snapshots are answered this late.
    pub lists: Duration,
    /// Watches tell of each change this late.
    pub watches: Duration,
    /// Watches tell of nothing until this is over, and of everything then.
    pub is_stuck: bool,
}

/// How often a watch that is stuck is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// What an operator did until now.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    pub reads: usize,
    pub writes: Vec<String>,
    /// Writes that were refused since somebody else had changed the object.
    pub conflicts: usize,
    pub is_dead: bool,
}

/// The API as an operator sees it.
pub fn through(
    client: Client,
    cut: Option<Cut>,
    slow: Arc<Mutex<Slow>>,
    traffic: Arc<Mutex<Traffic>>,
) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let (client, traffic) = (client.clone(), Arc::clone(&traffic));
        let slow = Arc::clone(&slow);
        async move {
            let killed = || tower::BoxError::from("the operator was killed");
            let is_write = request.method() != Method::GET;
            let is_watch = request.uri().query().unwrap_or("").contains("watch=true");
            let (number, is_dead) = {
                let mut traffic = traffic.lock().unwrap();
                if is_write && !traffic.is_dead {
                    let line = format!("{} {}", request.method(), request.uri().path());
                    traffic.writes.push(line);
                } else if !is_write {
                    traffic.reads += 1;
                }
                let number = traffic.writes.len();
                traffic.is_dead |= is_write && cut == Some(Cut::Before(number));
                (number, traffic.is_dead)
            };
            if is_dead {
                return Err(killed());
            }
            if request.uri().path().ends_with("/snapshots") && !is_watch {
                let late = slow.lock().unwrap().lists;
                tokio::time::sleep(late).await;
            }
            let answer = client.send(request).await?;
            if answer.status() == http::StatusCode::CONFLICT {
                traffic.lock().unwrap().conflicts += 1;
            }
            if is_write && cut == Some(Cut::After(number)) {
                traffic.lock().unwrap().is_dead = true;
                return Err(killed());
            }
            Ok(if is_watch {
                behind(answer, slow)
            } else {
                answer.map(BodyExt::boxed_unsync)
            })
        }
    });
    Client::new(service, "default")
}

/// The same answer, each piece of it as late as it is to be when it comes.
fn behind(answer: Response<Body>, slow: Arc<Mutex<Slow>>) -> Response<Piecewise> {
    answer.map(|body| {
        let (sender, receiver) = mpsc::unbounded_channel();
        let now = move || *slow.lock().unwrap();
        let come = now.clone();
        tokio::spawn(async move {
            let mut frames = BodyStream::new(body);
            while let Some(frame) = frames.next().await {
                let due = Instant::now() + come().watches;
                if sender.send((due, frame)).is_err() {
                    break;
                }
            }
        });
        let late = UnboundedReceiverStream::new(receiver).then(move |(due, frame)| {
            let now = now.clone();
            async move {
                tokio::time::sleep_until(due).await;
                while now().is_stuck {
                    tokio::time::sleep(LOOK).await;
                }
                frame
            }
        });
        StreamBody::new(late).boxed_unsync()
    })
}
