//! The same through TLS, where requests are bytes: also such as are no HTTP, end early, or lie about their length.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{StreamExt, stream};
use kubedb_server::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::corpus::Sent;
use crate::random::Random;
use crate::wire::{Stream, Wired, wired};
use crate::{Budget, MEMORY, PANICS, PATIENCE, count_panics, mutate, request, resident, seed};

/// Connections, where no time is named. Each costs a handshake.
const CONNECTIONS: usize = 1500;
/// At once: many of them wait until the server has lost its patience.
const AT_ONCE: usize = 32;
/// After so many the server is asked something real.
const SIGN_OF_LIFE: usize = 300;

/// Short, so that what ends early is not waited for; long enough for what does not, on a busy machine.
fn limits() -> Limits {
    Limits {
        introduction: Duration::from_secs(3),
        head: Duration::from_secs(1),
        body: Duration::from_secs(1),
        ..Limits::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_arrives_is_answered_or_hung_up_on() {
    count_panics();
    let server = wired(limits()).await;
    let (seed, budget) = (seed(), Budget::new(CONNECTIONS));
    let mut random = Random(seed ^ 0x7c9);
    let (mut done, mut answered) = (0, 0);
    while !budget.is_over(done) {
        let batch: Vec<(usize, &str, Vec<u8>)> = (done..done + SIGN_OF_LIFE)
            .map(|number| match random.one_in(8) {
                true => (number, "h2", frames(&mut random)),
                false => (number, "http/1.1", requests(&server, &mut random)),
            })
            .collect();
        done += batch.len();
        answered += stream::iter(&batch)
            .map(|(number, protocol, bytes)| {
                let server = &server;
                async move {
                    let about = || {
                        let text = String::from_utf8_lossy(bytes);
                        format!("seed {seed}, connection {number}: {text:?}")
                    };
                    let text = exchange(server.tls(protocol).await, bytes, &about).await;
                    // Codes alone say little here: an answer to HEAD has no body that explains it. No object has this text.
                    assert!(!text.contains("InternalError"), "{}: {text}", about());
                    usize::from(text.starts_with("HTTP/1.1 "))
                }
            })
            .buffer_unordered(AT_ONCE)
            .fold(0, |sum, one| async move { sum + one })
            .await;
        assert_eq!(
            PANICS.load(Ordering::SeqCst),
            0,
            "seed {seed}, before {done}"
        );
        server.known().await;
    }
    assert!(answered > done / 2, "{answered} of {done}");
    assert!(resident() < MEMORY, "{} MiB", resident() >> 20);
}

/// Sends everything, and reads until the server hangs up, or a watch has begun.
async fn exchange(mut stream: Stream, bytes: &[u8], about: &impl Fn() -> String) -> String {
    let mut text = Vec::new();
    let talk = async {
        // It may hang up in the midst of it, and says why all the same.
        let _ = stream.write_all(bytes).await;
        let _ = stream.flush().await;
        let mut buffer = [0_u8; 8192];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            text.extend_from_slice(&buffer[..count]);
            if text.windows(WATCHES.len()).any(|part| part == WATCHES) {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, talk)
        .await
        .unwrap_or_else(|_| panic!("neither answered nor hung up: {}", about()));
    String::from_utf8_lossy(&text).into_owned()
}

/// Only watches have no length.
const WATCHES: &[u8] = b"transfer-encoding: chunked";

/// One to three requests on a connection, of which any byte may be another.
fn requests(server: &Wired, random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    let last = random.below(3);
    for index in 0..=last {
        let sent = request(random);
        bytes.extend(written(server, random, &sent, index == last));
    }
    if random.one_in(3) {
        for _ in 0..=random.below(4) {
            mutate::bytes(random, &mut bytes);
        }
    }
    bytes
}

fn written(server: &Wired, random: &mut Random, sent: &Sent, is_last: bool) -> Vec<u8> {
    let mut head = server.head(&format!("{} {}", sent.method, sent.target()));
    if is_last {
        head.push_str("connection: close\r\n");
    }
    head.push_str(&format!(
        "content-type: {}\r\naccept: {}\r\n",
        sent.media, sent.accept
    ));
    let length = sent.body.len();
    let body = match random.below(10) {
        0 => {
            head.push_str("transfer-encoding: chunked\r\n");
            [
                format!("{length:x}\r\n").as_bytes(),
                &sent.body,
                b"\r\n0\r\n\r\n",
            ]
            .concat()
        }
        1 => {
            let wrong = random.pick(&[
                "-1",
                "x",
                "99999999999999999999999",
                "0",
                "5",
                "4194304",
                "1, 2",
            ]);
            head.push_str(&format!("content-length: {wrong}\r\n"));
            sent.body.clone()
        }
        2 => {
            let line = random.pick(&[
                "expect: 100-continue",
                "connection: upgrade\r\nupgrade: h2c",
                "transfer-encoding: gzip, chunked",
                "content-encoding: gzip",
                "range: bytes=0-1",
                "host: y",
                " folded",
                "\u{0}: x",
                "x",
                "authorization: x",
            ]);
            head.push_str(&format!("{line}\r\ncontent-length: {length}\r\n"));
            sent.body.clone()
        }
        _ => {
            head.push_str(&format!("content-length: {length}\r\n"));
            sent.body.clone()
        }
    };
    head.push_str("\r\n");
    [head.into_bytes(), body].concat()
}

/// The greeting of HTTP/2 and frames of any kind, whole or not.
fn frames(random: &mut Random) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for _ in 0..random.below(12) {
        let length = random.below(40);
        let stream = u32::try_from(random.below(6)).unwrap();
        bytes.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes()[1..]);
        bytes.extend_from_slice(&[u8::try_from(random.below(11)).unwrap(), random.byte()]);
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend((0..length).map(|_| random.byte()));
    }
    if random.one_in(3) {
        mutate::bytes(random, &mut bytes);
    }
    bytes
}
