//! What wal-g and its like write: archives, what they are packed with, increments, and what says that a backup is complete.

use kubedb_engine::readers;

use super::{
    postgres::{tar_seeds as seeds_of_servers, with_checksums},
    said, texts,
};

/// Most that is unpacked of one input.
const LIMIT: u64 = 1 << 20;

pub(super) fn tar(bytes: &[u8]) -> String {
    let fitted = with_checksums(bytes);
    let whole = readers::tar_of_others(&fitted, &[usize::MAX]);
    for pieces in [&[1][..], &[511, 1, 513], &[7, 4_096]] {
        assert_eq!(readers::tar_of_others(&fitted, pieces), whole, "{pieces:?}");
    }
    if let Ok(files) = &whole {
        for (path, _, _) in files {
            assert!(readers::stays_below(path), "{path:?}");
        }
        let came: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        assert!(came <= fitted.len() as u64, "{came}");
    }
    said(whole)
}

pub(super) fn tar_seeds() -> Vec<Vec<u8>> {
    let mut seeds = seeds_of_servers();
    let of = |name: &[u8], kind: u8, words: &[u8]| {
        let mut block = vec![0; 1_024];
        block[..name.len()].copy_from_slice(name);
        block[124..136].copy_from_slice(format!("{:011o} ", words.len()).as_bytes());
        block[156] = kind;
        block[257..265].copy_from_slice(b"ustar  \0");
        block[512..512 + words.len()].copy_from_slice(words);
        block
    };
    let file = of(b"/base/1/2", b'0', b"page");
    seeds.push([of(b"pax", b'x', b"13 path=/p/q\n9 size=2\n"), file.clone()].concat());
    seeds.push([of(b"long", b'L', b"a/long/name\0"), file].concat());
    seeds
}

pub(super) fn sentinel(bytes: &[u8]) -> String {
    said(readers::sentinel(bytes))
}

pub(super) fn sentinel_seeds() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"LSN":33554472,"PgVersion":150018,"FinishLSN":33554720,"SystemIdentifier":7577777777777777777,"UncompressedSize":23,"Spec":{"base_prefix":"/d","tablespaces":["16385"]},"Version":2,"FinishTime":"2026-11-26T14:05:00.123Z"}"#,
        r#"{"LSN":1,"DeltaFrom":"base_000000010000000000000003","DeltaLSN":1,"DeltaCount":1}"#,
    ])
}

/// Whatever comes, no more than asked for comes out.
pub(super) fn packed(bytes: &[u8]) -> String {
    let ends = ["a.lz4", "a.zst", "a.br", "a"];
    let all = ends.map(|name| {
        let unpacked = readers::packed(name, bytes, LIMIT);
        if let Ok(content) = &unpacked {
            assert!(content.len() as u64 <= LIMIT, "{name}");
        }
        if unpacked.is_ok() { "1" } else { "0" }
    });
    all.concat()
}

pub(super) fn packed_seeds() -> Vec<Vec<u8>> {
    vec![
        // A frame of lz4, one of zstd, and brotli, each of a few letters.
        b"\x04\x22\x4d\x18\x60\x40\x82\x03\0\0\x80abc\0\0\0\0".to_vec(),
        b"\x28\xb5\x2f\xfd\x20\x03\x19\0\0abc".to_vec(),
        b"\x0b\x01\x80abc\x03".to_vec(),
    ]
}

pub(super) fn increment(bytes: &[u8]) -> String {
    let whole = readers::increment(bytes, usize::MAX);
    for piece in [1, 17, 8_192] {
        let pieces = readers::increment(bytes, piece);
        assert_eq!(pieces.is_ok(), whole.is_ok(), "{piece}");
    }
    if let Ok((length, pages)) = &whole {
        assert!(u64::from(*pages) * 8_192 <= bytes.len() as u64, "{length}");
    }
    said(whole)
}

pub(super) fn increment_seeds() -> Vec<Vec<u8>> {
    let mut one = b"wi1\x55".to_vec();
    one.extend(16_384_u64.to_le_bytes());
    one.extend(1_u32.to_le_bytes());
    one.extend(1_u32.to_le_bytes());
    one.extend([7; 8_192]);
    vec![one]
}
