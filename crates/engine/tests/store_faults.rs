//! Every store, every fault, at every request of a Snapshot, a restore and a deletion.
//!
//! Points are found by counting the requests of a run in which nothing goes wrong. At each point the suite takes one kind of fault, another one at the
//! next, so that every kind has its turn; `KUBEDB_FAULTS=7` begins with others, and `KUBEDB_FAULTS=all` takes all kinds at all points, and the
//! slow ones too.

#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::result_large_err)]

use std::{
    collections::BTreeMap,
    env, fs,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use kubedb_engine::{
    backup::BackupError,
    repository::{keys::DatabaseFolder, manifest},
    restore::RestoreError,
    store::Store,
};
use kubedb_stores::fault::Fault;
use tokio::time::timeout;

mod places;
mod servers;
mod snapshots;

use places::{Kind, Place};
use servers::{Server, Version};
use snapshots::{
    assert_kept, assert_lets_go, delete, keys, primary_of, request, restore_into, small_server,
    take,
};

/// Nothing may take longer: five retries with their pauses take 10 s, and what is not retried is not waited for.
const LIMIT: Duration = Duration::from_secs(60);

/// Kinds that have their turn at one point, where not all have.
const SOME: usize = 1;

/// A store with Snapshots of others in it, and a server to take one of.
struct Scene {
    place: Place,
    server: Server,
    others: BTreeMap<String, blake3::Hash>,
    /// Objects of a whole Snapshot `snap`, and its manifest's key.
    template: Vec<(String, Bytes)>,
    manifest: String,
}

impl Scene {
    async fn new(kind: Kind) -> Self {
        let (place, server) = (Place::start(kind), small_server().await);
        // Two of the stores see Snapshots that refer to an earlier one, the other two see whole ones.
        let refers = matches!(kind, Kind::Gcs | Kind::Azure);
        // Names that begin alike.
        for other in ["snap-2", "sna"] {
            let mut request = request(&server, &place.plain, other);
            if !refers {
                "another database of the name".clone_into(&mut request.lineage);
            }
            take(request).await.unwrap();
        }
        let others = place.digests().await;
        let outcome = take(request(&server, &place.plain, "snap")).await.unwrap();
        let mut template = Vec::new();
        for key in keys(&place.plain).await {
            if !others.contains_key(&key) {
                let content = place.plain.read(&key, u64::MAX).await.unwrap();
                template.push((key, content));
            }
        }
        let keys: Vec<&String> = template.iter().map(|(key, _)| key).collect();
        assert!(keys.len() >= if refers { 3 } else { 4 }, "{keys:?}");
        let manifest = manifest::read(&place.plain, &outcome.manifest).await;
        assert_eq!(manifest.unwrap().base.is_some(), refers);
        delete(&place.plain, "snap").await.unwrap();
        // A login, or a question for the region, comes once: what is counted comes each time.
        place.store.size(&outcome.manifest).await.unwrap_err();
        Self {
            place,
            server,
            others,
            template,
            manifest: outcome.manifest,
        }
    }

    /// The same Snapshot once more.
    async fn lay(&self) {
        for (key, content) in &self.template {
            self.place
                .plain
                .create(key, content.clone().into())
                .await
                .unwrap();
        }
    }

    /// Deletes it past the proxy: nothing of it is left, and all of the others is.
    async fn clear(&self, what: &str) {
        delete(&self.place.plain, "snap").await.unwrap();
        assert_eq!(self.place.digests().await, self.others, "{what}");
    }

    /// Requests of an operation in which nothing goes wrong.
    fn requests(&self) -> usize {
        self.place.proxy.take_seen().len()
    }

    /// Points and kinds: every point, with all kinds or with those whose turn it is.
    fn faults(&self, requests: usize, operation: usize) -> Vec<(usize, Fault)> {
        let mut kinds = Fault::QUICK.to_vec();
        kinds.push(Fault::ListOfBefore);
        kinds.push(Fault::Slow(Duration::from_millis(300)));
        let turns = if is_all() { kinds.len() } else { SOME };
        // Every store, operation and seed begins with another kind.
        let seed = env::var("KUBEDB_FAULTS")
            .ok()
            .and_then(|value| value.parse().ok());
        let shift = self.place.kind as usize * 5 + operation * 9 + seed.unwrap_or(0_usize);
        (0..requests)
            .flat_map(|point| (0..turns).map(move |turn| (point, point * SOME + turn + shift)))
            .map(|(point, kind)| (point, kinds[kind % kinds.len()].clone()))
            .collect()
    }
}

/// Every object that a manifest refers to is in the store, with the content that the manifest says. What a restore needs is there then.
async fn assert_whole(store: &Store, key: &str, what: &str) {
    let manifest = manifest::read(store, key).await.unwrap();
    let folder = DatabaseFolder::of(key).unwrap();
    for object in manifest.packs.iter().chain(&manifest.maps) {
        let content = store.read(&folder.key(&object.key), object.bytes).await;
        let content = content.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(
            blake3::hash(&content).to_hex().as_str(),
            object.blake3,
            "{what}: {}",
            object.key
        );
    }
}

/// Content and mode of everything below a folder.
fn tree(folder: &Path) -> BTreeMap<String, blake3::Hash> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else {
                let name = path
                    .strip_prefix(folder)
                    .unwrap()
                    .to_string_lossy()
                    .into_owned();
                found.insert(name, blake3::hash(&fs::read(&path).unwrap()));
            }
        }
    }
    found
}

