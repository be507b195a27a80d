//! Pages that have the right hashes and the wrong checksums, and every other way in which a Snapshot can be less than it seems.

#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "a part of it is for other tests")]
mod forged;

use forged::{Bucket, Parts, UID};
use kubedb_core::lsn::Lsn;
use kubedb_engine::{
    backup::BackupProgress,
    postgres::page::{self, PAGE_BYTES},
    repository::check::check_one,
    restore::{Pages, RestoreError, verify_folder, verify_pages},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Before, amid and behind the span of the forged Snapshot, which is 0/2000028 to 0/2000100.
const BEFORE: u64 = 0x0100_0000;
const AMID: u64 = 0x0200_0080;
const BEHIND: u64 = 0x0300_0000;

/// A page with a checksum that fits, or one beside it.
fn page(block: u32, lsn: u64, is_good: bool) -> Vec<u8> {
    let mut page = [0; PAGE_BYTES];
    page[..4].copy_from_slice(&u32::try_from(lsn >> 32).unwrap().to_le_bytes());
    page[4..8].copy_from_slice(&u32::try_from(lsn & 0xffff_ffff).unwrap().to_le_bytes());
    page[100..200].fill(7);
    let sum = page::checksum(&page, block) ^ u16::from(!is_good);
    page[8..10].copy_from_slice(&sum.to_le_bytes());
    page.to_vec()
}

/// A bucket whose one relation has these pages; its second file begins with the last of them.
fn bucket(pages: &[(u64, bool)]) -> Bucket {
    let mut parts = Parts::good();
    let blocks = pages.iter().zip(0..);
    let content: Vec<u8> = blocks
        .flat_map(|((lsn, is_good), block)| page(block, *lsn, *is_good))
        .collect();
    // In order of path, and never used, before them.
    let at = parts
        .map
        .files
        .iter()
        .position(|file| file.path == "base/1");
    parts.map.files.remove(at.unwrap());
    let rest = parts.map.files.split_off(at.unwrap());
    for path in ["base/5/16384", "base/5/16384_fsm", "base/5/PG_VERSION"] {
        let content: &[u8] = match path {
            "base/5/PG_VERSION" => b"15\n",
            "base/5/16384_fsm" => &[0; PAGE_BYTES],
            _ => &content,
        };
        parts.put(path, content);
    }
    parts.map.files.extend(rest);
    parts.into_bucket()
}

async fn look(bucket: &Bucket) -> Result<Pages, RestoreError> {
    let (progress, _) = watch::channel(BackupProgress::default());
    let cancel = CancellationToken::new();
    verify_pages(&bucket.store(), &bucket.manifest, 2, progress, cancel).await
}

fn told(pages: &Pages) -> Vec<String> {
    let findings = pages.findings.iter();
    findings
        .map(|finding| {
            let what = finding.what.split(" has").next().unwrap();
            format!("{} {what}", finding.object)
        })
        .collect()
}

#[tokio::test]
async fn a_page_whose_checksum_is_wrong_is_named_though_its_pack_has_the_right_hash() {
    let good = bucket(&[(BEFORE, true), (AMID, true), (BEHIND, true)]);
    let pages = look(&good).await.unwrap();
    assert_eq!((told(&pages), pages.pages), (vec![], 4));
    assert!(pages.has_checksums && pages.fetched > 0);
    // Replay writes a page anew that was half written while the backup was made; another one it does not.
    let bad = bucket(&[(BEFORE, false), (AMID, false), (BEHIND, false)]);
    let pages = look(&bad).await.unwrap();
    assert_eq!(
        told(&pages),
        ["base/5/16384 block 0", "base/5/16384 block 2"]
    );
    // Every object is what was written.
    let report = check_one(&bad.store(), &bad.manifest, |_, _| {})
        .await
        .unwrap();
    assert_eq!((report.findings.len(), report.objects), (0, 3));
}

#[tokio::test]
async fn the_same_is_found_in_a_folder_that_was_restored() {
    let bucket = bucket(&[(BEFORE, true), (BEFORE, false)]);
    bucket.restore().await.unwrap();
    let data = bucket.path("../data");
    let span = (Lsn(0x0200_0028), Lsn(0x0200_0100));
    let pages = verify_folder(&data, span, &CancellationToken::new()).unwrap();
    assert_eq!(
        (told(&pages), pages.pages),
        (vec!["base/5/16384 block 1".to_owned()], 3)
    );
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let ended = verify_folder(&data, span, &cancelled);
    assert!(matches!(ended, Err(RestoreError::Cancelled)));
}

#[tokio::test]
async fn a_changed_byte_and_a_missing_object_are_damage_and_a_missing_bucket_is_not() {
    let make = || bucket(&[(BEFORE, true)]);
    let changed = make();
    changed.change(&changed.pack, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    let error = look(&changed).await.unwrap_err();
    assert!(error.is_damage(), "{error}");
    assert!(error.to_string().contains(&changed.pack), "{error}");
    let report = check_one(&changed.store(), &changed.manifest, |_, _| {}).await;
    let found = report.unwrap().findings;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].object, changed.pack);
    assert_eq!(found[0].what, "its content is not what was written");

    for which in ["pack", "map", "manifest"] {
        let bucket = make();
        let key = match which {
            "pack" => bucket.pack.clone(),
            "map" => bucket.map.clone(),
            _ => bucket.manifest.clone(),
        };
        bucket.remove(&key);
        let error = look(&bucket).await.unwrap_err();
        assert!(error.is_damage(), "{which}: {error}");
        let report = check_one(&bucket.store(), &bucket.manifest, |_, _| {}).await;
        let found = report.unwrap().findings;
        assert_eq!(found.len(), 1, "{which}");
        assert_eq!(found[0].object, key);
    }
    // A Snapshot that says nothing of checksums proves as much as its hashes do.
    let mut parts = Parts::good();
    parts.manifest["cluster"]["dataChecksums"] = false.into();
    let pages = look(&parts.into_bucket()).await.unwrap();
    assert!(!pages.has_checksums && pages.pages == 0 && pages.bytes > 0);
    assert!(!UID.is_empty());
}
