//! What becomes of a request that was right.

use serde_json::{Value, json};

use crate::corpus::{self, MEDIA, Sent};
use crate::random::Random;

const METHODS: &[&str] = &[
    "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "BREW", "CONNECT", "TRACE",
];

const PARTS: &[&str] = &[
    "api",
    "apis",
    "v1",
    "kubedb.com",
    "v1alpha1",
    "namespaces",
    "default",
    "postgreses",
    "secrets",
    "events",
    "status",
    "finalize",
    "x",
    "",
    "%00",
    "%ff",
    "..",
    "%2e%2e",
    "%2F",
    "watch",
    "%",
    "%E2%82%28",
    "a%20b",
    ".",
    "scale",
    "proxy",
];

/// Bodies that no client sends.
const RUBBISH: &[&str] = &[
    "",
    "{}",
    "[]",
    "null",
    "1",
    "\"x\"",
    "{\"metadata\": 1}",
    "{\"metadata\": null}",
    "{\"a\":1,\"a\":2}",
    "[{\"op\": \"add\", \"path\": \"\", \"value\": 1}]",
    "[{\"op\": \"move\", \"from\": \"/spec\", \"path\": \"/spec/a\"}]",
    "[{\"op\": \"copy\", \"from\": \"\", \"path\": \"/data\"}, {\"op\": \"copy\", \"from\": \"\", \"path\": \"/data\"}]",
    "{\"$patch\": \"delete\"}",
    "a: &a [*a]",
    "a: &a [1,1]\nb: &b [*a,*a]\nc: [*b,*b]",
    "a: b: c",
    "---\n---\nx",
    "!!binary x",
    "metadata: {name: !tag x}",
    "k8s\u{0}",
    "k8s\u{0}\u{12}\u{7f}\u{1}",
    "k8s\u{0}\n\u{ff}\u{ff}\u{ff}\u{ff}",
    "\u{feff}{}",
];

/// Once or several times, each time in one of its parts.
pub(crate) fn mutate(random: &mut Random, sent: &mut Sent) {
    for _ in 0..=random.below(3) {
        match random.below(12) {
            0 => sent.method = random.pick(METHODS).to_owned(),
            1 => sent.path = other_path(random, &sent.path),
            2 => sent.query.push(corpus::parameter(random)),
            3 => other_query(random, sent),
            4 => sent.media = random.pick(MEDIA).to_owned(),
            5 => sent.body = random.pick(RUBBISH).as_bytes().to_vec(),
            6..=8 => other_json(random, &mut sent.body),
            9 if random.one_in(8) => bomb(random, sent),
            9 => nested(random, sent),
            _ => bytes(random, &mut sent.body),
        }
    }
}

fn other_path(random: &mut Random, path: &str) -> String {
    let mut parts: Vec<String> = path.split('/').map(str::to_owned).collect();
    let place = random.below(parts.len());
    match random.below(5) {
        0 => parts[place] = random.pick(PARTS).to_owned(),
        1 => parts.insert(place, random.pick(PARTS).to_owned()),
        2 if parts.len() > 1 => drop(parts.remove(place)),
        3 => parts[place] = "a".repeat(random.below(3000)),
        _ => {
            let mut text = parts[place].clone().into_bytes();
            bytes(random, &mut text);
            parts[place] = String::from_utf8_lossy(&text).into_owned();
        }
    }
    format!("/{}", parts.join("/").trim_start_matches('/'))
}

fn other_query(random: &mut Random, sent: &mut Sent) {
    let count = sent.query.len();
    if count == 0 {
        sent.query = (0..random.below(100))
            .map(|_| corpus::parameter(random))
            .collect();
        return;
    }
    let (name, value) = &mut sent.query[random.below(count)];
    let text = if random.one_in(4) { name } else { value };
    let mut changed = std::mem::take(text).into_bytes();
    bytes(random, &mut changed);
    *text = String::from_utf8_lossy(&changed).into_owned();
}

/// Another value, of another type mostly, somewhere in a document.
fn other_json(random: &mut Random, body: &mut Vec<u8>) {
    let Ok(mut value) = serde_json::from_slice::<Value>(body) else {
        return bytes(random, body);
    };
    let mut places = vec![String::new()];
    corpus::pointers(&value, "", &mut places);
    let place = places[random.below(places.len())].clone();
    let other = match random.below(14) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(-1),
        3 => json!(random.next()),
        4 => json!(1e300),
        5 => json!(i64::MIN),
        6 => json!(""),
        7 => json!("\u{0}\u{202e}\u{1f600}"),
        8 => json!("x".repeat(random.below(70_000))),
        9 => json!([]),
        10 => json!({}),
        11 => json!([[{}], null, 1]),
        12 => value.clone(),
        _ => value
            .pointer(&places[random.below(places.len())])
            .cloned()
            .unwrap_or_default(),
    };
    match value.pointer_mut(&place) {
        Some(Value::Object(map)) if random.one_in(2) => {
            let name = random.pick(&[
                "",
                "a/b",
                "~",
                "name",
                "$patch",
                "spec",
                "\u{0}",
                "finalizers",
            ]);
            map.insert(name.to_owned(), other);
        }
        Some(found) => *found = other,
        None => {}
    }
    *body = value.to_string().into_bytes();
}

/// As deep as a parser's stack, and deeper.
fn nested(random: &mut Random, sent: &mut Sent) {
    let depth = *random.pick(&[&10, &100, &126, &127, &128, &129, &10_000]);
    let (open, close) = if random.one_in(2) {
        ("[", "]")
    } else {
        ("{\"a\":", "}")
    };
    let deep = format!("{}1{}", open.repeat(depth), close.repeat(depth));
    let text = String::from_utf8_lossy(&sent.body).into_owned();
    sent.body = match random.below(3) {
        0 => deep,
        1 => format!("[{{\"op\":\"add\",\"path\":\"/metadata/x\",\"value\":{deep}}}]"),
        _ => text.replacen("\"x\"", &deep, 1),
    }
    .into_bytes();
}

/// A patch whose every operation doubles what is there, or puts it deeper.
fn bomb(random: &mut Random, sent: &mut Sent) {
    let is_deep = random.one_in(2);
    let operations: Vec<Value> = (0..40)
        .map(|index| match is_deep {
            true => json!({"op": "copy", "from": "/metadata/labels", "path": "/metadata/labels".to_owned() + &"/a".repeat(index + 1)}),
            false => json!({"op": "copy", "from": "/metadata", "path": format!("/metadata/{index}")}),
        })
        .collect();
    sent.method = "PATCH".to_owned();
    sent.media = "application/json-patch+json".to_owned();
    sent.body = Value::from(operations).to_string().into_bytes();
}

/// Bytes flipped, taken out, doubled, or put in.
pub(crate) fn bytes(random: &mut Random, text: &mut Vec<u8>) {
    if text.is_empty() {
        text.push(random.byte());
        return;
    }
    let place = random.below(text.len());
    let end = (place + 1 + random.below(16)).min(text.len());
    match random.below(6) {
        0 => text[place] ^= 1 << random.below(8),
        1 => text[place] = random.byte(),
        2 => text.insert(place, random.byte()),
        3 => drop(text.drain(place..end)),
        4 => {
            let part = text[place..end].to_vec();
            drop(text.splice(place..place, part));
        }
        _ => text.truncate(place),
    }
}