/// A Snapshot that meets a fault comes all the same, or says whose fault it is and comes at the next attempt.
async fn snapshots(scene: &Scene) -> usize {
    let Scene { place, server, .. } = scene;
    place.proxy.relent();
    take(request(server, &place.store, "snap")).await.unwrap();
    let requests = scene.requests();
    assert!((6..60).contains(&requests), "{requests}");
    scene.clear("a Snapshot without a fault").await;
    let mut made = None;
    for (point, fault) in scene.faults(requests, 0) {
        let what = format!(
            "{:?}: a Snapshot with {fault:?} at request {point} of {requests}",
            place.kind
        );
        place.proxy.strike("", point, fault);
        let taken = timeout(LIMIT, take(request(server, &place.store, "snap"))).await;
        let taken = taken.unwrap_or_else(|_| panic!("{what} does not end"));
        place.proxy.relent();
        let outcome = match taken {
            Ok(outcome) => outcome,
            Err(error) => {
                assert_told(&error, place, &what);
                let mut again = request(server, &place.store, "snap");
                again.attempt = 2;
                take(again)
                    .await
                    .unwrap_or_else(|error| panic!("{what}, then: {error}"))
            }
        };
        assert_whole(&place.plain, &outcome.manifest, &what).await;
        if made.is_none() {
            // One of them is brought to life.
            let copy = primary_of(&place.store, &outcome, Version::New).await;
            assert_kept(&copy).await;
            made = Some(());
        }
        scene.clear(&what).await;
    }
    assert_lets_go(server).await;
    requests
}

/// A fault that passes never ends a Snapshot for good, and its words name the store.
fn assert_told(error: &BackupError, place: &Place, what: &str) {
    assert!(error.is_retryable(), "{what}: {error}");
    let text = error.to_string();
    let is_named = text.contains(place.plain.label()) || text.contains("/snap/");
    assert!(is_named, "{what}: {text}");
}

/// A restore that meets a fault gives the same files, or leaves nothing and works the next time.
async fn restores(scene: &Scene) -> usize {
    let Scene {
        place, manifest, ..
    } = scene;
    scene.lay().await;
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("data");
    let fetch = || {
        timeout(
            LIMIT,
            restore_into(&target, Version::New, &place.store, manifest),
        )
    };
    place.proxy.relent();
    fetch().await.unwrap().unwrap();
    let (requests, whole) = (scene.requests(), tree(&target));
    assert!(
        (3..40).contains(&requests) && whole.len() > 500,
        "{requests}"
    );
    for (point, fault) in scene.faults(requests, 1) {
        let what = format!(
            "{:?}: a restore with {fault:?} at request {point} of {requests}",
            place.kind
        );
        fs::remove_dir_all(&target).unwrap();
        place.proxy.strike("", point, fault);
        let restored = fetch()
            .await
            .unwrap_or_else(|_| panic!("{what} does not end"));
        place.proxy.relent();
        if let Err(error) = restored {
            assert!(error.is_retryable(), "{what}: {error}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{what}");
            let again: Result<_, RestoreError> = fetch().await.unwrap();
            again.unwrap_or_else(|error| panic!("{what}, then: {error}"));
        }
        assert_eq!(tree(&target), whole, "{what}");
    }
    scene.clear("restores").await;
    requests
}

