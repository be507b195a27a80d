//! How an object is packed, as the end of its name says.

use std::{
    io::{self, Read},
    marker::PhantomData,
};

use super::lz4::Frames;

/// Bytes that a decoder of brotli reads at once.
const BROTLI_BUFFER: usize = 64 << 10;

/// What an object is packed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    /// With nothing.
    Plain,
    Lz4,
    Zstd,
    Brotli,
    /// With something that is not read here.
    Other(String),
}

/// Those that are read, by the ends of names.
pub(super) const KNOWN: [(&str, Codec); 4] = [
    (".lz4", Codec::Lz4),
    (".zst", Codec::Zstd),
    (".br", Codec::Brotli),
    ("", Codec::Plain),
];

impl Codec {
    /// Takes a name apart: `part_001.tar.lz4` is `part_001.tar`, packed with lz4. A history's name has a dot of its own.
    pub(super) fn of(name: &str) -> (&str, Self) {
        for (end, codec) in KNOWN {
            if !end.is_empty()
                && let Some(stem) = name.strip_suffix(end)
            {
                return (stem, codec);
            }
        }
        match name.rsplit_once('.') {
            Some((stem, other @ ("lzma" | "lzo" | "gz" | "xz" | "bz2"))) => {
                (stem, Self::Other(other.to_owned()))
            }
            _ => (name, Self::Plain),
        }
    }

    /// Reads what is packed. Memory has a bound, whatever comes: a window of 128 MiB at most.
    pub(super) fn reader<'a, R: Read + 'a>(&self, packed: R) -> io::Result<Box<dyn Read + 'a>> {
        let counted = |packed| Counted {
            inner: packed,
            begun: false,
        };
        Ok(match self {
            Self::Plain => Box::new(packed),
            Self::Lz4 => Box::new(Frames::new(packed)),
            Self::Zstd => Box::new(Begun {
                decoder: zstd::Decoder::new(counted(packed))?,
                packed: PhantomData,
                of: |decoder| decoder.get_ref().get_ref(),
            }),
            Self::Brotli => Box::new(brotli_decompressor::Decompressor::new(
                packed,
                BROTLI_BUFFER,
            )),
            Self::Other(name) => {
                return Err(io::Error::other(format!(
                    "it is packed with {name}, which is not read here"
                )));
            }
        })
    }
}

/// What is packed, if there is anything: the decoder takes nothing at all for a frame of nothing.
struct Begun<R, D> {
    decoder: D,
    packed: PhantomData<R>,
    of: fn(&D) -> &Counted<R>,
}

impl<R: Read, D: Read> Read for Begun<R, D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.decoder.read(buffer)? {
            0 if !buffer.is_empty() && !(self.of)(&self.decoder).begun => {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is empty"))
            }
            read => Ok(read),
        }
    }
}

/// Knows whether anything came.
struct Counted<R> {
    inner: R,
    begun: bool,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.begun |= read > 0;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn lz4(content: &[u8]) -> Vec<u8> {
        let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn unpack(codec: &Codec, packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        codec.reader(packed)?.read_to_end(&mut content)?;
        Ok(content)
    }

    #[test]
    fn names_tell_how_an_object_is_packed() {
        for (name, stem, codec) in [
            ("part_001.tar.lz4", "part_001.tar", Codec::Lz4),
            ("part_001.tar.zst", "part_001.tar", Codec::Zstd),
            ("part_001.tar.br", "part_001.tar", Codec::Brotli),
            ("part_001.tar", "part_001.tar", Codec::Plain),
            ("00000002.history", "00000002.history", Codec::Plain),
            ("00000002.history.lz4", "00000002.history", Codec::Lz4),
            ("a.lzma", "a", Codec::Other("lzma".to_owned())),
        ] {
            assert_eq!(Codec::of(name), (stem, codec), "{name}");
        }
        let refused = unpack(&Codec::Other("lzma".to_owned()), b"x");
        assert!(refused.unwrap_err().to_string().contains("lzma"));
    }

    #[test]
    fn t02_what_is_cut_short_is_not_taken_for_whole() {
        let content: Vec<u8> = (0..300_000_u32).map(|at| (at / 7 % 251) as u8).collect();
        let packed = [
            (Codec::Lz4, lz4(&content)),
            (Codec::Zstd, zstd::encode_all(&content[..], 1).unwrap()),
        ];
        for (codec, packed) in packed {
            assert_eq!(unpack(&codec, &packed).unwrap(), content);
            for length in [0, 1, 5, packed.len() / 2, packed.len() - 1] {
                assert!(
                    unpack(&codec, &packed[..length]).is_err(),
                    "{codec:?} {length}"
                );
            }
        }
    }
}
