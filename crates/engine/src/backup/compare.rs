//! Which pages of a stretch are taken from an earlier Snapshot, and which are stored. Pure.
//!
//! A page of a relation's main fork says by its LSN when it was last changed. That is believed where pages carry checksums: then every first change
//! of a page after a checkpoint is written to the WAL whole, hints and visibility included, and moves the LSN beyond the checkpoint that the earlier
//! Snapshot began with. What changes unseen later in the same round of checkpoints has that LSN already. Everything else (free space and visibility
//! maps, which are changed without a trace in their own pages; commit logs; files of no relation; databases that were copied file by file under a
//! number that was used before) is compared by its hash.

use std::{collections::HashSet, ops::Range, sync::Arc};

use kubedb_core::lsn::Lsn;

use crate::{
    postgres::page::{self, PAGE_BYTES},
    repository::map::Codec,
};

/// Something stored in a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Name of the pack.
    pub(super) pack: Arc<str>,
    pub(super) offset: u64,
    pub(super) stored: u32,
    /// Its length, unpacked.
    pub(super) whole: u32,
    pub(super) codec: Codec,
    pub(super) blake3: blake3::Hash,
}

/// A part of a file that lies in a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Where in the file.
    pub(super) at: u64,
    pub(super) raw: u32,
    /// Where in the frame, unpacked.
    pub(super) from: u32,
    pub(super) frame: Arc<Frame>,
    /// Its own hash, where it is a part of the frame of which others are of no use any more: the frame's tells nothing of it then.
    pub(super) blake3: Option<blake3::Hash>,
}

/// How to find out what has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tells {
    /// Pages that were not changed since.
    Pages {
        since: Lsn,
        /// Whether hash indexes are in the WAL, as they are from 10 on. Before, their pages change without a trace.
        logs_hash_indexes: bool,
    },
    /// The hash of the content.
    Content,
}

/// What becomes of a stretch. What neither covers is zero.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// Taken from earlier Snapshots, in order.
    pub(super) kept: Vec<Run>,
    /// To be stored together: offsets within the stretch, in order.
    pub(super) fresh: Vec<Range<usize>>,
}

impl Choice {
    fn whole(buffer: &[u8]) -> Self {
        Self {
            kept: Vec::new(),
            fresh: std::iter::once(0..buffer.len()).collect(),
        }
    }
}

/// Of what was unpacked to get a stretch, so many times as much as the stretch has may be of no use. Then it is stored anew: whoever changes pages
/// pays for them at most twice, and a restore unpacks at most twice the database.
const WASTE: u64 = 2;

/// Decides on a stretch that begins at `at` of its file. `base` has what an earlier Snapshot has of it, in order.
pub(super) fn choose(buffer: &[u8], at: u64, base: &[Run], tells: Tells) -> Choice {
    if is_zero(buffer) {
        return Choice::default();
    }
    match tells {
        Tells::Pages {
            since,
            logs_hash_indexes,
        } if !base.is_empty() => by_pages(buffer, at, base, |page| {
            let lsn = page::lsn(page);
            // An LSN of zero is that of a page whose changes are in no WAL.
            let is_silent = lsn.0 == 0 || (!logs_hash_indexes && is_of_hash_index(page));
            match lsn < since {
                _ if is_silent => Said::Nothing,
                true => Said::Unchanged,
                false => Said::Changed,
            }
        }),
        _ if is_same(buffer, at, base) => Choice {
            kept: base.to_vec(),
            fresh: Vec::new(),
        },
        _ => Choice::whole(buffer),
    }
}

/// Whether the stretch is what one frame of the base holds.
fn is_same(buffer: &[u8], at: u64, base: &[Run]) -> bool {
    let [only] = base else { return false };
    let length = buffer.len();
    only.at == at
        && only.from == 0
        && only.raw as usize == length
        && only.frame.whole as usize == length
        && blake3::hash(buffer) == only.frame.blake3
}

/// What a page says of itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    Unchanged,
    Changed,
    Nothing,
}

/// The last two bytes of each page of a hash index.
const HASH_INDEX: [u8; 2] = 0xFF80_u16.to_le_bytes();

