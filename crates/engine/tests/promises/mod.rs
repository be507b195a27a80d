//! What every store must do.

use bytes::Bytes;
use kubedb_engine::store::{PutPayload, Store, StoreError};

/// The same promises for every kind of store.
pub(crate) async fn keeps_its_promises(store: &Store) {
    keeps_its_promises_within(store, "kubedb", "kubedb/ns/db").await;
}

/// The same of one that shows no more than `root`, and lets be written what begins with `folder`.
pub(crate) async fn keeps_its_promises_within(store: &Store, root: &str, folder: &str) {
    let limit = 64 << 20;
    let absent = &format!("{folder}/x");
    assert!(store.list(root).await.unwrap().is_empty());
    assert!(store.read(absent, limit).await.unwrap_err().is_not_found());
    assert!(store.size(absent).await.unwrap_err().is_not_found());
    store.delete(absent).await.unwrap();

    // Empty, small, just one part, and many parts with an odd end, each in several pieces.
    let pattern: Vec<u8> = (0..=250_u8).cycle().take((20 << 20) + 12_345).collect();
    let pattern = Bytes::from(pattern);
    for bytes in [0, 7, 8 << 20, (8 << 20) + 1, pattern.len()] {
        let key = format!("{folder}/packs/{bytes}");
        let pieces: PutPayload = [
            pattern.slice(0..bytes / 3),
            pattern.slice(bytes / 3..bytes / 2),
            pattern.slice(bytes / 2..bytes),
        ]
        .into_iter()
        .collect();
        store.create(&key, pieces.clone()).await.unwrap();
        assert_eq!(
            store.read(&key, limit).await.unwrap(),
            pattern.slice(0..bytes)
        );
        assert_eq!(store.size(&key).await.unwrap(), bytes as u64);
        // Once more with the same bytes: an answer that was lost on its way.
        store.create(&key, pieces).await.unwrap();
        let other = store.create(&key, PutPayload::from_static(b"other")).await;
        assert!(
            matches!(other, Err(StoreError::Conflict { .. })),
            "{other:?}"
        );
        assert_eq!(store.size(&key).await.unwrap(), bytes as u64);
    }
    let large = format!("{folder}/packs/{}", pattern.len());
    let middle = store
        .read_range(&large, 9_000_000..9_000_100)
        .await
        .unwrap();
    assert_eq!(middle, pattern.slice(9_000_000..9_000_100));
    assert!(matches!(
        store.read(&large, 100).await,
        Err(StoreError::TooLarge { limit: 100, .. })
    ));

    // A folder is a folder and not the beginning of a name.
    let small = PutPayload::from_static(b"1");
    store
        .create(&format!("{folder}-2/x y+z%2F"), small.clone())
        .await
        .unwrap();
    let listed = store.list(folder).await.unwrap();
    assert_eq!(listed.len(), 5, "{listed:?}");
    assert!(
        listed
            .iter()
            .all(|found| found.key.starts_with(&format!("{folder}/packs/")))
    );
    assert!(listed.is_sorted_by(|a, b| a.key < b.key));
    let listed = store.list(&format!("{folder}-2")).await.unwrap();
    assert_eq!((listed.len(), listed[0].bytes), (1, 1));
    assert_eq!(store.read(&listed[0].key, 10).await.unwrap(), "1");

    store.delete(&large).await.unwrap();
    store.delete(&large).await.unwrap();
    assert!(store.size(&large).await.unwrap_err().is_not_found());
    assert_eq!(store.list(folder).await.unwrap().len(), 4);
}
