//! Archives made by hand: whole, in pieces, cut and hostile.

use super::*;

#[derive(Default, Debug, PartialEq)]
struct Seen(Vec<(Entry, Vec<u8>, bool)>);

impl Sink for Seen {
    type Error = TarError;
    fn begin(&mut self, entry: Entry) -> Result<(), TarError> {
        self.0.push((entry, Vec::new(), false));
        Ok(())
    }
    fn data(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        self.0.last_mut().unwrap().1.extend_from_slice(bytes);
        Ok(())
    }
    fn end(&mut self) -> Result<(), TarError> {
        self.0.last_mut().unwrap().2 = true;
        Ok(())
    }
}

/// A header as PostgreSQL writes it, its checksum fitting.
fn header(name: &str, kind: u8, size: &[u8], link: &str) -> Vec<u8> {
    let mut header = vec![0; BLOCK];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[124..124 + size.len()].copy_from_slice(size);
    header[148..156].fill(b' ');
    header[156] = kind;
    header[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:07o} ").as_bytes());
    header
}

fn archive() -> Vec<u8> {
    let mut all = header("global/", b'5', b"00000000000 ", "");
    all.extend(header("./global/1", b'0', b"00000001000 ", ""));
    all.extend([7; 512]);
    all.extend(header("empty", b'0', b"00000000000 ", ""));
    all.extend(header("x", b'0', b"\x80\0\0\0\0\0\0\0\0\0\0\x03", ""));
    all.extend([9; 3]);
    all.extend([0; 509]);
    all.extend(header("pg_tblspc/5", b'2', b"00000000000 ", "/somewhere"));
    all
}

fn read(pieces: impl Iterator<Item = Vec<u8>>) -> Result<Seen, TarError> {
    let (mut reader, mut seen) = (TarReader::new(), Seen::default());
    for piece in pieces {
        reader.feed(&piece, &mut seen)?;
    }
    reader.finish().map(|()| seen)
}

#[test]
fn entries_come_out_however_the_bytes_come_in() {
    let mut all = archive();
    let whole = read([all.clone()].into_iter()).unwrap();
    assert_eq!(whole.0.len(), 5);
    assert_eq!(
        whole.0[1],
        (
            Entry::File {
                path: "global/1".into(),
                bytes: 512
            },
            vec![7; 512],
            true
        )
    );
    assert_eq!(
        whole.0[2],
        (
            Entry::File {
                path: "empty".into(),
                bytes: 0
            },
            vec![],
            true
        )
    );
    assert_eq!(whole.0[3].1, [9; 3]);
    for size in [1, 3, 511, 512, 513] {
        assert_eq!(
            read(all.chunks(size).map(<[u8]>::to_vec)).unwrap(),
            whole,
            "{size}"
        );
    }
    all.extend([0; 1024]);
    assert_eq!(read([all].into_iter()).unwrap(), whole);
}

#[test]
fn a_cut_archive_is_refused_wherever_the_cut_is() {
    let all = archive();
    // Between entries there is no telling: servers before 15 end there.
    let ends = [512, 1536, 2048, 3072, 3584];
    for cut in (1..all.len()).filter(|cut| !ends.contains(cut)) {
        let result = read([all[..cut].to_vec()].into_iter());
        assert!(matches!(result, Err(TarError::Truncated { .. })), "{cut}");
    }
}

#[test]
fn t36_what_a_base_backup_never_holds_is_refused() {
    let size = b"00000000000 ";
    let refusal = |header: Vec<u8>| read([header].into_iter()).unwrap_err();
    for path in ["../x", "a/../../x", "/etc/x", "..", "", "/"] {
        let error = refusal(header(path, b'0', size, ""));
        assert!(matches!(error, TarError::Path { .. }), "{path}: {error}");
    }
    for kind in [b'1', b'3', b'6', b'L', b'x', b'g'] {
        let error = refusal(header("a", kind, size, ""));
        assert!(matches!(error, TarError::Kind { .. }), "{kind}");
    }
    for bad in [
        &b"0000000008 "[..],
        b"-1",
        b"\xff\xff",
        b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        assert!(
            matches!(refusal(header("a", b'0', bad, "")), TarError::Size { .. }),
            "{bad:?}"
        );
    }
    assert!(matches!(
        refusal(header("a", b'5', b"00000001000 ", "")),
        TarError::Size { .. }
    ));
    let mut damaged = header("a", b'0', size, "");
    damaged[3] ^= 1;
    assert!(matches!(refusal(damaged), TarError::Header { .. }));
    let mut all = archive();
    all.extend([0; 512]);
    all.push(1);
    assert_eq!(refusal(all), TarError::AfterEnd);
}

