//! How quickly both engines list and tell, and how much memory they take: `cargo xtask bench api`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use http::Request;
use http_body_util::{BodyExt as _, BodyStream};
use kube::Client;
use kubedb_contract::engine::{Engine, User, Whose};
use serde_json::{Value, json};

const POSTGRESES: usize = 1_000;
const SNAPSHOTS: usize = 10_000;
const WATCHERS: usize = 1_000;
/// Times that each list is read; the median counts.
const READS: usize = 7;
/// Writes at once while everything is created.
const AT_ONCE: usize = 32;
const NAMESPACE: &str = "/api/v1/namespaces";
const GROUP: &str = "/apis/kubedb.com/v1alpha1/namespaces/bench";

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let serves = std::env::args().nth(1).as_deref() == Some("serve");
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let outcome = runtime.block_on(async {
        if serves {
            return serve().await;
        }
        for whose in [Whose::Ours, Whose::Theirs] {
            say(&measure(whose).await?);
        }
        Ok(())
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &Failure) -> ExitCode {
    say(&format!("error: {error}"));
    ExitCode::FAILURE
}

/// Our server in a process of its own, so that its memory is its own. Ends when its input does.
async fn serve() -> Result<(), Failure> {
    let engine = Engine::start(Whose::Ours).await?;
    tell(&engine.kubeconfig.display().to_string());
    let mut line = String::new();
    tokio::task::spawn_blocking(move || std::io::stdin().read_line(&mut line)).await??;
    engine.end().await;
    Ok(())
}

/// An engine, with the processes whose memory counts.
struct Measured {
    client: Client,
    processes: Vec<(String, u32)>,
    /// What ends it when it is dropped.
    _theirs: Option<Engine>,
    _ours: Option<std::process::Child>,
}

async fn start(whose: Whose) -> Result<Measured, Failure> {
    if whose == Whose::Theirs {
        let engine = Engine::start(whose).await?;
        return Ok(Measured {
            client: engine.client(User::Admin),
            processes: engine.processes(),
            _theirs: Some(engine),
            _ours: None,
        });
    }
    use std::io::BufRead as _;
    let mut child = std::process::Command::new(std::env::current_exe()?)
        .arg("serve")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().ok_or("no output")?;
    let mut line = String::new();
    std::io::BufReader::new(output).read_line(&mut line)?;
    let client = kubedb_contract::engine::client_of(&PathBuf::from(line.trim())).await?;
    Ok(Measured {
        client,
        processes: vec![("kubedb server".to_owned(), child.id())],
        _theirs: None,
        _ours: Some(child),
    })
}

async fn measure(whose: Whose) -> Result<String, Failure> {
    let measured = start(whose).await?;
    let client = &measured.client;
    send(
        client,
        "POST",
        NAMESPACE,
        &json!({"metadata": {"name": "bench"}}),
    )
    .await?;
    let begin = Instant::now();
    let database = |index: usize| {
        json!({"apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "metadata": {"name": format!("pg-{index}")},
            "spec": {"version": "9.6", "replicas": 1, "standbyMode": "warm", "streamingMode": "asynchronous",
            "storage": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}})
    };
    let snapshot = |index: usize| {
        let name = format!("pg-{}", index % POSTGRESES);
        json!({"apiVersion": "kubedb.com/v1alpha1", "kind": "Snapshot", "metadata": {"name": format!("s-{index}"),
            "labels": {"kubedb.com/kind": "Postgres", "kubedb.com/name": name}},
            "spec": {"databaseName": name, "local": {"hostPath": {"path": "/backup"}, "mountPath": "/backup"}}})
    };
    create(client, "postgreses", POSTGRESES, database).await?;
    create(client, "snapshots", SNAPSHOTS, snapshot).await?;
    let created = begin.elapsed();
    let postgreses = list(client, "postgreses", POSTGRESES).await?;
    let snapshots = list(client, "snapshots", SNAPSHOTS).await?;
    let told = watchers(client).await?;
    let memory: Vec<String> = measured
        .processes
        .iter()
        .map(|(name, id)| format!("{name} {} MB", resident(*id)))
        .collect();
    Ok(format!(
        "{whose:?}: {} objects created in {:.1} s; {POSTGRESES} Postgres listed in {} ms, {SNAPSHOTS} Snapshots in {} ms; \
         the last of {WATCHERS} watchers told after {} ms; memory then: {}",
        POSTGRESES + SNAPSHOTS,
        created.as_secs_f64(),
        postgreses.as_millis(),
        snapshots.as_millis(),
        told.as_millis(),
        memory.join(", ")
    ))
}

async fn create(
    client: &Client,
    plural: &str,
    count: usize,
    object: impl Fn(usize) -> Value,
) -> Result<(), Failure> {
    let path = format!("{GROUP}/{plural}");
    let mut made = stream::iter(0..count)
        .map(|index| {
            let (client, path, body) = (client.clone(), path.clone(), object(index));
            async move { send(&client, "POST", &path, &body).await }
        })
        .buffer_unordered(AT_ONCE);
    while let Some(outcome) = made.next().await {
        outcome?;
    }
    Ok(())
}

/// Median of the times that it takes to read a whole list.
async fn list(client: &Client, plural: &str, count: usize) -> Result<Duration, Failure> {
    let mut times = Vec::new();
    for _ in 0..READS {
        let begin = Instant::now();
        let bytes = send(client, "GET", &format!("{GROUP}/{plural}"), &Value::Null).await?;
        times.push(begin.elapsed());
        let found: Value = serde_json::from_slice(&bytes)?;
        if found["items"].as_array().map(Vec::len) != Some(count) {
            return Err(format!("a list of {plural} is not complete").into());
        }
    }
    times.sort();
    Ok(times[READS / 2])
}

/// Time from a write until the last of all watchers has its event.
async fn watchers(client: &Client) -> Result<Duration, Failure> {
    let path = format!("{GROUP}/postgreses?watch=1&fieldSelector=metadata.name%3Dpg-0");
    let opened = stream::iter(0..WATCHERS)
        .map(|_| {
            let (client, path) = (client.clone(), path.clone());
            async move {
                let response = client.send(request("GET", &path, &Value::Null)?).await?;
                let mut events = BodyStream::new(response.into_body());
                // The object as it is.
                events.next().await;
                Ok::<_, Failure>(events)
            }
        })
        .buffer_unordered(AT_ONCE);
    let opened: Vec<_> = opened.collect().await;
    let mut waiting = Vec::new();
    for watch in opened {
        let mut events = watch?;
        waiting.push(tokio::spawn(async move {
            let event = events.next().await;
            (event.is_some(), Instant::now(), events)
        }));
    }
    let begin = Instant::now();
    let patch = json!({"metadata": {"labels": {"bench": "told"}}});
    send(client, "PATCH", &format!("{GROUP}/postgreses/pg-0"), &patch).await?;
    let mut last = begin;
    let mut held = Vec::new();
    for watch in waiting {
        let (seen, at, events) = watch.await?;
        if !seen {
            return Err("a watch ended".into());
        }
        last = last.max(at);
        held.push(events);
    }
    Ok(last.duration_since(begin))
}

fn request(method: &str, path: &str, body: &Value) -> Result<Request<kube::client::Body>, Failure> {
    let media = if method == "PATCH" {
        "application/merge-patch+json"
    } else {
        "application/json"
    };
    let bytes = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    Ok(Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", media)
        .body(kube::client::Body::from(bytes))?)
}

async fn send(client: &Client, method: &str, path: &str, body: &Value) -> Result<Vec<u8>, Failure> {
    let response = client.send(request(method, path, body)?).await?;
    let code = response.status();
    let bytes = response.into_body().collect().await?.to_bytes().to_vec();
    if code.is_success() {
        Ok(bytes)
    } else {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Err(format!("{method} {path}: {code} {text}").into())
    }
}

/// Resident memory in MB.
fn resident(id: u32) -> u64 {
    let path = Path::new("/proc").join(id.to_string()).join("status");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) / 1024
}

#[expect(clippy::print_stderr, reason = "it is a command")]
fn say(line: &str) {
    eprintln!("{line}");
}

#[expect(clippy::print_stdout, reason = "its parent reads it")]
fn tell(line: &str) {
    println!("{line}");
}
