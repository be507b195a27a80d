//! What the S3 server alone needs for the objects that an archiver stores: they are put again as they lie there, by a client that has them in memory and packs
//! nothing. No archiver on the same machine can be faster, however little it does itself.

use std::time::Instant;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use kubedb_engine::store::{PutPayload, Store};

/// Requests at once.
const FLYING: usize = 4;
/// No segment is larger.
const OBJECT_MAX: u64 = 32 << 20;

/// Seconds that the putting took.
pub(crate) async fn put_again(store: &Store) -> Result<f64, String> {
    let words = |error: kubedb_engine::store::StoreError| error.to_string();
    let listed = store.list("kubedb").await.map_err(words)?;
    let objects: Vec<_> = stream::iter(listed)
        .map(async |object| {
            let content = store.read(&object.key, OBJECT_MAX).await?;
            store.delete(&object.key).await?;
            Ok((object.key, content))
        })
        .buffered(FLYING)
        .try_collect()
        .await
        .map_err(words)?;
    nix::unistd::sync();
    let begun = Instant::now();
    stream::iter(objects)
        .map(async |(key, content)| store.create(&key, PutPayload::from(content)).await)
        .buffer_unordered(FLYING)
        .try_collect::<()>()
        .await
        .map_err(words)?;
    Ok(begun.elapsed().as_secs_f64())
}
