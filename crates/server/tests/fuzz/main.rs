//! Whatever is sent: an answer in time, never a panic, never a fault of the server's, and a file that opens again. Requests of
//! every kind are made, mutated and sent in a seeded order; what fails names the seed and its request.
//!
//! `KUBEDB_FUZZ_SECONDS` makes each of the tests go on for so long, and `KUBEDB_FUZZ_SEED` begins elsewhere.

#![allow(clippy::unwrap_used)]

mod corpus;
mod mutate;
#[path = "../random/mod.rs"]
mod random;
mod tcp;
#[path = "../wire/mod.rs"]
mod wire;

use std::collections::BTreeMap;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use corpus::Sent;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use kubedb_server::ApiServer;
use random::Random;

/// Requests without a network, where no time is named.
const REQUESTS: usize = 40_000;
/// Longer than any answer takes on a busy machine; the longest watch that is asked for and read.
const PATIENCE: Duration = Duration::from_secs(30);
/// After so many requests the objects go, or lists of them would be all that takes time; and so does the history.
const CLEAR: usize = 1000;
/// What the process may hold in the end: the history of 64 MiB of JSON, which as values is some five times that, and room for
/// what is under way.
const MEMORY: u64 = 640 << 20;

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Counts panics on every thread: a task of the server that panics tells nobody. One test that fails makes the other fail too.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |what| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            tell(what);
        }));
    });
}

/// How long to go on.
struct Budget {
    end: Option<Instant>,
    requests: usize,
}

impl Budget {
    fn new(requests: usize) -> Self {
        let seconds = std::env::var("KUBEDB_FUZZ_SECONDS").ok();
        let seconds = seconds.map(|text| text.parse().expect("KUBEDB_FUZZ_SECONDS is a number"));
        let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        Self { end, requests }
    }

    fn is_over(&self, done: usize) -> bool {
        match self.end {
            Some(end) => Instant::now() > end,
            None => done >= self.requests,
        }
    }
}

fn seed() -> u64 {
    let named = std::env::var("KUBEDB_FUZZ_SEED").ok();
    named.map_or(7, |text| {
        text.parse().expect("KUBEDB_FUZZ_SEED is a number")
    })
}

/// One in five is left as it is, so that there is something for the others to meet.
fn request(random: &mut Random) -> Sent {
    let mut sent = corpus::valid(random);
    if !random.one_in(5) {
        mutate::mutate(random, &mut sent);
    }
    sent
}

/// Flushes cost nothing there, and nothing here is about them.
fn in_memory() -> tempfile::TempDir {
    let shared = std::path::Path::new("/dev/shm");
    if shared.is_dir() {
        tempfile::tempdir_in(shared).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_asked_is_answered() {
    count_panics();
    let folder = in_memory();
    let file = folder.path().join("kubedb.sqlite");
    let server = ApiServer::open(&file).unwrap();
    let client = server.client();
    let (seed, budget) = (seed(), Budget::new(REQUESTS));
    let mut random = Random(seed);
    let mut answers: BTreeMap<u16, usize> = BTreeMap::new();
    let mut done = 0;
    while !budget.is_over(done) {
        if done % CLEAR == 0 {
            clear(&client).await;
            server.compact();
        }
        let sent = request(&mut random);
        let about = || format!("seed {seed}, request {done}: {}", told(&sent));
        if let Some(code) = ask(&client, &sent, &about).await {
            *answers.entry(code).or_insert(0) += 1;
        }
        assert_eq!(PANICS.load(Ordering::SeqCst), 0, "{}", about());
        done += 1;
    }
    // Requests of every kind came through: some were fine, some refused for their form, some for their content.
    for code in [200, 201, 400, 404, 405, 406, 409, 410, 415, 422] {
        assert!(answers.contains_key(&code), "no {code} in {answers:?}");
    }
    assert!(resident() < MEMORY, "{} MiB", resident() >> 20);
    drop((client, server));
    ApiServer::open(&file).expect("what was stored is read again");
}

fn told(sent: &Sent) -> String {
    let body = String::from_utf8_lossy(&sent.body);
    let body: String = body.chars().take(2000).collect();
    let (method, target) = (&sent.method, sent.target());
    format!(
        "{method} {target}\ncontent-type: {}\naccept: {}\n\n{body:?}",
        sent.media, sent.accept
    )
}

/// The code of the answer; nothing when it is no request at all.
async fn ask(client: &kube::Client, sent: &Sent, about: &impl Fn() -> String) -> Option<u16> {
    let request = Request::builder()
        .method(sent.method.as_str())
        .uri(sent.target())
        .header("content-type", &sent.media)
        .header("accept", &sent.accept)
        .body(kube::client::Body::from(sent.body.clone()))
        .ok()?;
    let answered = async {
        let response = client
            .send(request)
            .await
            .unwrap_or_else(|error| panic!("{}: {error:?}", about()));
        let code = response.status();
        // A watch goes on; that it begins is enough.
        if sent.is_watch() && code == StatusCode::OK {
            return (code, String::new());
        }
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8_lossy(&bytes).into_owned())
    };
    let (code, text) = tokio::time::timeout(PATIENCE, answered)
        .await
        .unwrap_or_else(|_| panic!("no answer: {}", about()));
    assert!(!is_fault(code.as_u16(), &text), "{}: {text}", about());
    Some(code.as_u16())
}

/// Whether the server says that it is to blame. kube-apiserver answers 500 without a reason where a version cannot be read or
/// stands where none belongs, and 504 where it has not come yet; so do we, and no fault of ours looks so.
fn is_fault(code: u16, text: &str) -> bool {
    match code {
        504 => !text.contains("Too large resource version"),
        500 => text.contains("InternalError") || !text.contains("\"kind\":\"Status\""),
        _ => code >= 500,
    }
}

/// Takes the objects away, whatever holds them.
async fn clear(client: &kube::Client) {
    for collection in [
        "/api/v1/namespaces/default/configmaps",
        "/api/v1/namespaces/default/secrets",
        "/api/v1/namespaces/default/events",
        "/apis/coordination.k8s.io/v1/namespaces/default/leases",
        "/apis/kubedb.com/v1alpha1/namespaces/default/postgreses",
        "/apis/kubedb.com/v1alpha1/namespaces/default/snapshots",
    ] {
        let request = Request::delete(collection)
            .body(kube::client::Body::empty())
            .unwrap();
        client.send(request).await.unwrap();
    }
}
