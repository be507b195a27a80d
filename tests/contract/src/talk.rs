//! A talk with one engine, written down as it goes on.

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, BodyStream};
use serde_json::{Value, json};

use crate::{
    engine::{Engine, User, Whose},
    kubectl::Kubectl,
    normalise::{Normaliser, without_cut_watches},
};

/// Longest time for one answer, and for one event of a watch.
const PATIENCE: Duration = Duration::from_secs(30);

/// Headers that are part of the contract.
const HEADERS: [&str; 4] = ["warning", "retry-after", "allow", "cache-control"];

/// One thing that was asked and answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Unique in its talk.
    pub title: String,
    /// What was asked and answered, without what differs between runs.
    pub text: String,
}

/// A request.
#[derive(Clone, Debug, Default)]
pub struct Call {
    method: &'static str,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    user: User,
}

impl Call {
    fn new(method: &'static str, path: &str) -> Self {
        Self {
            method,
            path: path.to_owned(),
            ..Self::default()
        }
    }

    /// GET.
    #[must_use]
    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// POST of JSON.
    #[must_use]
    pub fn post(path: &str, body: &Value) -> Self {
        Self::new("POST", path).json(body)
    }

    /// PUT of JSON.
    #[must_use]
    pub fn put(path: &str, body: &Value) -> Self {
        Self::new("PUT", path).json(body)
    }

    /// PATCH; `kind` is `merge`, `json`, `strategic` or a media type.
    #[must_use]
    pub fn patch(path: &str, kind: &str, body: &Value) -> Self {
        let media = match kind {
            "merge" => "application/merge-patch+json",
            "json" => "application/json-patch+json",
            "strategic" => "application/strategic-merge-patch+json",
            other => other,
        };
        let mut call = Self::new("PATCH", path).header("content-type", media);
        call.body = body.to_string().into_bytes();
        call
    }

    /// DELETE.
    #[must_use]
    pub fn delete(path: &str) -> Self {
        Self::new("DELETE", path)
    }

    /// Any method.
    #[must_use]
    pub fn method(method: &'static str, path: &str) -> Self {
        Self::new(method, path)
    }

    /// With a JSON body.
    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        self.bytes("application/json", body.to_string().into_bytes())
    }

    /// With any body.
    #[must_use]
    pub fn bytes(mut self, media: &str, body: Vec<u8>) -> Self {
        self.body = body;
        self.header("content-type", media)
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With an `Accept` header.
    #[must_use]
    pub fn accept(self, media: &str) -> Self {
        self.header("accept", media)
    }

    /// By somebody else than the administrator.
    #[must_use]
    pub fn by(mut self, user: User) -> Self {
        self.user = user;
        self
    }

    fn request(&self) -> Request<kube::client::Body> {
        let mut request = Request::builder().method(self.method).uri(&self.path);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request
            .body(kube::client::Body::from(self.body.clone()))
            .expect("a case writes valid requests")
    }

    fn line(&self) -> String {
        let mut line = format!("{} {}", self.method, self.path);
        for (name, value) in &self.headers {
            if value != "application/json" {
                line.push_str(&format!("\n{name}: {value}"));
            }
        }
        if self.user != User::Admin {
            line.push_str(&format!("\nby: {:?}", self.user));
        }
        line
    }
}

/// What was answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub code: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// The body; a string when it is not JSON.
    pub body: Value,
}

impl Answer {
    /// `metadata.resourceVersion`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn version(&self) -> String {
        self.body["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_else(|| panic!("no resourceVersion in {}", self.body))
            .to_owned()
    }

    /// `metadata.uid`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn uid(&self) -> String {
        self.body["metadata"]["uid"]
            .as_str()
            .unwrap_or_else(|| panic!("no uid in {}", self.body))
            .to_owned()
    }

    /// A header, or nothing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}

/// Everything that one case asks one engine.
#[derive(Debug)]
pub struct Talk {
    /// Whom it is with.
    pub engine: Arc<Engine>,
    /// The case's own namespace.
    pub namespace: String,
    /// Which kubectl is run.
    pub kubectl: Kubectl,
    /// What is written down so far.
    pub steps: Vec<Step>,
    /// Of answers and events.
    pub normaliser: Normaliser,
}

impl Talk {
    /// Begins one in a namespace of its own.
    pub async fn begin(engine: Arc<Engine>, case: &str, kubectl: Kubectl) -> Self {
        let namespace = case.replace("::", "-").replace('_', "-");
        let talk = Self {
            engine,
            namespace,
            kubectl,
            steps: Vec::new(),
            normaliser: Normaliser::default(),
        };
        let body = json!({"metadata": {"name": talk.namespace}});
        let made = talk.ask(&Call::post("/api/v1/namespaces", &body)).await;
        assert_eq!(made.code, 201, "{}", made.body);
        talk
    }

