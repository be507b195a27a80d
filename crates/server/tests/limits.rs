//! What a client cannot take from the others: places, time, memory. Each limit is reached over TLS.

#![allow(clippy::unwrap_used)]

mod wire;

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kubedb_server::Limits;
use tokio::io::AsyncWriteExt;
use wire::{PATIENCE, Stream, Wired, answer, ends, wired};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Short enough to wait for. Nobody else is on these connections.
fn short() -> Limits {
    Limits {
        handshake: Duration::from_millis(300),
        introduction: Duration::from_millis(600),
        head: Duration::from_millis(300),
        body: Duration::from_millis(300),
        ..Limits::default()
    }
}

async fn send(stream: &mut Stream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_is_let_go() {
    let server = wired(short()).await;
    assert!(ends(&mut server.tcp().await).await, "no handshake");
    for protocol in ["http/1.1", "h2"] {
        let mut stream = server.tls(protocol).await;
        assert!(ends(&mut stream).await, "{protocol}: no request");
        let mut stream = server.tls(protocol).await;
        send(&mut stream, "PRI * HT").await;
        assert!(ends(&mut stream).await, "{protocol}: a part of a greeting");
    }
    // Asking what everybody may know is no introduction.
    let mut stream = server.tls("http/1.1").await;
    send(&mut stream, "GET /version HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(answer(&mut stream).await.unwrap().code, 200);
    assert!(ends(&mut stream).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_or_body_that_never_ends_is_not_waited_for() {
    let server = wired(short()).await;
    let mut stream = server.known().await;
    let begin = server.head(&format!("POST {MAPS}"));
    send(&mut stream, &begin).await;
    assert!(ends(&mut stream).await, "a head without its end");

    let mut stream = server.known().await;
    let head = format!("{begin}content-type: application/json\r\ncontent-length: 1000\r\n\r\n{{");
    send(&mut stream, &head).await;
    let late = answer(&mut stream).await.unwrap();
    assert_eq!(late.code, 400, "{}", late.text);
    assert!(
        late.text.contains("did not arrive in time"),
        "{}",
        late.text
    );

    // A byte now and then makes no difference.
    let (mut reading, mut writing) = tokio::io::split(server.known().await);
    let dripping = tokio::spawn(async move {
        let head = format!("{begin}content-type: application/json\r\ncontent-length: 9999\r\n\r\n");
        let mut sent = writing.write_all(head.as_bytes()).await;
        while sent.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            sent = writing.write_all(b" ").await;
            if sent.is_ok() {
                sent = writing.flush().await;
            }
        }
    });
    assert!(ends(&mut reading).await);
    tokio::time::timeout(PATIENCE, dripping)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_and_bodies_have_a_size() {
    let server = wired(Limits::default()).await;
    let long = "x".repeat(70_000);
    let many: String = (0..150).map(|index| format!("x-{index}: y\r\n")).collect();
    let large = format!("x-large: {long}\r\n");
    for (what, line, rest, codes) in [
        ("many headers", "GET /version", many.as_str(), [431, 431]),
        ("a large header", "GET /version", &large, [431, 431]),
        ("a long path", &format!("GET /{long}"), "", [414, 431]),
        (
            "a long query",
            &format!("GET /version?{long}"),
            "",
            [414, 431],
        ),
    ] {
        let mut stream = server.tls("http/1.1").await;
        send(&mut stream, &format!("{}{rest}\r\n", server.head(line))).await;
        let code = answer(&mut stream).await.map(|answer| answer.code);
        assert!(
            code.is_some_and(|code| codes.contains(&code)),
            "{what}: {code:?}"
        );
    }
    // What a selector of a thousand names needs is fine.
    let names: Vec<String> = (0..1000).map(|index| format!("{:a>40}", index)).collect();
    let mut stream = server.tls("http/1.1").await;
    let line = format!("GET {MAPS}?labelSelector=x%20in%20({})", names.join(","));
    send(&mut stream, &format!("{}\r\n", server.head(&line))).await;
    assert_eq!(answer(&mut stream).await.unwrap().code, 200);

    // A body without a length is refused once it is too large, not once it has ended.
    let mut stream = server.tls("http/1.1").await;
    let head = server.head(&format!("POST {MAPS}"));
    send(
        &mut stream,
        &format!("{head}transfer-encoding: chunked\r\n\r\n"),
    )
    .await;
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    for _ in 0..50 {
        // It may have hung up already.
        if stream.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    assert_eq!(answer(&mut stream).await.unwrap().code, 413);

    // Nobody reads the body of somebody unknown.
    let mut stream = server.tls("http/1.1").await;
    let head = format!("POST {MAPS} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n");
    send(&mut stream, &head).await;
    assert_eq!(answer(&mut stream).await.unwrap().code, 401);
    assert!(ends(&mut stream).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_have_a_size_in_http_2_too() {
    let server = wired(Limits::default()).await;
    let stream = TokioIo::new(server.tls("h2").await);
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let request = |filler: usize| {
        http::Request::get("https://localhost/version")
            .header("x-filler", "x".repeat(filler))
            .body(Empty::<Bytes>::new())
            .unwrap()
    };
    let small = client.send_request(request(1000)).await.unwrap();
    assert_eq!(small.status(), 200);
    small.into_body().collect().await.unwrap();
    // The client's own limit is what the server told it: either of them refuses.
    match client.send_request(request(100_000)).await {
        Ok(large) => assert_eq!(large.status(), 431),
        Err(error) => assert!(error.is_user() || error.is_closed(), "{error:?}"),
    }
    drop(client);
    let _ = tokio::time::timeout(PATIENCE, connection).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_keep_nobody_out() {
    let limits = Limits {
        strangers: 8,
        ..Limits::default()
    };
    let server = wired(limits).await;
    let mut early = server.known().await;
    let mut silent = Vec::new();
    for index in 0..24 {
        silent.push(
            server
                .tls(if index % 2 == 0 { "h2" } else { "http/1.1" })
                .await,
        );
    }
    let begin = Instant::now();
    server.known().await;
    assert!(
        begin.elapsed() < limits.introduction,
        "{:?}",
        begin.elapsed()
    );
    // Whoever is known stays.
    send(&mut early, &format!("{}\r\n", server.head("GET /version"))).await;
    assert_eq!(answer(&mut early).await.unwrap().code, 200);
    // The first of the silent ones made room; the last ones are waited for still.
    assert!(ends(&mut silent[0]).await);
    let last = silent.last_mut().unwrap();
    send(last, &format!("{}\r\n", server.head("GET /version"))).await;
    assert_eq!(answer(last).await.unwrap().code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_and_changes_are_counted() {
    let limits = Limits {
        connections: 4,
        changes: 2,
        ..Limits::default()
    };
    let server = wired(limits).await;
    let mut held = Vec::new();
    let head = server.head(&format!("POST {MAPS}"));
    let unfinished = format!("{head}content-type: application/json\r\ncontent-length: 10\r\n\r\n");
    for _ in 0..2 {
        let mut stream = server.known().await;
        send(&mut stream, &unfinished).await;
        held.push(stream);
    }
    busy(&server, &format!("{head}content-length: 2\r\n\r\n{{}}")).await;
    for _ in 0..2 {
        held.push(server.known().await);
    }
    // The next one waits at the door, and comes in when somebody leaves.
    let next = async { server.known().await };
    let mut next = std::pin::pin!(next);
    assert!(
        tokio::time::timeout(Duration::from_millis(300), &mut next)
            .await
            .is_err(),
        "there is no place"
    );
    drop(held.pop());
    tokio::time::timeout(PATIENCE, next).await.unwrap();
}

/// A place is all that tells: nothing is read of the connection that is to end.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_reads_is_not_kept_for_ever() {
    let server = wired(Limits {
        connections: 1,
        unread: Duration::from_millis(300),
        ..Limits::default()
    })
    .await;
    let mut deaf = server.known().await;
    let body = format!(
        r#"{{"metadata": {{"name": "large"}}, "data": {{"a": "{}"}}}}"#,
        "x".repeat(1_000_000)
    );
    let head = server.head(&format!("POST {MAPS}"));
    let length = body.len();
    let request =
        format!("{head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}");
    send(&mut deaf, &request).await;
    assert_eq!(answer(&mut deaf).await.unwrap().code, 201);
    // More than the buffers of a loopback connection hold.
    let reads = format!("{}\r\n", server.head(&format!("GET {MAPS}/large"))).repeat(60);
    send(&mut deaf, &reads).await;
    let next = tokio::time::timeout(PATIENCE, server.known()).await;
    assert!(next.is_ok(), "the place of who does not read is not free");
    drop(deaf);
}

/// Asks until the two unfinished changes have begun and a third is turned away.
async fn busy(server: &Wired, request: &str) {
    let end = Instant::now() + PATIENCE;
    loop {
        let mut stream = server.known().await;
        send(&mut stream, request).await;
        let answer = answer(&mut stream).await.unwrap();
        if answer.code == 429 {
            assert!(answer.text.contains("TooManyRequests"), "{}", answer.text);
            return;
        }
        assert!(Instant::now() < end, "{} {}", answer.code, answer.text);
    }
}
