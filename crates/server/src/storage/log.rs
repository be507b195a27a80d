//! The last changes, in order: what a watch reads, and what lets a list be read as it was a moment ago.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::Value;

use super::Key;

/// Changes kept: at ten writes a second a watch may be away for a quarter of an hour.
pub(crate) const MAX_CHANGES: usize = 10_000;
/// Bytes of JSON kept, so that ten thousand large Secrets do not fill the memory.
pub(crate) const MAX_BYTES: usize = 64 << 20;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    Added,
    Modified,
    Deleted,
}

impl ChangeKind {
    /// The name that a watch sends.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }

    /// The kind with this name; any other text is a deletion never written by us.
    pub(crate) fn of(name: &str) -> Self {
        match name {
            "ADDED" => Self::Added,
            "MODIFIED" => Self::Modified,
            _ => Self::Deleted,
        }
    }
}

/// One change of one object.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) kind: ChangeKind,
    pub(crate) key: Key,
    /// The object after the change; for a deletion its last state, with the revision of the deletion.
    pub(crate) object: Arc<Value>,
    /// The object before it. Unknown for a change that was read from the file and is its key's first there.
    pub(crate) old: Option<Arc<Value>>,
    /// Length of the JSON.
    pub(crate) bytes: usize,
}

/// The changes `compacted + 1 ..= revision`, without gaps: every revision is one change.
#[derive(Debug)]
pub(crate) struct Log {
    changes: VecDeque<Arc<Change>>,
    revision: u64,
    bytes: usize,
}

/// The wanted changes were forgotten.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Compacted {
    /// Oldest revision that can still be read after.
    pub(crate) oldest: u64,
}

impl Log {
    /// An empty log that stands at `revision`.
    pub(crate) fn new(revision: u64) -> Self {
        Self {
            changes: VecDeque::new(),
            revision,
            bytes: 0,
        }
    }

    /// The last revision.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Everything up to this revision is forgotten.
    pub(crate) fn compacted(&self) -> u64 {
        self.changes
            .front()
            .map_or(self.revision, |change| change.revision - 1)
    }

    /// Appends the next change and forgets what is over the limits. A gap forgets everything before it.
    pub(crate) fn push(&mut self, change: Change) {
        if change.revision != self.revision + 1 {
            self.changes.clear();
            self.bytes = 0;
        }
        self.revision = change.revision;
        self.bytes += change.bytes;
        self.changes.push_back(Arc::new(change));
        while self.changes.len() > MAX_CHANGES || (self.bytes > MAX_BYTES && self.changes.len() > 1)
        {
            if let Some(gone) = self.changes.pop_front() {
                self.bytes -= gone.bytes;
            }
        }
    }

    /// Forgets every change, as if it were long ago.
    pub(crate) fn forget(&mut self) {
        self.changes.clear();
        self.bytes = 0;
    }

    /// At most `limit` changes after `revision`, oldest first.
    pub(crate) fn after(&self, revision: u64, limit: usize) -> Result<Vec<Arc<Change>>, Compacted> {
        let oldest = self.compacted();
        if revision < oldest {
            return Err(Compacted { oldest });
        }
        let skip = usize::try_from(revision - oldest).unwrap_or(usize::MAX);
        Ok(self
            .changes
            .iter()
            .skip(skip)
            .take(limit)
            .cloned()
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: u64, bytes: usize) -> Change {
        Change {
            revision,
            kind: ChangeKind::Added,
            key: Key::new("", "secrets", "default", "x"),
            object: Arc::new(Value::Null),
            old: None,
            bytes,
        }
    }

    #[test]
    fn forgets_the_oldest_and_says_so() {
        let mut log = Log::new(1);
        for revision in 2..=(MAX_CHANGES as u64 + 6) {
            log.push(change(revision, 10));
        }
        assert_eq!(log.compacted(), 6);
        assert_eq!(log.after(5, 10).unwrap_err(), Compacted { oldest: 6 });
        assert_eq!(log.after(6, 3).unwrap()[0].revision, 7);
        assert!(log.after(log.revision(), 10).unwrap().is_empty());
    }

    #[test]
    fn is_bounded_in_bytes_too() {
        let mut log = Log::new(1);
        for revision in 2..10 {
            log.push(change(revision, MAX_BYTES / 2));
        }
        assert_eq!(log.after(7, 10).unwrap().len(), 2);
        assert!(log.after(6, 10).is_err());
    }
}
