//! Connections whose client has not said who it is: how many there may be, how long, and who is let go first.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// All of them, the one that has been here longest first.
#[derive(Debug)]
pub(crate) struct Strangers {
    most: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    guests: VecDeque<(u64, CancellationToken)>,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Guest {
    number: u64,
    strangers: Arc<Strangers>,
    evicted: CancellationToken,
    introduced: CancellationToken,
}

impl Strangers {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            waiting: Mutex::default(),
        })
    }

    /// A new connection, for which the oldest stranger goes where there are too many.
    pub(crate) fn arrive(self: &Arc<Self>) -> Guest {
        let evicted = CancellationToken::new();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let number = waiting.next;
        waiting.next += 1;
        while waiting.guests.len() >= self.most.max(1) {
            if let Some((_, oldest)) = waiting.guests.pop_front() {
                oldest.cancel();
            }
        }
        waiting.guests.push_back((number, evicted.clone()));
        Guest {
            number,
            strangers: self.clone(),
            evicted,
            introduced: CancellationToken::new(),
        }
    }
}

impl Guest {
    /// It has shown a valid token: nobody sends it away any more.
    pub(crate) fn introduce(&self) {
        if !self.introduced.is_cancelled() {
            self.leave_the_queue();
            self.introduced.cancel();
        }
    }

    /// Waits until it has to go: others came, or it has said nothing for too long.
    pub(crate) async fn sent_away(&self, patience: Duration) {
        tokio::select! {
            () = self.introduced.cancelled() => std::future::pending().await,
            () = self.evicted.cancelled() => {}
            () = tokio::time::sleep(patience) => {}
        }
    }

    fn leave_the_queue(&self) {
        let waiting = &self.strangers.waiting;
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Numbers rise from front to back.
        if let Ok(place) = waiting
            .guests
            .binary_search_by_key(&self.number, |(number, _)| *number)
        {
            waiting.guests.remove(place);
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.leave_the_queue();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_stranger_goes_and_the_known_stay() {
        let strangers = Strangers::new(2);
        let (first, second) = (strangers.arrive(), strangers.arrive());
        first.introduce();
        let third = strangers.arrive();
        assert!(!second.evicted.is_cancelled(), "there is room");
        let fourth = strangers.arrive();
        assert!(second.evicted.is_cancelled());
        drop(third);
        let fifth = strangers.arrive();
        for guest in [&first, &fourth, &fifth] {
            assert!(!guest.evicted.is_cancelled(), "{guest:?}");
        }
        drop((first, second, fourth, fifth));
        assert!(strangers.waiting.lock().unwrap().guests.is_empty());
    }
}