/// A deletion that meets a fault is complete, or says that it is not and is complete the next time.
async fn deletions(scene: &Scene) -> usize {
    let Scene { place, .. } = scene;
    scene.lay().await;
    place.proxy.relent();
    delete(&place.store, "snap").await.unwrap();
    let requests = scene.requests();
    assert!((5..60).contains(&requests), "{requests}");
    for (point, fault) in scene.faults(requests, 2) {
        let what = format!(
            "{:?}: a deletion with {fault:?} at request {point} of {requests}",
            place.kind
        );
        scene.lay().await;
        place.proxy.strike("", point, fault);
        let deleted = timeout(LIMIT, delete(&place.store, "snap")).await;
        let deleted = deleted.unwrap_or_else(|_| panic!("{what} does not end"));
        place.proxy.relent();
        match deleted {
            Ok(_) => assert_eq!(place.digests().await, scene.others, "{what}"),
            Err(error) => assert!(error.is_retryable(), "{what}: {error}"),
        }
        scene.clear(&what).await;
    }
    requests
}

/// Requests of a Snapshot that may have been repetitions when they were counted.
const REPEATED: usize = 4;

/// A store that refuses us from some request on, or answers no more, is told as such; what was begun goes with the Snapshot.
async fn outages(scene: &Scene, requests: usize) {
    let Scene { place, server, .. } = scene;
    let (refused, away) = (
        Fault::Status("403 Forbidden", None),
        Fault::Status("503 Service Unavailable", None),
    );
    let step = if is_all() { 1 } else { 3 };
    let refusals = (0..requests)
        .step_by(step)
        .map(|point| (point, refused.clone()));
    // Each is waited for, so one has to do.
    let step = if is_all() { 1 } else { requests };
    let outages = (requests / 2..requests)
        .step_by(step)
        .map(|point| (point, away.clone()));
    for (point, fault) in refusals.chain(outages) {
        let what = format!(
            "{:?}: a Snapshot with {fault:?} from request {point} on",
            place.kind
        );
        let is_refused = matches!(&fault, Fault::Status("403 Forbidden", _));
        place.proxy.strike_from("", point, usize::MAX, fault);
        let taken = timeout(LIMIT, take(request(server, &place.store, "snap"))).await;
        let taken = taken.unwrap_or_else(|_| panic!("{what} does not end"));
        place.proxy.relent();
        let error = match taken {
            Err(error) => error,
            // A busy store makes one ask again now and then: those requests were counted, and need not come this time.
            Ok(_) if point + REPEATED >= requests => {
                scene.clear(&what).await;
                continue;
            }
            Ok(taken) => panic!("{what} succeeds: {taken:?}"),
        };
        let text = error.to_string();
        assert!(text.contains(place.plain.label()), "{what}: {text}");
        assert_eq!(error.is_retryable(), !is_refused, "{what}: {text}");
        let words = if is_refused {
            "check the keys in the storage Secret"
        } else {
            "503"
        };
        assert!(text.contains(words), "{what}: {text}");
        scene.clear(&what).await;
    }
    assert_lets_go(server).await;
}

fn is_all() -> bool {
    env::var("KUBEDB_FAULTS").is_ok_and(|value| value == "all")
}