fn of_others(archive: &[u8], piece: usize) -> Result<Seen, TarError> {
    let (mut reader, mut seen) = (TarReader::of_others(), Seen::default());
    for piece in archive.chunks(piece) {
        reader.feed(piece, &mut seen)?;
    }
    reader.finish().map(|()| seen)
}

/// A header as GNU's tar and programs like it write it.
fn gnu(name: &str, kind: u8, bytes: usize) -> Vec<u8> {
    let mut made = header(name, kind, format!("{bytes:011o} ").as_bytes(), "");
    made[257..265].copy_from_slice(b"ustar  \0");
    // What stands in the place of the prefix is none.
    made[345..348].copy_from_slice(b"123");
    made[148..156].fill(b' ');
    let sum: u64 = made.iter().map(|byte| u64::from(*byte)).sum();
    made[148..156].copy_from_slice(format!("{sum:07o} ").as_bytes());
    made
}

fn block(words: &[u8]) -> Vec<u8> {
    let mut block = words.to_vec();
    block.resize(words.len().next_multiple_of(BLOCK), 0);
    block
}

#[test]
fn archives_of_other_programs_have_long_names_and_roots() {
    let long = "d/".repeat(80) + "f";
    let pax = |words: &str| [gnu("pax", b'x', words.len()), block(words.as_bytes())].concat();
    let all = [
        gnu("/global/pg_control", b'0', 3),
        block(b"abc"),
        gnu("././@LongLink", b'L', long.len() + 1),
        block(format!("{long}\0").as_bytes()),
        gnu("cut", b'0', 1),
        block(b"x"),
        pax("13 path=/p/q\n9 size=2\n18 mtime=1.000001\n"),
        gnu("other", b'0', 7),
        block(b"pq"),
        gnu("plain", b'0', 0),
        vec![0; 2 * BLOCK],
    ]
    .concat();
    for piece in [1, 7, BLOCK, all.len()] {
        let seen = of_others(&all, piece).unwrap();
        let found: Vec<(String, Vec<u8>)> = seen
            .0
            .into_iter()
            .map(|(entry, content, is_whole)| match entry {
                Entry::File { path, .. } if is_whole => (path.display().to_string(), content),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = [
            ("global/pg_control", &b"abc"[..]),
            (&long, b"x"),
            ("p/q", b"pq"),
            ("plain", b""),
        ];
        let expected = expected.map(|(path, content)| (path.to_owned(), content.to_vec()));
        assert_eq!(found, expected);
    }
    // A server makes none of these.
    assert!(read([gnu("a", b'0', 0)].into_iter()).is_err());
}

#[test]
fn t36_words_about_an_entry_lead_nowhere_and_have_an_end() {
    let pax = |words: &str| {
        let all = [
            gnu("pax", b'x', words.len()),
            block(words.as_bytes()),
            gnu("f", b'0', 0),
        ];
        of_others(&all.concat(), 100)
    };
    for words in ["16 path=../../x\n", "15 path=a/../b\n"] {
        assert!(
            matches!(pax(words), Err(TarError::Path { .. })),
            "{words:?}"
        );
    }
    for words in [
        "5",
        "x path=a\n",
        "99 path=a\n",
        "9 path=a\n0",
        "12 size=-12\n",
        "0 a=b\n",
        "24 GNU.sparse.major=1.0\n",
    ] {
        assert!(
            matches!(pax(words), Err(TarError::Words { .. })),
            "{words:?}"
        );
    }
    let long = gnu("././@LongLink", b'L', 1 << 20);
    assert!(matches!(of_others(&long, 512), Err(TarError::Words { .. })));
    for path in ["../a", "/../a", "a/../../b", "/"] {
        let refused = of_others(&gnu(path, b'0', 0), 512);
        assert!(
            matches!(refused, Err(TarError::Path { .. })),
            "{path}: {refused:?}"
        );
    }
}
