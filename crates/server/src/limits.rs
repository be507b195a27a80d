//! What a client may take of the server: places, time, and bytes before it has said who it is.

use std::time::Duration;

/// The limits of a server. Those of a body's size and of watches are kube-apiserver's, and fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Of these, connections whose client has not shown a valid token yet. One more, and the one that has been waiting
    /// longest is let go: whoever opens connections and says nothing cannot keep others out.
    pub strangers: usize,
    /// Time for a TLS handshake.
    pub handshake: Duration,
    /// Time for a client to show a valid token, from the beginning of its connection.
    pub introduction: Duration,
    /// Time for the head of a request, and for the next one on a connection that is kept.
    pub head: Duration,
    /// Time for the body of a request.
    pub body: Duration,
    /// Time that a client may leave an answer unread with all buffers between full; HTTP/2 asks it meanwhile whether it is there.
    pub unread: Duration,
    /// Requests at once that change something; each holds a body.
    pub changes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A hundred databases with three instances each have one or two connections apiece; the rest is for people.
            connections: 1024,
            // A client introduces itself within milliseconds: as many as start up at once on one machine.
            strangers: 256,
            handshake: Duration::from_secs(10),
            introduction: Duration::from_secs(30),
            head: Duration::from_secs(30),
            // As long as a whole request may take in kube-apiserver.
            body: Duration::from_secs(60),
            // As long again: a reader that takes nothing for so long holds a list in memory for nobody.
            unread: Duration::from_secs(60),
            // As in kube-apiserver.
            changes: 200,
        }
    }
}