async fn whatever_fails(kind: Kind) {
    let begun = Instant::now();
    let scene = Scene::new(kind).await;
    let requests = (
        snapshots(&scene).await,
        restores(&scene).await,
        deletions(&scene).await,
    );
    outages(&scene, requests.0).await;
    eprintln!(
        "{kind:?}: requests of a Snapshot, a restore, a deletion: {requests:?}; {:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t01_t02_t33_whatever_fails_at_gcs_nothing_is_lost_or_left() {
    whatever_fails(Kind::Gcs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t01_t02_t33_whatever_fails_at_s3_nothing_is_lost_or_left() {
    whatever_fails(Kind::S3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t01_t02_t33_whatever_fails_at_azure_nothing_is_lost_or_left() {
    whatever_fails(Kind::Azure).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t01_t02_t33_whatever_fails_at_swift_nothing_is_lost_or_left() {
    whatever_fails(Kind::Swift).await;
}

/// S3 may answer 200 and say in the body that nothing was stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t01_an_upload_answered_by_200_with_an_error_is_no_snapshot() {
    let scene = Scene::new(Kind::S3).await;
    let Scene { place, server, .. } = &scene;
    for object in ["/snap/attempt-", "/packs/", "/maps/", "/snap/manifest-"] {
        place.proxy.strike(object, 0, Fault::SuccessWithError);
        match take(request(server, &place.store, "snap")).await {
            Ok(outcome) => assert_whole(&place.plain, &outcome.manifest, object).await,
            Err(error) => assert_told(&error, place, object),
        }
        assert_eq!(place.proxy.relent(), 1, "{object}");
        scene.clear(object).await;
    }
}

/// What changes on its way up is noticed before the Snapshot counts, whichever request carried it.
async fn whatever_changes(kind: Kind) {
    let scene = Scene::new(kind).await;
    let Scene { place, server, .. } = &scene;
    place.proxy.relent();
    take(request(server, &place.store, "snap")).await.unwrap();
    let seen = place.proxy.take_seen();
    let writes = seen.iter().enumerate();
    let writes = writes.filter(|(_, (method, _))| matches!(method.as_str(), "PUT" | "POST"));
    let writes: Vec<usize> = writes.map(|(point, _)| point).collect();
    assert!(writes.len() >= 4, "{seen:?}");
    scene.clear("a Snapshot without a fault").await;
    for point in writes {
        let what = format!("{kind:?}: a byte of request {point} changes");
        place.proxy.strike("", point, Fault::GarbleRequest);
        let taken = take(request(server, &place.store, "snap")).await;
        place.proxy.relent();
        match taken {
            Ok(outcome) => assert_whole(&place.plain, &outcome.manifest, &what).await,
            Err(error) => assert_told(&error, place, &what),
        }
        scene.clear(&what).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t02_t33_a_byte_that_changes_on_its_way_to_gcs_is_not_stored_unseen() {
    whatever_changes(Kind::Gcs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t02_t33_a_byte_that_changes_on_its_way_to_s3_is_not_stored_unseen() {
    whatever_changes(Kind::S3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t02_t33_a_byte_that_changes_on_its_way_to_azure_is_not_stored_unseen() {
    whatever_changes(Kind::Azure).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t02_t33_a_byte_that_changes_on_its_way_to_swift_is_not_stored_unseen() {
    whatever_changes(Kind::Swift).await;
}

/// A request that stands still is given up after 20 s and sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t34_a_store_that_stands_still_is_asked_again() {
    if !is_all() {
        eprintln!("SKIPPED: it takes half a minute; KUBEDB_FAULTS=all runs it");
        return;
    }
    for kind in [Kind::Gcs, Kind::Swift] {
        let scene = Scene::new(kind).await;
        let place = &scene.place;
        place
            .proxy
            .strike("prefix=", 0, Fault::Slow(Duration::from_secs(30)));
        let begun = Instant::now();
        let outcome = take(request(&scene.server, &place.store, "snap"))
            .await
            .unwrap();
        assert!(
            (20..30).contains(&begun.elapsed().as_secs()),
            "{:?}",
            begun.elapsed()
        );
        assert_whole(&place.plain, &outcome.manifest, "a slow store").await;
    }
}