fn is_of_hash_index(page: &[u8; PAGE_BYTES]) -> bool {
    page.ends_with(&HASH_INDEX)
}

fn by_pages(
    buffer: &[u8],
    at: u64,
    base: &[Run],
    ask: impl Fn(&[u8; PAGE_BYTES]) -> Said,
) -> Choice {
    let mut choice = Choice::default();
    let mut runs = base.iter().peekable();
    // Whether all that has to be stored is of pages that say nothing, as hash indexes of 9.6 do.
    let mut is_silent = true;
    let (pages, rest) = buffer.as_chunks::<PAGE_BYTES>();
    for (number, page) in pages.iter().enumerate() {
        let offset = number * PAGE_BYTES;
        let begin = at + offset as u64;
        let end = begin + PAGE_BYTES as u64;
        while runs
            .next_if(|run| run.at + u64::from(run.raw) < end)
            .is_some()
        {}
        if is_zero(page) {
            continue;
        }
        let said = ask(page);
        let covers = runs.peek().filter(|run| run.at <= begin);
        match covers {
            Some(run) if said == Said::Unchanged => keep(&mut choice.kept, run, begin),
            _ => {
                is_silent &= said == Said::Nothing;
                store(&mut choice.fresh, offset..offset + PAGE_BYTES);
            }
        }
    }
    // Half a page at the end of a file that is being extended.
    if !is_zero(rest) {
        store(&mut choice.fresh, buffer.len() - rest.len()..buffer.len());
    }
    let is_unchanged = choice.fresh.is_empty();
    if !is_unchanged && is_silent && is_same(buffer, at, base) {
        choice.kept = base.to_vec();
        choice.fresh.clear();
    } else if choice.kept.is_empty() || is_wasteful(&choice, buffer.len()) {
        return Choice::whole(buffer);
    }
    tell_parts(&mut choice, buffer, at, base);
    choice
}

/// Notes the hashes of parts, so that a restore knows them where they lie. Where nothing has changed, runs are as they were, and so is the map.
fn tell_parts(choice: &mut Choice, buffer: &[u8], at: u64, base: &[Run]) {
    let is_like = |run: &Run, before: &Run| {
        (run.at, run.raw, run.from) == (before.at, before.raw, before.from)
            && run.frame == before.frame
    };
    let is_unchanged = choice.fresh.is_empty()
        && choice.kept.len() == base.len()
        && std::iter::zip(&choice.kept, base).all(|(run, before)| is_like(run, before));
    for run in &mut choice.kept {
        let before = base.iter().find(|before| is_like(run, before));
        run.blake3 = before.and_then(|before| before.blake3);
        let is_part = run.raw != run.frame.whole;
        if is_unchanged || !is_part || run.blake3.is_some() {
            continue;
        }
        let begin = usize::try_from(run.at - at).unwrap_or(usize::MAX);
        let part = buffer.get(begin..begin.saturating_add(run.raw as usize));
        run.blake3 = part.map(blake3::hash);
    }
}

/// Adds a page to what is kept, to the last run where it goes on.
fn keep(kept: &mut Vec<Run>, run: &Run, begin: u64) {
    let from = run.from + u32::try_from(begin - run.at).unwrap_or(u32::MAX);
    let page = u32::try_from(PAGE_BYTES).unwrap_or(u32::MAX);
    match kept.last_mut() {
        Some(last)
            if last.at + u64::from(last.raw) == begin
                && last.from + last.raw == from
                && last.frame == run.frame =>
        {
            last.raw += page;
        }
        _ => kept.push(Run {
            at: begin,
            raw: page,
            from,
            frame: run.frame.clone(),
            blake3: None,
        }),
    }
}

fn store(fresh: &mut Vec<Range<usize>>, range: Range<usize>) {
    match fresh.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => fresh.push(range),
    }
}

