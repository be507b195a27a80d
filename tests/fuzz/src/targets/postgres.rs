//! What PostgreSQL writes: archives, its control file, WAL and labels.

use kubedb_core::lsn::Lsn;
use kubedb_engine::{postgres::control::ControlFile, readers};

use super::{said, texts};

const BLOCK: usize = 512;

/// An archive, with its checksums made to fit, however it is cut.
pub(super) fn tar(bytes: &[u8]) -> String {
    let fitted = with_checksums(bytes);
    let whole = readers::tar(&fitted, &[usize::MAX]);
    for pieces in [&[1][..], &[511, 1, 513], &[7, 4_096]] {
        assert_eq!(readers::tar(&fitted, pieces), whole, "{pieces:?}");
    }
    if let Ok(files) = &whole {
        for (path, _, _) in files {
            assert!(readers::stays_below(path), "{path:?}");
        }
        let came: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        assert!(came <= fitted.len() as u64, "{came}");
    }
    let plain = readers::tar(bytes, &[usize::MAX]);
    format!("{} {}", said(whole), said(plain))
}

/// Walks as a reader does, and puts the right sum into every header.
pub(super) fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut at = 0;
    while let Some(header) = bytes.get_mut(at..at + BLOCK) {
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        header[148..156].fill(b' ');
        let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:07o} ").as_bytes());
        let size = std::str::from_utf8(&header[124..135]).ok();
        let size = size.and_then(|size| usize::from_str_radix(size.trim(), 8).ok());
        at += BLOCK + size.unwrap_or(0).div_ceil(BLOCK).min(1 << 20) * BLOCK;
    }
    bytes
}

pub(super) fn tar_seeds() -> Vec<Vec<u8>> {
    let header = |name: &str, kind: u8, size: &str| {
        let mut header = vec![0; BLOCK];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..124 + size.len()].copy_from_slice(size.as_bytes());
        header[156] = kind;
        header[157..167].copy_from_slice(b"/somewhere");
        header[257..265].copy_from_slice(b"ustar\x0000");
        header
    };
    let files = [
        header("global/", b'5', "00000000000 "),
        header("global/1", b'0', "00000001000 "),
        vec![7; BLOCK],
        header("empty", b'0', "00000000000 "),
        header("pg_tblspc/5", b'2', "00000000000 "),
        vec![0; 2 * BLOCK],
    ];
    vec![files.concat(), files[..3].concat()]
}

pub(super) fn backup_label(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    match readers::backup_label(&text) {
        Some(timeline) => {
            assert!(
                text.to_uppercase().contains(&format!("{timeline:08X}")),
                "{timeline}"
            );
            "read".to_owned()
        }
        None => "no timeline".to_owned(),
    }
}

pub(super) fn label_seeds() -> Vec<Vec<u8>> {
    texts(&[
        "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-24 00:00:00 UTC\nLABEL: kubedb\nSTART TIMELINE: 1\n",
        "(file ",
    ])
}

/// The control file as it is, and with a sum that fits.
pub(super) fn control(bytes: &[u8]) -> String {
    let plain = ControlFile::parse(bytes);
    let mut fitted = bytes.to_vec();
    for crc in [256, 288] {
        if let Some(sum) = bytes.get(..crc).map(crc32c)
            && let Some(place) = fitted.get_mut(crc..crc + 4)
        {
            place.copy_from_slice(&sum.to_le_bytes());
            if let Ok(control) = ControlFile::parse(&fitted) {
                fitted.resize(8_192, 0);
                let padded = ControlFile::parse(&fitted).expect("padding is not looked at");
                assert_eq!(control, padded);
                return format!("{:?}", control.state);
            }
        }
        fitted = bytes.to_vec();
    }
    said(plain)
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0x82F6_3B78 & (sum & 1).wrapping_neg())
        })
    })
}

pub(super) fn control_seeds() -> Vec<Vec<u8>> {
    let of = |version: u32| {
        let mut bytes = vec![0; 300];
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        bytes
    };
    vec![of(960), of(1300), of(1700)]
}

/// Pages of WAL. Three bytes in front say where the pages begin, and the backup begins and stops, in units of 512 bytes behind a segment's begin.
pub(super) fn wal(bytes: &[u8]) -> String {
    let Some(([begin, start, stop], pages)) = bytes.split_first_chunk::<3>() else {
        return "too short".to_owned();
    };
    let at = |unit: &u8| (1 << 20) + u64::from(*unit) * 512;
    let begin = at(begin) & !8_191;
    said(readers::wal(pages, begin, at(start), at(stop)))
}

pub(super) fn wal_seeds() -> Vec<Vec<u8>> {
    let mut pages = vec![0; 3 * 8_192];
    for (number, page) in pages.chunks_mut(8_192).enumerate() {
        let position = (1 << 20) + (number as u64) * 8_192;
        page[8..16].copy_from_slice(&position.to_le_bytes());
        page[24] = 7;
    }
    vec![
        [&[0, 1, 40][..], &pages].concat(),
        [&[0, 1, 48][..], &pages].concat(),
    ]
}

/// Positions in the WAL: what was read is written the same, but for the case of letters and zeros in front.
pub(super) fn lsn(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let read = text.parse::<Lsn>();
    if let Ok(lsn) = read {
        assert_eq!(lsn.to_string().parse::<Lsn>().as_ref(), Ok(&lsn));
    }
    said(read)
}

pub(super) fn lsn_seeds() -> Vec<Vec<u8>> {
    texts(&["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF", "0/100000000"])
}
