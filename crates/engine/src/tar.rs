//! Reads a tar archive as it arrives: what a server sends in a base backup, and nothing beyond that; or what other tools make of a data folder.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

const BLOCK: usize = 512;

/// What an archive holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
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
pub(crate) trait Sink {
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
    /// A long name, or other words about an entry, that make no sense.
    #[error("failed to read an archive: what is said of the entry after {after:?} is damaged")]
    Words {
        /// Path of the entry before.
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

/// Longest words about one entry: two paths and some numbers.
const WORDS_BYTES: u64 = 64 << 10;

/// Who made an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Maker {
    /// A PostgreSQL server.
    Server,
    /// Any other program: paths may begin with a slash, which means the archive's own root, and words about an entry may come before it.
    Other,
}

/// What is said of the next entry, as its header has no room for it.
#[derive(Debug, Default)]
struct Words {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    bytes: Option<u64>,
}

/// A reader into which an archive is fed piece by piece.
pub(crate) struct TarReader {
    state: State,
    header: Vec<u8>,
    padding: usize,
    last: PathBuf,
    maker: Maker,
    words: Words,
    /// Words that are being read, and of which kind they are.
    reading: Option<(u8, Vec<u8>)>,
}

impl TarReader {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Header,
            header: Vec::with_capacity(BLOCK),
            padding: 0,
            last: PathBuf::new(),
            maker: Maker::Server,
            words: Words::default(),
            reading: None,
        }
    }

    /// The same of what other programs make.
    pub(crate) fn of_others() -> Self {
        Self {
            maker: Maker::Other,
            ..Self::new()
        }
    }

    /// Reads a piece of any length. Every round takes at least a byte of it.
    pub(crate) fn feed<S: Sink>(&mut self, mut bytes: &[u8], sink: &mut S) -> Result<(), S::Error> {
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
                    match &mut self.reading {
                        Some((_, words)) => words.extend_from_slice(&bytes[..taken]),
                        None => sink.data(&bytes[..taken])?,
                    }
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
    pub(crate) fn finish(self) -> Result<(), TarError> {
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
        if let Some(bytes) = self.begin_words()? {
            self.header.clear();
            return self.with_padding(bytes, sink);
        }
        let words = std::mem::take(&mut self.words);
        let entry = parse(&self.header, &self.last, self.maker, words)?;
        self.header.clear();
        let (path, bytes) = match &entry {
            Entry::File { path, bytes } => (path, Some(*bytes)),
            Entry::Folder { path } | Entry::Link { path, .. } => (path, None),
        };
        self.last.clone_from(path);
        sink.begin(entry)?;
        match bytes {
            None => Ok(State::Header),
            Some(bytes) => self.with_padding(bytes, sink),
        }
    }

    fn with_padding<S: Sink>(&mut self, bytes: u64, sink: &mut S) -> Result<State, S::Error> {
        let over = usize::try_from(bytes % BLOCK as u64).unwrap_or(0);
        self.padding = (BLOCK - over) % BLOCK;
        self.after_body(bytes, sink)
    }

    /// Begins to read words about the next entry, or about all, if the header says that they follow; gives how many bytes they have.
    fn begin_words(&mut self) -> Result<Option<u64>, TarError> {
        let kind = self.header[156];
        if self.maker == Maker::Server || !matches!(kind, b'x' | b'g' | b'L' | b'K') {
            return Ok(None);
        }
        let after = self.last.clone();
        check_sum(&self.header, &self.last)?;
        let bytes = number(&self.header[124..136]).filter(|bytes| *bytes <= WORDS_BYTES);
        let bytes = bytes.ok_or(TarError::Words { after })?;
        self.reading = Some((kind, Vec::new()));
        Ok(Some(bytes))
    }

    fn end_words(&mut self, kind: u8, words: &[u8]) -> Result<(), TarError> {
        let damaged = || TarError::Words {
            after: self.last.clone(),
        };
        match kind {
            b'L' => self.words.path = Some(text(words).to_vec()),
            b'K' => self.words.target = Some(text(words).to_vec()),
            // What is said of all entries is who made the archive, and when.
            b'g' => {}
            _ => {
                for (name, value) in records(words).ok_or_else(damaged)? {
                    match name {
                        b"path" => self.words.path = Some(value.to_vec()),
                        b"linkpath" => self.words.target = Some(value.to_vec()),
                        b"size" => {
                            let digits = std::str::from_utf8(value).ok();
                            let bytes = digits.and_then(|digits| digits.parse().ok());
                            self.words.bytes = Some(bytes.ok_or_else(damaged)?);
                        }
                        // Sparse files and their like are laid out otherwise.
                        name if name.starts_with(b"GNU.sparse") => return Err(damaged()),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    fn after_body<S: Sink>(&mut self, left: u64, sink: &mut S) -> Result<State, S::Error> {
        if left > 0 {
            return Ok(State::Body(left));
        }
        match self.reading.take() {
            Some((kind, words)) => self.end_words(kind, &words)?,
            None => sink.end()?,
        }
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

/// Records of a length in decimal digits, a space, a name, an equals sign, a value and an end of line.
fn records(mut words: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut found = Vec::new();
    while !words.is_empty() {
        let space = words.iter().position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(&words[..space]).ok()?.parse().ok()?;
        let record = words.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        found.push((&record[..equals], &record[equals + 1..]));
        words = &words[length..];
    }
    Some(found)
}

/// Refuses a header that does not carry its own sum.
fn check_sum(header: &[u8], after: &Path) -> Result<(), TarError> {
    let stored = number(&header[148..156]);
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
    if stored == Some(sum) {
        return Ok(());
    }
    Err(TarError::Header {
        after: after.to_owned(),
    })
}

fn parse(header: &[u8], after: &Path, maker: Maker, words: Words) -> Result<Entry, TarError> {
    check_sum(header, after)?;
    let prefix = match &header[257..263] {
        b"ustar\0" => &header[345..500],
        // GNU has other things in the place of the prefix.
        b"ustar " if maker == Maker::Other => &[],
        _ => {
            return Err(TarError::Header {
                after: after.to_owned(),
            });
        }
    };
    let path = match &words.path {
        Some(path) => safe_path(&[], path, maker)?,
        None => safe_path(prefix, &header[..100], maker)?,
    };
    let bytes = words.bytes.or_else(|| number(&header[124..136]));
    let bytes = bytes.ok_or_else(|| TarError::Size { path: path.clone() })?;
    let kind = header[156];
    if matches!(kind, b'2' | b'5') && bytes > 0 {
        return Err(TarError::Size { path });
    }
    match kind {
        b'0' | 0 => Ok(Entry::File { path, bytes }),
        b'5' => Ok(Entry::Folder { path }),
        b'2' => Ok(Entry::Link {
            path,
            target: PathBuf::from(OsStr::from_bytes(
                words.target.as_deref().unwrap_or(text(&header[157..257])),
            )),
        }),
        other => Err(TarError::Kind {
            path,
            kind: char::from(other),
        }),
    }
}

/// Joins prefix and name, and refuses what could lead out of the folder.
fn safe_path(prefix: &[u8], name: &[u8], maker: Maker) -> Result<PathBuf, TarError> {
    let whole = if prefix.is_empty() {
        PathBuf::from(OsStr::from_bytes(text(name)))
    } else {
        Path::new(OsStr::from_bytes(text(prefix))).join(OsStr::from_bytes(text(name)))
    };
    let refused = || TarError::Path {
        path: whole.clone(),
    };
    let mut safe = PathBuf::new();
    for component in whole.components() {
        match component {
            Component::Normal(part) => safe.push(part),
            Component::CurDir => {}
            // It comes first, or not at all.
            Component::RootDir if maker == Maker::Other => {}
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
    bytes: &[u8],
    pieces: &[usize],
) -> Result<Vec<(PathBuf, u64, bool)>, TarError> {
    read_all(TarReader::new(), bytes, pieces)
}

/// The same of what other programs make.
pub(crate) fn entries_of_others(
    bytes: &[u8],
    pieces: &[usize],
) -> Result<Vec<(PathBuf, u64, bool)>, TarError> {
    read_all(TarReader::of_others(), bytes, pieces)
}

fn read_all(
    mut reader: TarReader,
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
    let mut seen = Seen::default();
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
