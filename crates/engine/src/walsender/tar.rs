//! Reads a ustar archive as it arrives: what a server sends in a base backup, and nothing beyond that.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

const BLOCK: usize = 512;

/// What an archive holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A file; its bytes follow.
    File {
        path: PathBuf,
        bytes: u64,
    },
    Folder {
        path: PathBuf,
    },
    Link {
        path: PathBuf,
        target: PathBuf,
    },
}

/// Takes what is read. Paths are relative and stay below where they begin.
pub(super) trait Sink {
    type Error: From<TarError>;
    fn begin(&mut self, entry: Entry) -> Result<(), Self::Error>;
    /// Bytes of the file that was begun last.
    fn data(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;
    /// The file that was begun last is complete.
    fn end(&mut self) -> Result<(), Self::Error>;
}

/// Why an archive was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    /// A header that is damaged, or none.
    #[error("failed to read an archive: the header after {after:?} is damaged")]
    Header {
        /// Path of the entry before.
        after: PathBuf,
    },
    /// A number that is none, or too large.
    #[error("failed to read an archive: the size of {path:?} is no size")]
    Size {
        /// The entry.
        path: PathBuf,
    },
    /// A path that leads elsewhere.
    #[error("failed to read an archive: the path {path:?} is refused")]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// Neither file, folder nor symbolic link.
    #[error(
        "failed to read an archive: {path:?} is of type {kind:?}, which a base backup never holds"
    )]
    Kind {
        /// The entry.
        path: PathBuf,
        /// Its type.
        kind: char,
    },
    /// The archive ends within an entry.
    #[error("failed to read an archive: it ends within what follows {after:?}")]
    Truncated {
        /// Path of the last entry that began.
        after: PathBuf,
    },
    /// Something comes after the end.
    #[error("failed to read an archive: data follow its end")]
    AfterEnd,
}

enum State {
    /// Collecting a header.
    Header,
    /// Within a file: bytes of it still to come.
    Body(u64),
    /// Between a file and the next header: bytes still to skip.
    Padding(usize),
    /// Zero blocks were read; only more may follow.
    Ended,
}

/// A reader into which an archive is fed piece by piece.
pub(super) struct TarReader {
    state: State,
    header: Vec<u8>,
    padding: usize,
    last: PathBuf,
}

impl TarReader {
    pub(super) fn new() -> Self {
        Self {
            state: State::Header,
            header: Vec::with_capacity(BLOCK),
            padding: 0,
            last: PathBuf::new(),
        }
    }