fn is_wasteful(choice: &Choice, length: usize) -> bool {
    let mut seen = HashSet::new();
    let frames = choice.kept.iter().map(|run| &run.frame);
    let first = frames.filter(|frame| seen.insert((&frame.pack, frame.offset)));
    let kept: u64 = first.map(|frame| u64::from(frame.whole)).sum();
    let fresh: usize = choice.fresh.iter().map(Range::len).sum();
    kept + fresh as u64 > WASTE * length as u64
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = PAGE_BYTES as u64;

    /// Pages by their LSN; zero is a page of zeros, and negative one that says nothing.
    fn pages(lsns: &[i64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for lsn in lsns {
            let mut page = [0; PAGE_BYTES];
            if *lsn != 0 {
                page[4..8].copy_from_slice(&u32::try_from((*lsn).max(0)).unwrap().to_le_bytes());
                page[100] = 1;
            }
            bytes.extend(page);
        }
        bytes
    }

    fn frame(offset: u64, content: &[u8]) -> Arc<Frame> {
        Arc::new(Frame {
            pack: "packs/u/00".into(),
            offset,
            stored: 1,
            whole: u32::try_from(content.len()).unwrap(),
            codec: Codec::Plain,
            blake3: blake3::hash(content),
        })
    }

    fn run(first: u64, count: u64, from: u64, frame: &Arc<Frame>) -> Run {
        Run {
            at: first * PAGE,
            raw: u32::try_from(count * PAGE).unwrap(),
            from: u32::try_from(from * PAGE).unwrap(),
            frame: frame.clone(),
            blake3: None,
        }
    }

    fn fresh(ranges: &[(usize, usize)]) -> Vec<Range<usize>> {
        let range = |(first, end): &(usize, usize)| first * PAGE_BYTES..end * PAGE_BYTES;
        ranges.iter().map(range).collect()
    }

    /// What is kept, without what is noted of parts.
    fn kept(choice: &Choice) -> Vec<Run> {
        let bare = |run: &Run| Run {
            blake3: None,
            ..run.clone()
        };
        choice.kept.iter().map(bare).collect()
    }

    const SINCE: Tells = Tells::Pages {
        since: Lsn(100),
        logs_hash_indexes: true,
    };

    #[test]
    fn t16_pages_changed_since_the_base_began_are_stored_and_others_kept() {
        let old = frame(0, &pages(&[5; 8]));
        let base = [run(8, 8, 0, &old)];
        // 100 may have been written by the checkpoint or after it.
        let now = pages(&[5, 99, 100, 101, 0, 5, -1, 5]);
        let choice = choose(&now, 8 * PAGE, &base, SINCE);
        let kept = vec![run(8, 2, 0, &old), run(13, 1, 5, &old), run(15, 1, 7, &old)];
        assert_eq!(self::kept(&choice), kept);
        assert_eq!(choice.fresh, fresh(&[(2, 4), (6, 7)]));
        // The same without a base, and where LSNs say nothing.
        assert_eq!(choose(&now, 8 * PAGE, &[], SINCE).fresh, fresh(&[(0, 8)]));
        let content = choose(&now, 8 * PAGE, &base, Tells::Content);
        assert_eq!(content, Choice::whole(&now));
    }

    #[test]
    fn t18_a_page_that_is_zero_now_is_zero_and_one_that_was_zero_is_stored() {
        let old = frame(0, &pages(&[5, 5]));
        // The base has nothing of pages 2 and 3.
        let base = [run(0, 2, 0, &old)];
        let choice = choose(&pages(&[5, 0, 0, 5]), 0, &base, SINCE);
        assert_eq!(kept(&choice), [run(0, 1, 0, &old)]);
        assert_eq!(choice.fresh, fresh(&[(3, 4)]));
        assert_eq!(choose(&pages(&[0, 0]), 0, &base, SINCE), Choice::default());
    }

    #[test]
    fn t17_a_page_is_kept_only_where_the_base_has_all_of_it() {
        let old = frame(0, &pages(&[5; 4]));
        let mut base = [run(0, 1, 0, &old), run(2, 2, 2, &old)];
        base[0].raw -= 1;
        let choice = choose(&pages(&[5, 5, 5, 5]), 0, &base, SINCE);
        assert_eq!(kept(&choice), [run(2, 2, 2, &old)]);
        assert_eq!(choice.fresh, fresh(&[(0, 2)]));
        // The end of a file that is being extended.
        let mut half = pages(&[5, 5]);
        half.extend([1; 100]);
        let choice = choose(&half, 2 * PAGE, &base, SINCE);
        assert_eq!(kept(&choice), [run(2, 2, 2, &old)]);
        assert_eq!(choice.fresh.len(), 1);
        assert_eq!(choice.fresh[0], 2 * PAGE_BYTES..2 * PAGE_BYTES + 100);
    }

    #[test]
    fn parts_of_what_is_in_use_in_part_carry_their_own_hash() {
        let old = frame(0, &pages(&[1, 2, 3, 4]));
        let base = [run(0, 4, 0, &old)];
        let unchanged = choose(&pages(&[1, 2, 3, 4]), 0, &base, SINCE);
        assert_eq!(unchanged.kept, base);
        let now = pages(&[1, 2, 200, 4]);
        let choice = choose(&now, 0, &base, SINCE);
        let told: Vec<_> = choice.kept.iter().map(|run| run.blake3).collect();
        let hash = |pages: Range<usize>| {
            Some(blake3::hash(
                &now[pages.start * PAGE_BYTES..pages.end * PAGE_BYTES],
            ))
        };
        assert_eq!(told, [hash(0..2), hash(3..4)]);
        // What was noted is not found out again, and is not lost.
        let mut noted = choice.kept;
        noted[0].blake3 = Some(blake3::hash(b"noted"));
        let again = choose(&pages(&[1, 2, 0, 4]), 0, &noted, SINCE);
        assert_eq!(again.kept, noted);
        let again = choose(&pages(&[1, 2, 201, 4]), 0, &noted, SINCE);
        assert_eq!(again.kept, noted);
        // A page that is zero now makes parts too.
        let zero = choose(&pages(&[0, 2, 3, 4]), 0, &base, SINCE);
        assert_eq!(zero.kept.len(), 1);
        assert!(zero.kept[0].blake3.is_some());
    }

    #[test]
    fn what_lsns_cannot_tell_is_compared_by_its_hash() {
        let content = pages(&[-1, 200, -1]);
        let old = frame(0, &content);
        let base = [run(0, 3, 0, &old)];
        assert_eq!(choose(&content, 0, &base, Tells::Content).kept, base);
        let silent = pages(&[-1, -1, -1]);
        let same = frame(0, &silent);
        let base = [run(0, 3, 0, &same)];
        assert_eq!(choose(&silent, 0, &base, SINCE).kept, base);
        let other = frame(0, &pages(&[-1, -1, 7]));
        let base = [run(0, 3, 0, &other)];
        let choice = choose(&silent, 0, &base, SINCE);
        assert_eq!(choice, Choice::whole(&silent));
    }

    #[test]
    fn pages_of_hash_indexes_of_9_6_say_nothing() {
        let mut now = pages(&[5, 5]);
        now.truncate(2 * PAGE_BYTES - 2);
        now.extend(HASH_INDEX);
        let old = frame(0, &pages(&[5, 5]));
        let base = [run(0, 2, 0, &old)];
        assert_eq!(choose(&now, 0, &base, SINCE).kept, base);
        let of_9_6 = Tells::Pages {
            since: Lsn(100),
            logs_hash_indexes: false,
        };
        let choice = choose(&now, 0, &base, of_9_6);
        assert_eq!(kept(&choice), [run(0, 1, 0, &old)]);
        assert_eq!(choice.fresh, fresh(&[(1, 2)]));
    }

    #[test]
    fn a_stretch_in_too_many_pieces_is_stored_anew() {
        let now = pages(&[5, 5, 5, 200]);
        let frames: Vec<_> = (0..3).map(|n| frame(n * 10, &pages(&[5; 3]))).collect();
        let spread: Vec<_> = (0..3).map(|n| run(n, 1, n, &frames[n as usize])).collect();
        assert_eq!(choose(&now, 0, &spread, SINCE), Choice::whole(&now));
        let two: Vec<_> = [run(0, 2, 0, &frames[0]), run(2, 1, 2, &frames[1])].into();
        assert_eq!(kept(&choose(&now, 0, &two, SINCE)), two);
        // Nothing changed, but the file was cut: what is left of the frame is not worth the rest.
        let cut = pages(&[5]);
        assert_eq!(choose(&cut, 0, &two, SINCE), Choice::whole(&cut));
    }
}
