//! A store that stops answering, or waits, at a call that the test chooses.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream::BoxStream};
use kubedb_engine::store::Store;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory,
    path::Path,
};
use tokio::sync::Semaphore;

/// Objects in memory behind a door.
#[derive(Clone, Debug)]
pub(crate) struct Faulty {
    objects: Arc<InMemory>,
    door: Arc<Door>,
}

#[derive(Debug)]
struct Door {
    calls: AtomicUsize,
    /// Calls from this one on fail.
    broken_from: AtomicUsize,
    /// The call of this number does its work and then fails, as when an answer is lost.
    lost: AtomicUsize,
    /// Puts of keys with this word wait here.
    word: &'static str,
    gate: Semaphore,
    waiting: Semaphore,
    /// The call of this number waits until it may go on.
    pause: AtomicUsize,
    paused: Semaphore,
    going: Semaphore,
    /// Questions whether an object is there.
    questions: AtomicUsize,
    /// Whether nobody may list.
    hidden: AtomicBool,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

impl Faulty {
    /// Puts of keys that hold `word` wait until [`Faulty::open`]; an empty word is none.
    pub(crate) fn new(word: &'static str) -> Self {
        let never = || AtomicUsize::new(usize::MAX);
        Self {
            objects: Arc::new(InMemory::new()),
            door: Arc::new(Door {
                calls: AtomicUsize::new(0),
                broken_from: never(),
                lost: never(),
                word,
                gate: Semaphore::new(0),
                waiting: Semaphore::new(0),
                pause: never(),
                paused: Semaphore::new(0),
                going: Semaphore::new(0),
                questions: AtomicUsize::new(0),
                hidden: AtomicBool::new(false),
            }),
        }
    }

    pub(crate) fn store(&self) -> Store {
        Store::over(Arc::new(self.clone()), "faulty:x", "x", None).unwrap()
    }

    /// The same objects, without faults.
    pub(crate) fn bare(&self) -> Store {
        Store::over(self.objects.clone(), "faulty:x", "x", None).unwrap()
    }

    /// Lets the call of this number wait until [`Faulty::go_on`].
    pub(crate) fn pause_at(&self, call: usize) {
        self.door.pause.store(call, Ordering::SeqCst);
    }

    /// Waits until that call is reached.
    pub(crate) async fn until_paused(&self) {
        self.door.paused.acquire().await.unwrap().forget();
    }

    pub(crate) fn go_on(&self) {
        self.door.pause.store(usize::MAX, Ordering::SeqCst);
        self.door.going.add_permits(1);
    }

    /// No faults any more.
    pub(crate) fn mend(&self) {
        self.break_from(usize::MAX);
        self.lose(usize::MAX);
        self.door.hidden.store(false, Ordering::SeqCst);
        self.door.pause.store(usize::MAX, Ordering::SeqCst);
        self.door.paused.forget_permits(usize::MAX);
        self.door.going.forget_permits(usize::MAX);
    }

    /// Calls so far; counting begins anew.
    pub(crate) fn take_calls(&self) -> usize {
        self.door.calls.swap(0, Ordering::SeqCst)
    }

    /// Of those, the ones that ask whether an object is there.
    pub(crate) fn take_questions(&self) -> usize {
        self.door.questions.swap(0, Ordering::SeqCst)
    }

    /// Fails all calls from this one on, and none with `usize::MAX`.
    pub(crate) fn break_from(&self, call: usize) {
        self.door.broken_from.store(call, Ordering::SeqCst);
    }

    /// Loses the answer to this call.
    pub(crate) fn lose(&self, call: usize) {
        self.door.lost.store(call, Ordering::SeqCst);
    }

    /// From now on objects are read by those who know their names.
    pub(crate) fn hide(&self) {
        self.door.hidden.store(true, Ordering::SeqCst);
    }

    /// Waits until a put waits.
    pub(crate) async fn until_waiting(&self) {
        self.door.waiting.acquire().await.unwrap().forget();
    }

    /// Lets all puts pass from now on.
    pub(crate) fn open(&self) {
        self.door.gate.add_permits(1_000);
    }

    /// Whether to fail the call before it does anything, and after.
    async fn enter(&self) -> Result<bool> {
        let call = self.door.calls.fetch_add(1, Ordering::SeqCst);
        if call == self.door.pause.load(Ordering::SeqCst) {
            self.door.paused.add_permits(1);
            self.door.going.acquire().await.unwrap().forget();
        }
        if call >= self.door.broken_from.load(Ordering::SeqCst) {
            return Err(broken());
        }
        Ok(call == self.door.lost.load(Ordering::SeqCst))
    }
}

fn broken() -> Error {
    Error::Generic {
        store: "faulty",
        source: "the line is dead".into(),
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let is_lost = self.enter().await?;
        if !self.door.word.is_empty() && location.as_ref().contains(self.door.word) {
            self.door.waiting.add_permits(1);
            self.door.gate.acquire().await.unwrap().forget();
        }
        let put = self.objects.put_opts(location, payload, options).await?;
        if is_lost { Err(broken()) } else { Ok(put) }
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        unreachable!("the engine does not use it")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.enter().await?;
        if options.head {
            self.door.questions.fetch_add(1, Ordering::SeqCst);
        }
        self.objects.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        locations
            .then(move |location| {
                let this = this.clone();
                async move {
                    let is_lost = this.enter().await?;
                    let location = location?;
                    object_store::ObjectStoreExt::delete(&*this.objects, &location).await?;
                    if is_lost { Err(broken()) } else { Ok(location) }
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let this = self.clone();
        let prefix = prefix.cloned();
        let listing = async move {
            match this.enter().await {
                Ok(_) if this.door.hidden.load(Ordering::SeqCst) => {
                    futures::stream::iter([Err(Error::PermissionDenied {
                        path: prefix.unwrap_or_default().to_string(),
                        source: "s3:ListBucket is not allowed".into(),
                    })])
                    .boxed()
                }
                Ok(_) => this.objects.list(prefix.as_ref()),
                Err(error) => futures::stream::iter([Err(error)]).boxed(),
            }
        };
        futures::stream::once(listing).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.enter().await?;
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unreachable!("the engine does not use it")
    }
}
