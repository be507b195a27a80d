//! A server that is silent, slow, or forgets who we are.

use std::{process::Command, sync::Arc};

use futures::TryStreamExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::store::gcs::auth::TokenSource;

/// Silence that these tests bear.
const SHORT: Duration = Duration::from_millis(300);

fn api(tokens: Option<TokenSource>) -> Api<Option<TokenSource>> {
    Api {
        silence: SHORT,
        ..Api::new(tokens, true, None).unwrap()
    }
}

/// Serves each connection by `answer`, and gives the address.
async fn serve<F>(answer: impl Fn(TcpStream) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    address
}

/// Reads the head of a request.
async fn head(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await.unwrap_or_default() == 0 {
            break;
        }
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

async fn reply(stream: &mut TcpStream, status: &str, body: &str) {
    let length = body.len();
    let text =
        format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    let _ = stream.write_all(text.as_bytes()).await;
}

#[tokio::test]
async fn t34_a_server_that_never_answers_is_given_up_after_its_retries() {
    let address = serve(|mut stream| async move {
        head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let begun = Instant::now();
    let failure = api(None).send(|client, _| client.get(&address)).await;
    let Err(Failure::Unreachable { reason }) = failure else {
        panic!("{failure:?}");
    };
    assert!(reason.contains("no answer within"), "{reason}");
    assert!(begun.elapsed() < Duration::from_secs(25));
}

#[tokio::test]
async fn t34_an_answer_that_stands_still_breaks_off() {
    let address = serve(|mut stream| async move {
        head(&mut stream).await;
        let begin = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
        stream.write_all(begin).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let api = api(None);
    let response = api.send(|client, _| client.get(&address)).await.unwrap();
    let content: Result<Vec<Bytes>, String> = api.content(response).try_collect().await;
    assert!(content.unwrap_err().contains("stands still"));
}

#[tokio::test]
async fn a_slow_line_is_no_silence() {
    // A body that takes longer to send than silence is borne: 375 KB are given three seconds more.
    let address = serve(|mut stream| async move {
        head(&mut stream).await;
        let mut left = 375_000;
        let mut buffer = vec![0; 25_000];
        while left > 0 {
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(read > 0, "the client gave up");
            left -= read;
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        reply(&mut stream, "200 OK", "{}").await;
    })
    .await;
    let body = Bytes::from(vec![1; 375_000]);
    let begun = Instant::now();
    let api = api(None);
    let sent = api.send(|client, _| client.post(&address).body(body.clone()));
    assert_eq!(sent.await.unwrap().status(), StatusCode::OK);
    assert!(begun.elapsed() > 2 * SHORT, "it was not slow");
}

#[tokio::test]
async fn a_token_that_was_taken_back_is_fetched_anew_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    let made = Command::new("openssl")
        .args(["genrsa", "-out"])
        .arg(&file)
        .arg("2048")
        .output();
    assert!(made.unwrap().status.success());
    let given = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&given);
    let address = serve(move |mut stream| {
        let given = Arc::clone(&counted);
        async move {
            let head = head(&mut stream).await;
            if head.starts_with("POST /token") {
                let number = given.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let body = format!("{{\"access_token\":\"t{number}\",\"expires_in\":3600}}");
                reply(&mut stream, "200 OK", &body).await;
            } else if head.contains("Bearer t1") && head.starts_with("GET /known") {
                reply(&mut stream, "200 OK", "{}").await;
            } else {
                reply(&mut stream, "401 Unauthorized", "{}").await;
            }
        }
    })
    .await;
    let key = serde_json::json!({
        "client_email": "backup@example.iam", "token_uri": format!("{address}/token"),
        "private_key": std::fs::read_to_string(&file).unwrap(),
    });
    let tokens = TokenSource::read(key.to_string().as_bytes()).unwrap();
    let api = api(Some(tokens));
    let known = api
        .send(|client, _| client.get(format!("{address}/known")))
        .await;
    assert_eq!(known.unwrap().status(), StatusCode::OK);
    let refused = api
        .send(|client, _| client.get(format!("{address}/other")))
        .await;
    assert!(
        matches!(&refused, Err(Failure::Status { status, .. }) if *status == StatusCode::UNAUTHORIZED),
        "{refused:?}"
    );
    assert_eq!(given.load(std::sync::atomic::Ordering::SeqCst), 3);
}
