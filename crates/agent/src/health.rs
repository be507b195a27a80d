//! What an agent in a pod answers to its kubelet. It rests on nothing but this process: an API server that is away must not restart
//! databases or take them from their Service.

use std::time::Duration;

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::{sync::watch, task::JoinHandle, time::Instant};

use kubedb_listen as listen;

/// A loop that was silent for longer hangs. Its longest pause is a server that it stops: 145 seconds.
const SILENCE_LIMIT: Duration = Duration::from_secs(300);

/// How the agent is, said at the end of each of its rounds.
#[derive(Clone, Debug)]
pub(crate) struct Pulse {
    at: Instant,
    /// Why PostgreSQL does not serve in its role; none when it does.
    unready: Option<String>,
}

/// What the loop says itself with.
#[derive(Debug)]
pub(crate) struct Health {
    sender: watch::Sender<Pulse>,
    server: Option<JoinHandle<()>>,
}

impl Health {
    /// Answers at this port, if there is one, and there also what `more` answers.
    pub(crate) async fn start(port: Option<u16>, more: Router) -> std::io::Result<Self> {
        let first = Pulse {
            at: Instant::now(),
            unready: Some("the agent starts".to_owned()),
        };
        let (sender, receiver) = watch::channel(first);
        let server = match port {
            None => None,
            Some(port) => {
                let listener = listen::bind(None, port).await?;
                let router = router(receiver).merge(more);
                Some(tokio::spawn(listen::serve(listener, router)))
            }
        };
        Ok(Self { sender, server })
    }

    /// Says that a round is over, and whether PostgreSQL serves in its role.
    pub(crate) fn beat(&self, unready: Option<String>) {
        self.sender.send_replace(Pulse {
            at: Instant::now(),
            unready,
        });
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

fn router(pulse: watch::Receiver<Pulse>) -> Router {
    Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .with_state(pulse)
}

async fn live(State(pulse): State<watch::Receiver<Pulse>>) -> (StatusCode, String) {
    is_live(&pulse.borrow(), Instant::now())
}

async fn ready(State(pulse): State<watch::Receiver<Pulse>>) -> (StatusCode, String) {
    is_ready(&pulse.borrow())
}

fn is_live(pulse: &Pulse, now: Instant) -> (StatusCode, String) {
    let silence = now.saturating_duration_since(pulse.at);
    if silence < SILENCE_LIMIT {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let seconds = silence.as_secs();
    let text = format!("the agent's loop has been silent for {seconds} s\n");
    (StatusCode::SERVICE_UNAVAILABLE, text)
}

fn is_ready(pulse: &Pulse) -> (StatusCode, String) {
    match &pulse.unready {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_loop_that_hangs_is_dead_and_one_that_waits_is_not_ready() {
        let health = Health::start(None, Router::new()).await.unwrap();
        let pulse = health.sender.subscribe();
        let code = |said: (StatusCode, String)| said.0;
        let first = pulse.borrow().clone();
        assert_eq!(code(is_live(&first, first.at)), StatusCode::OK);
        assert_eq!(code(is_ready(&first)), StatusCode::SERVICE_UNAVAILABLE);
        let late = first.at + SILENCE_LIMIT;
        assert_eq!(code(is_live(&first, late)), StatusCode::SERVICE_UNAVAILABLE);
        health.beat(None);
        assert_eq!(code(is_ready(&pulse.borrow())), StatusCode::OK);
        health.beat(Some("PostgreSQL is coming up".to_owned()));
        let (code, text) = is_ready(&pulse.borrow());
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text, "PostgreSQL is coming up\n");
    }
}