    /// A collection of a core kind in the case's namespace, or something in it.
    #[must_use]
    pub fn core(&self, rest: &str) -> String {
        format!("/api/v1/namespaces/{}/{rest}", self.namespace)
    }

    /// The same of our kinds.
    #[must_use]
    pub fn kubedb(&self, rest: &str) -> String {
        format!(
            "/apis/kubedb.com/v1alpha1/namespaces/{}/{rest}",
            self.namespace
        )
    }

    /// Asks without writing anything down.
    pub async fn ask(&self, call: &Call) -> Answer {
        let client = self.engine.client(call.user);
        let asked = tokio::time::timeout(PATIENCE, async {
            let response = client.send(call.request()).await?;
            let (parts, body) = response.into_parts();
            let bytes = body.collect().await?.to_bytes();
            Ok::<_, kube::Error>((parts, bytes))
        });
        let (parts, bytes) = asked
            .await
            .unwrap_or_else(|_| panic!("no answer within {PATIENCE:?}: {}", call.line()))
            .unwrap_or_else(|error| panic!("{}: {error:?}", call.line()));
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into());
        Answer {
            code: parts.status,
            headers: parts.headers,
            body,
        }
    }

    /// Asks, and writes down question and answer.
    pub async fn step(&mut self, title: &str, call: Call) -> Answer {
        self.step_of(title, call, Value::clone).await
    }

    /// The same with a part of the body alone.
    pub async fn step_of(
        &mut self,
        title: &str,
        call: Call,
        part: impl FnOnce(&Value) -> Value,
    ) -> Answer {
        let answer = self.ask(&call).await;
        let mut text = call.line();
        text.push_str(&format!(
            "\n-> {} {}",
            answer.code.as_u16(),
            answer.header("content-type")
        ));
        for name in HEADERS {
            for value in answer.headers.get_all(name) {
                text.push_str(&format!("\n{name}: {}", value.to_str().unwrap_or("?")));
            }
        }
        let text = self.normaliser.text(&text);
        let body = match part(&answer.body) {
            Value::String(text) => self.normaliser.text(&text),
            value => yaml(&self.normaliser.value(&value)),
        };
        self.write(title, &format!("{text}\n{body}"));
        answer
    }

    /// Writes something down that the case found out itself.
    pub fn note(&mut self, title: &str, value: &Value) {
        let text = yaml(&self.normaliser.value(value));
        self.write(title, &text);
    }

    fn write(&mut self, title: &str, text: &str) {
        assert!(
            self.steps.iter().all(|step| step.title != title),
            "two steps are called {title:?}"
        );
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        self.steps.push(Step {
            title: title.to_owned(),
            text: lines.join("\n").trim_end().to_owned(),
        });
    }

    /// Opens a watch. A refusal is an answer, to be written down by `step`.
    pub async fn watch(&self, call: Call) -> Watch {
        let client = self.engine.client(call.user);
        let response = tokio::time::timeout(PATIENCE, client.send(call.request()))
            .await
            .unwrap_or_else(|_| panic!("no answer within {PATIENCE:?}: {}", call.line()))
            .unwrap_or_else(|error| panic!("{}: {error:?}", call.line()));
        assert_eq!(response.status(), 200, "{}", call.line());
        Watch {
            line: call.line(),
            content_type: response
                .headers()
                .get("content-type")
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .to_owned(),
            stream: BodyStream::new(response.into_body()),
            rest: Vec::new(),
            seen: Vec::new(),
        }
    }

    /// Writes down the events that were taken from a watch.
    pub fn note_watch(&mut self, title: &str, watch: &Watch) {
        let mut text = format!("{}\n-> {}", watch.line, watch.content_type);
        for event in &watch.seen {
            let value = self.normaliser.value(event);
            text.push_str(&format!("\n- {}", yaml(&value).replace('\n', "\n  ")));
        }
        self.normaliser.text(&text.clone());
        let text = self.normaliser.text(&text);
        self.write(title, &text);
    }

    /// Runs kubectl as the administrator, and writes down what it printed.
    pub fn kubectl(&mut self, title: &str, arguments: &[&str], input: &str) -> Output {
        self.kubectl_with(title, arguments, input, &[], str::to_owned)
    }

    /// The same with variables, and with a part of what it printed.
    pub fn kubectl_with(
        &mut self,
        title: &str,
        arguments: &[&str],
        input: &str,
        variables: &[(&str, &str)],
        part: impl FnOnce(&str) -> String,
    ) -> Output {
        let output = self.run_kubectl(arguments, input, variables);
        let printed = part(&String::from_utf8_lossy(&output.stdout));
        let mut text = format!(
            "$ kubectl {}\n-> {}\n{}",
            arguments.join(" "),
            output.status.code().unwrap_or(-1),
            printed.trim_end()
        );
        let errors = without_cut_watches(&String::from_utf8_lossy(&output.stderr));
        if !errors.is_empty() {
            text.push_str(&format!("\nstderr:\n{}", errors.trim_end()));
        }
        let text = self.normaliser.printed(&text);
        self.write(title, &text);
        output
    }

    /// Holds its thread, whose other work goes elsewhere meanwhile: our server may be part of it.
    fn run_kubectl(&self, arguments: &[&str], input: &str, variables: &[(&str, &str)]) -> Output {
        tokio::task::block_in_place(|| self.run_kubectl_here(arguments, input, variables))
    }

    fn run_kubectl_here(
        &self,
        arguments: &[&str],
        input: &str,
        variables: &[(&str, &str)],
    ) -> Output {
        let folder = self.engine.folder.path();
        let mut child = Command::new(self.kubectl.path())
            .args(["-n", &self.namespace])
            .args(arguments)
            .env("KUBECONFIG", &self.engine.kubeconfig)
            .env("KUBECACHEDIR", folder.join("kubectl-cache"))
            .env("HOME", folder)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl must be installed: run cargo xtask tools");
        if let Some(mut stdin) = child.stdin.take() {
            // A command that does not read its input may be gone already.
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output().expect("kubectl ends")
    }

    /// Whether the engine is ours, for the few things only one of them can be told to do.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.engine.whose == Whose::Ours
    }

    /// Asks again until `fits` says yes.
    ///
    /// # Panics
    /// When that takes longer than `PATIENCE`.
    pub async fn until(&self, call: &Call, fits: impl Fn(&Answer) -> bool) -> Answer {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = self.ask(call).await;
            if fits(&answer) {
                return answer;
            }
            assert!(
                tokio::time::Instant::now() < end,
                "still {} {} after {PATIENCE:?}: {}",
                answer.code,
                answer.body,
                call.line()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn yaml(value: &Value) -> String {
    serde_yaml_ng::to_string(value)
        .expect("JSON is YAML")
        .trim_end()
        .to_owned()
}

/// A watch that is open.
#[derive(Debug)]
pub struct Watch {
    line: String,
    content_type: String,
    stream: BodyStream<kube::client::Body>,
    rest: Vec<u8>,
    seen: Vec<Value>,
}

impl Watch {
    /// The next event; it is written down with `note_watch`.
    ///
    /// # Panics
    /// When none comes in time, or the watch ends.
    pub async fn next(&mut self) -> Value {
        self.next_or_end()
            .await
            .unwrap_or_else(|| panic!("the watch ended: {}", self.line))
    }

    /// Replaces the ages in the rows that were seen.
    pub fn blur_ages(&mut self) {
        for event in &mut self.seen {
            for row in event["object"]["rows"].as_array_mut().into_iter().flatten() {
                if let Some(last) = row["cells"]
                    .as_array_mut()
                    .and_then(|cells| cells.last_mut())
                {
                    *last = "<age>".into();
                }
            }
        }
    }

    /// Replaces the versions of bookmarks: others write meanwhile.
    pub fn blur_bookmarks(&mut self) {
        for event in &mut self.seen {
            if event["type"] == "BOOKMARK" {
                event["object"]["metadata"]["resourceVersion"] = "<now>".into();
                for row in event["object"]["rows"].as_array_mut().into_iter().flatten() {
                    row["object"]["metadata"]["resourceVersion"] = "<now>".into();
                }
            }
        }
    }

    /// The next event that is no bookmark.
    pub async fn change(&mut self) -> Value {
        loop {
            let event = self.next().await;
            if event["type"] != "BOOKMARK" {
                return event;
            }
            self.seen.pop();
        }
    }

    /// The next event, or nothing when the watch ends.
    ///
    /// # Panics
    /// When neither comes in time.
    pub async fn next_or_end(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).expect("an event is JSON");
                self.seen.push(event.clone());
                return Some(event);
            }
            let next = tokio::time::timeout(PATIENCE, self.stream.next()).await;
            match next.unwrap_or_else(|_| panic!("no event within {PATIENCE:?}: {}", self.line)) {
                None => return None,
                Some(frame) => {
                    let frame = frame.unwrap_or_else(|error| panic!("{}: {error}", self.line));
                    self.rest
                        .extend_from_slice(&frame.into_data().unwrap_or_default());
                }
            }
        }
    }
}
