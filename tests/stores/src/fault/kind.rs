//! What may go wrong with one request.

use std::{fmt, sync::Arc, time::Duration};

use super::message::Message;

/// What a store says in words of its own when it says 200 and means the opposite.
const ERROR: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>InternalError</Code><Message>We encountered an internal error. Please try again.</Message></Error>";

/// A fault.
#[derive(Clone)]
pub enum Fault {
    /// The connection ends without an answer, and the server is not asked.
    Refuse,
    /// The server is not asked; the answer is this status, and tells after how many seconds to come back.
    Status(&'static str, Option<u32>),
    /// The request waits so long before it is passed on.
    Slow(Duration),
    /// Half of the request's body reaches the server, and then nothing.
    CutRequest,
    /// The server does its work; the answer breaks off in the middle of its body, or of its head where it has none.
    CutAnswer,
    /// The server does its work; the answer is whole for its length, and its second half is missing.
    ShortAnswer,
    /// The server does its work; the answer never comes.
    LoseAnswer,
    /// The server is not asked; the answer is 200 with an error as its body.
    SuccessWithError,
    /// A byte of the request's body changes on its way.
    GarbleRequest,
    /// A byte of the answer's body changes on its way.
    GarbleAnswer,
    /// The answer names another ETag and another checksum than the server did.
    WrongTag,
    /// A listing lacks its last object.
    ListWithout,
    /// A listing is what it was when it was asked for before.
    ListOfBefore,
    /// Something of the test's happens before the request is passed on, and the connection ends.
    Before(Act),
    /// Something of the test's happens when the server has done its work, and the answer never comes.
    After(Act),
}

/// What a test does in the middle of a request.
pub type Act = Arc<dyn Fn() + Send + Sync>;

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refuse => f.write_str("Refuse"),
            Self::Status(status, again) => write!(f, "Status({status}, {again:?})"),
            Self::Slow(time) => write!(f, "Slow({time:?})"),
            Self::CutRequest => f.write_str("CutRequest"),
            Self::CutAnswer => f.write_str("CutAnswer"),
            Self::ShortAnswer => f.write_str("ShortAnswer"),
            Self::LoseAnswer => f.write_str("LoseAnswer"),
            Self::SuccessWithError => f.write_str("SuccessWithError"),
            Self::GarbleRequest => f.write_str("GarbleRequest"),
            Self::GarbleAnswer => f.write_str("GarbleAnswer"),
            Self::WrongTag => f.write_str("WrongTag"),
            Self::ListWithout => f.write_str("ListWithout"),
            Self::ListOfBefore => f.write_str("ListOfBefore"),
            Self::Before(_) => f.write_str("Before"),
            Self::After(_) => f.write_str("After"),
        }
    }
}

impl Fault {
    /// Every kind that takes no time: each must be borne at every request.
    pub const QUICK: [Self; 14] = [
        Self::Refuse,
        Self::Status("500 Internal Server Error", None),
        Self::Status("503 Service Unavailable", None),
        Self::Status("429 Too Many Requests", None),
        Self::Status("429 Too Many Requests", Some(1)),
        Self::CutRequest,
        Self::CutAnswer,
        Self::ShortAnswer,
        Self::LoseAnswer,
        Self::SuccessWithError,
        Self::GarbleRequest,
        Self::GarbleAnswer,
        Self::WrongTag,
        Self::ListWithout,
    ];

    /// The answer that is given without asking the server.
    pub(super) fn own_answer(&self) -> Option<Message> {
        match self {
            Self::Status(status, again) => {
                let answer = Message::answer(status, "");
                Some(match again {
                    Some(seconds) => answer.with("Retry-After", &seconds.to_string()),
                    None => answer,
                })
            }
            Self::SuccessWithError => {
                Some(Message::answer("200 OK", ERROR).with("Content-Type", "application/xml"))
            }
            _ => None,
        }
    }

    /// Spoils a request.
    pub(super) fn spoil_request(&self, request: &mut Message) {
        if let (Self::GarbleRequest, Some(middle)) = (self, middle(&request.body)) {
            request.body[middle] ^= 0x20;
        }
    }

