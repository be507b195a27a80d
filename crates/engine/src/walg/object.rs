//! Reads a large object in pieces, ahead of whoever unpacks it, with bounded memory.

use std::io::{self, Read};

use bytes::{Buf as _, Bytes};
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    task::spawn_blocking,
};

use super::WalgError;
use crate::store::{Store, StoreError};

/// Bytes of one request.
const PIECE: u64 = 8 << 20;
/// Pieces that wait to be unpacked.
const AHEAD: usize = 2;

/// Has `work` read an object of this size from its beginning, on a thread where it may block.
pub(super) async fn read_through<T: Send + 'static>(
    store: &Store,
    (key, bytes): (&str, u64),
    work: impl FnOnce(Pieces) -> Result<T, WalgError> + Send + 'static,
) -> Result<T, WalgError> {
    let (send, receive) = channel(AHEAD);
    let pieces = Pieces {
        receive,
        current: Bytes::new(),
        is_over: false,
    };
    let worker = spawn_blocking(move || work(pieces));
    let fed = feed(store, (key, bytes), send).await;
    let worked = worker.await.map_err(|_| WalgError::Worker)?;
    // For want of bytes the worker fails too, and says less.
    fed?;
    worked
}

/// One that nobody reads any more is not fetched further.
async fn feed(
    store: &Store,
    (key, bytes): (&str, u64),
    send: Sender<Option<Bytes>>,
) -> Result<(), StoreError> {
    let mut at = 0;
    while at < bytes {
        let end = bytes.min(at + PIECE);
        let piece = store.read_range(key, at..end).await?;
        if send.send(Some(piece)).await.is_err() {
            return Ok(());
        }
        at = end;
    }
    let _ = send.send(None).await;
    Ok(())
}

/// An object as it arrives.
pub(super) struct Pieces {
    receive: Receiver<Option<Bytes>>,
    current: Bytes,
    is_over: bool,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.is_over {
            match self.receive.blocking_recv() {
                Some(Some(piece)) => self.current = piece,
                Some(None) => self.is_over = true,
                // What breaks off is no end.
                None => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
        let length = buffer.len().min(self.current.len());
        self.current
            .split_to(length)
            .copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}