    /// Reads a piece of any length. Every round takes at least a byte of it.
    pub(super) fn feed<S: Sink>(&mut self, mut bytes: &[u8], sink: &mut S) -> Result<(), S::Error> {
        while !bytes.is_empty() {
            let (taken, next) = match self.state {
                State::Header => {
                    let taken = bytes.len().min(BLOCK - self.header.len());
                    self.header.extend_from_slice(&bytes[..taken]);
                    (taken, self.after_header(sink)?)
                }
                State::Body(left) => {
                    let taken =
                        usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                    sink.data(&bytes[..taken])?;
                    (taken, self.after_body(left - taken as u64, sink)?)
                }
                State::Padding(left) => {
                    let taken = left.min(bytes.len());
                    (taken, padding(left - taken))
                }
                State::Ended if bytes.iter().any(|byte| *byte != 0) => {
                    return Err(TarError::AfterEnd.into());
                }
                State::Ended => (bytes.len(), State::Ended),
            };
            self.state = next;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Checks that nothing is missing. Servers before 15 leave the closing zero blocks out.
    pub(super) fn finish(self) -> Result<(), TarError> {
        match self.state {
            State::Ended => Ok(()),
            State::Header if self.header.is_empty() => Ok(()),
            _ => Err(TarError::Truncated { after: self.last }),
        }
    }

    fn after_header<S: Sink>(&mut self, sink: &mut S) -> Result<State, S::Error> {
        if self.header.len() < BLOCK {
            return Ok(State::Header);
        }
        if self.header.iter().all(|byte| *byte == 0) {
            return Ok(State::Ended);
        }
        let entry = parse(&self.header, &self.last)?;
        self.header.clear();
        let (path, bytes) = match &entry {
            Entry::File { path, bytes } => (path, Some(*bytes)),
            Entry::Folder { path } | Entry::Link { path, .. } => (path, None),
        };
        self.last.clone_from(path);
        sink.begin(entry)?;
        match bytes {
            None => Ok(State::Header),
            Some(bytes) => {
                let over = usize::try_from(bytes % BLOCK as u64).unwrap_or(0);
                self.padding = (BLOCK - over) % BLOCK;
                self.after_body(bytes, sink)
            }
        }
    }

    fn after_body<S: Sink>(&mut self, left: u64, sink: &mut S) -> Result<State, S::Error> {
        if left > 0 {
            return Ok(State::Body(left));
        }
        sink.end()?;
        Ok(padding(self.padding))
    }
}

fn padding(left: usize) -> State {
    if left > 0 {
        State::Padding(left)
    } else {
        State::Header
    }
}

fn parse(header: &[u8], after: &Path) -> Result<Entry, TarError> {
    let damaged = || TarError::Header {
        after: after.to_owned(),
    };
    let stored = number(&header[148..156]).ok_or_else(damaged)?;
    let sum: u64 = header
        .iter()
        .enumerate()
        .map(|(at, byte)| {
            if (148..156).contains(&at) {
                u64::from(b' ')
            } else {
                u64::from(*byte)
            }
        })
        .sum();
    if sum != stored || &header[257..263] != b"ustar\0" {
        return Err(damaged());
    }
    let path = safe_path(&header[345..500], &header[..100])?;
    let bytes = number(&header[124..136]).ok_or_else(|| TarError::Size { path: path.clone() })?;
    let kind = header[156];
    if matches!(kind, b'2' | b'5') && bytes > 0 {
        return Err(TarError::Size { path });
    }
    match kind {
        b'0' | 0 => Ok(Entry::File { path, bytes }),
        b'5' => Ok(Entry::Folder { path }),
        b'2' => Ok(Entry::Link {
            path,
            target: PathBuf::from(OsStr::from_bytes(text(&header[157..257]))),
        }),
        other => Err(TarError::Kind {
            path,
            kind: char::from(other),
        }),
    }
}

/// Joins prefix and name, and refuses what could lead out of the folder.
fn safe_path(prefix: &[u8], name: &[u8]) -> Result<PathBuf, TarError> {
    let whole = Path::new(OsStr::from_bytes(text(prefix))).join(OsStr::from_bytes(text(name)));
    let refused = || TarError::Path {
        path: whole.clone(),
    };
    let mut safe = PathBuf::new();
    for component in whole.components() {
        match component {
            Component::Normal(part) => safe.push(part),
            Component::CurDir => {}
            _ => return Err(refused()),
        }
    }
    if safe.as_os_str().is_empty() {
        Err(refused())
    } else {
        Ok(safe)
    }
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number in octal digits, closed by a space or a zero; or, with the top bit set, in binary.
fn number(field: &[u8]) -> Option<u64> {
    match field.split_first()? {
        (0x80, rest) => rest.iter().try_fold(0u64, |sum, byte| {
            Some(sum.checked_mul(256)? | u64::from(*byte))
        }),
        _ => {
            let end = field
                .iter()
                .position(|byte| matches!(byte, 0 | b' '))
                .unwrap_or(field.len());
            let digits = std::str::from_utf8(&field[..end]).ok()?;
            let is_octal = digits.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
            let rest_is_empty = field[end..].iter().all(|byte| matches!(byte, 0 | b' '));
            (is_octal && rest_is_empty).then(|| u64::from_str_radix(digits, 8).ok())?
        }
    }
}

/// What an archive holds that arrives in pieces of these lengths, in turn.
pub(crate) fn entries(
    mut bytes: &[u8],
    pieces: &[usize],
) -> Result<Vec<(PathBuf, u64, bool)>, TarError> {
    #[derive(Default)]
    struct Seen(Vec<(PathBuf, u64, bool)>);
    impl Sink for Seen {
        type Error = TarError;
        fn begin(&mut self, entry: Entry) -> Result<(), TarError> {
            let (Entry::File { path, .. } | Entry::Folder { path } | Entry::Link { path, .. }) =
                entry;
            self.0.push((path, 0, false));
            Ok(())
        }
        fn data(&mut self, bytes: &[u8]) -> Result<(), TarError> {
            if let Some((_, length, _)) = self.0.last_mut() {
                *length += bytes.len() as u64;
            }
            Ok(())
        }
        fn end(&mut self) -> Result<(), TarError> {
            if let Some((_, _, is_whole)) = self.0.last_mut() {
                *is_whole = true;
            }
            Ok(())
        }
    }
    let (mut reader, mut seen) = (TarReader::new(), Seen::default());
    for length in pieces.iter().cycle() {
        let (piece, rest) = bytes.split_at((*length).clamp(1, bytes.len().max(1)).min(bytes.len()));
        reader.feed(piece, &mut seen)?;
        bytes = rest;
        if bytes.is_empty() {
            break;
        }
    }
    reader.finish().map(|()| seen.0)
}

#[cfg(test)]
mod tests;