    /// Spoils an answer that remains an answer. `before` is what the same listing was.
    pub(super) fn spoil_answer(&self, answer: &mut Message, before: Option<Message>) {
        match self {
            Self::ShortAnswer => answer.body.truncate(answer.body.len() / 2),
            Self::GarbleAnswer => {
                if let Some(middle) = middle(&answer.body) {
                    answer.body[middle] ^= 0x04;
                }
            }
            Self::WrongTag => {
                if answer.header("etag").is_some() {
                    answer.set("ETag", "\"00000000000000000000000000000000\"");
                }
                replace(answer, "\"md5Hash\":\"", "AAAAAAAAAAAAAAAAAAAAAA==");
                replace(answer, "\"etag\":\"", "AAAA");
            }
            Self::ListWithout => without_last(answer),
            Self::ListOfBefore => {
                if let Some(before) = before {
                    *answer = before;
                }
            }
            _ => {}
        }
    }
}

fn middle(body: &[u8]) -> Option<usize> {
    (!body.is_empty()).then_some(body.len() / 2)
}

/// Puts other text where a string of JSON begins with `opening`.
fn replace(answer: &mut Message, opening: &str, text: &str) {
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    if let Some((head, rest)) = body.split_once(opening)
        && let Some((_, tail)) = rest.split_once('"')
    {
        answer.body = format!("{head}{opening}{text}\"{tail}").into_bytes();
    }
}

/// Whether a request asks for a listing, in any of the four dialects.
pub(super) fn is_listing(request: &Message) -> bool {
    let target = request.target();
    let query = target.split_once('?').map_or("", |(_, query)| query);
    request.method() == "GET"
        && ["prefix=", "list-type=", "comp=list", "format=json"]
            .iter()
            .any(|word| query.contains(word))
}

/// Takes the last object out of a listing: XML of S3 and Azure, JSON of GCS and Swift.
fn without_last(answer: &mut Message) {
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    for (opening, closing) in [("<Contents>", "</Contents>"), ("<Blob>", "</Blob>")] {
        if let (Some(start), Some(end)) = (text.rfind(opening), text.rfind(closing)) {
            let rest = &text[end + closing.len()..];
            answer.body = format!("{}{rest}", &text[..start]).into_bytes();
            return;
        }
    }
    let Ok(mut listing) = serde_json::from_str::<serde_json::Value>(&text) else {
        return;
    };
    let items = match listing.get("items").is_some() {
        true => listing.get_mut("items"),
        false => Some(&mut listing),
    };
    if let Some(items) = items.and_then(serde_json::Value::as_array_mut) {
        items.pop();
        answer.body = listing.to_string().into_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spoiled(fault: &Fault, body: &str) -> String {
        let mut answer = Message::answer("200 OK", body);
        fault.spoil_answer(&mut answer, None);
        String::from_utf8(answer.body).unwrap()
    }

    #[test]
    fn a_listing_loses_its_last_object_in_each_dialect() {
        let list = |body| spoiled(&Fault::ListWithout, body);
        assert_eq!(
            list("<L><Contents>a</Contents><Contents>b</Contents></L>"),
            "<L><Contents>a</Contents></L>"
        );
        assert_eq!(
            list("<L><Blobs><Blob>a</Blob></Blobs></L>"),
            "<L><Blobs></Blobs></L>"
        );
        assert_eq!(
            list("{\"items\":[{\"name\":\"a\"},{\"name\":\"b\"}]}"),
            "{\"items\":[{\"name\":\"a\"}]}"
        );
        assert_eq!(list("[{\"name\":\"a\"}]"), "[]");
        assert_eq!(list("{\"kind\":\"empty\"}"), "{\"kind\":\"empty\"}");
    }

    #[test]
    fn tags_are_changed_where_they_are() {
        let body = "{\"etag\":\"x\",\"md5Hash\":\"y==\",\"size\":\"1\"}";
        let changed = "{\"etag\":\"AAAA\",\"md5Hash\":\"AAAAAAAAAAAAAAAAAAAAAA==\",\"size\":\"1\"}";
        assert_eq!(spoiled(&Fault::WrongTag, body), changed);
        assert_eq!(spoiled(&Fault::GarbleAnswer, "aaa"), "aea");
        assert_eq!(spoiled(&Fault::ShortAnswer, "abcd"), "ab");
    }
}
