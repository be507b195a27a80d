//! The three patches: JSON merge, JSON patch, and strategic merge on core kinds.

use json_patch::PatchOperation;
use serde_json::{Map, Value};

use super::resource::Resource;
use super::status::ApiError;

/// Operations of a JSON patch at most, as in kube-apiserver.
const MAX_OPERATIONS: usize = 10_000;
/// Bytes that the copies of a JSON patch may add: as in kube-apiserver, those of a whole body. Each copy could double an
/// object otherwise.
const MAX_COPIED: usize = 3 << 20;
/// Levels of a patched object. What is read has 128 at most, else it is refused; so has what was stored, or it could not be
/// read again. A patch of operations could build any depth, and who walks through it needs a stack.
const MAX_DEPTH: usize = 100;

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// A patch that was read.
#[derive(Debug)]
pub(crate) enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    /// Reads a patch in the form its content type names.
    pub(crate) fn parse(
        resource: &Resource,
        content_type: &str,
        body: &[u8],
    ) -> Result<Self, ApiError> {
        let media = content_type.split(';').next().unwrap_or_default().trim();
        match media {
            JSON => {
                let operations: Vec<Value> =
                    serde_json::from_slice(body).map_err(|error| broken(&error))?;
                let count = operations.len();
                if count > MAX_OPERATIONS {
                    return Err(ApiError::too_large_because(&format!(
                        "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}"
                    )));
                }
                serde_json::from_value(operations.into())
                    .map(Self::Json)
                    .map_err(|error| ApiError::misfit_patch(&error.to_string()))
            }
            MERGE => object(body).map(Self::Merge),
            STRATEGIC if !resource.custom => object(body).map(Self::Strategic),
            _ if resource.custom => Err(ApiError::unsupported_media_type(&[JSON, MERGE])),
            _ => Err(ApiError::unsupported_patch()),
        }
    }

    /// The object after the patch.
    pub(crate) fn apply(&self, object: &Value) -> Result<Value, ApiError> {
        let mut patched = object.clone();
        match self {
            Self::Json(patch) => operate(&mut patched, patch)?,
            Self::Merge(patch) => json_patch::merge(&mut patched, patch),
            Self::Strategic(patch) => strategic(&mut patched, patch, "")?,
        }
        if patched.is_object() {
            Ok(patched)
        } else {
            Err(ApiError::bad_request("the patch leaves no object"))
        }
    }
}

/// Operation by operation, so that none works on what an earlier one made too large or too deep.
fn operate(object: &mut Value, patch: &[PatchOperation]) -> Result<(), ApiError> {
    let mut copied = 0;
    for (index, operation) in patch.iter().enumerate() {
        if let PatchOperation::Copy(copy) = operation
            && let Ok(value) = copy.from.resolve(object)
        {
            copied += length(value);
            if copied > MAX_COPIED {
                return Err(ApiError::misfit_patch(&format!(
                    "the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPIED}"
                )));
            }
        }
        if depth_after(object, operation) > MAX_DEPTH {
            let why =
                format!("operation '/{index}' makes the object deeper than {MAX_DEPTH} levels");
            return Err(ApiError::misfit_patch(&why));
        }
        json_patch::patch(object, std::slice::from_ref(operation)).map_err(|mut error| {
            error.operation = index;
            ApiError::misfit_patch(&error.to_string())
        })?;
    }
    Ok(())
}

/// How deep what an operation puts somewhere lies then.
fn depth_after(object: &Value, operation: &PatchOperation) -> usize {
    let put = match operation {
        PatchOperation::Add(add) => Some(&add.value),
        PatchOperation::Replace(replace) => Some(&replace.value),
        PatchOperation::Move(moved) => moved.from.resolve(object).ok(),
        PatchOperation::Copy(copy) => copy.from.resolve(object).ok(),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => None,
    };
    put.map_or(0, |value| operation.path().count() + depth(value))
}

/// Levels of a value; it has no more than what is read or was checked here.
fn depth(value: &Value) -> usize {
    let inner = match value {
        Value::Array(items) => items.iter().map(depth).max(),
        Value::Object(map) => map.values().map(depth).max(),
        _ => return 0,
    };
    1 + inner.unwrap_or(0)
}

/// Bytes of a value, as text and about.
fn length(value: &Value) -> usize {
    match value {
        Value::Array(items) => 2 + items.iter().map(|item| 1 + length(item)).sum::<usize>(),
        Value::Object(map) => {
            let fields = map
                .iter()
                .map(|(name, value)| 4 + name.len() + length(value));
            2 + fields.sum::<usize>()
        }
        Value::String(text) => 2 + text.len(),
        _ => 5,
    }
}

fn object(body: &[u8]) -> Result<Value, ApiError> {
    match serde_json::from_slice(body) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(ApiError::bad_request("error decoding patch: not an object")),
        Err(error) => Err(broken(&error)),
    }
}

/// What is no JSON. The words of Go are known to whoever has cut a patch off; others are those of our parser.
fn broken(error: &serde_json::Error) -> ApiError {
    let why = match error.is_eof() {
        true => "unexpected end of JSON input".to_owned(),
        false => error.to_string(),
    };
    ApiError::bad_request(format!("error decoding patch: {why}"))
}

/// Of the core kinds served, only these lists are merged; every other list is replaced.
fn merged_list(path: &str) -> Option<Option<&'static str>> {
    match path {
        "metadata.finalizers" => Some(None),
        "metadata.ownerReferences" => Some(Some("uid")),
        "status.conditions" => Some(Some("type")),
        _ => None,
    }
}

fn strategic(target: &mut Value, patch: &Value, path: &str) -> Result<(), ApiError> {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return Ok(());
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(map) = target.as_object_mut() else {
        return Ok(());
    };
    match patch.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            *map = patch.clone();
            map.remove("$patch");
            return Ok(());
        }
        Some("delete") => {
            map.clear();
            return Ok(());
        }
        _ => {}
    }
    if let Some(retained) = patch.get("$retainKeys").and_then(Value::as_array) {
        map.retain(|key, _| retained.iter().any(|one| one == key));
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix("$deleteFromPrimitiveList/") {
            if let Some(list) = map.get_mut(field).and_then(Value::as_array_mut) {
                let gone = value.as_array();
                list.retain(|item| gone.is_none_or(|gone| !gone.contains(item)));
            }
            continue;
        }
        // $setElementOrder only orders what is merged here anyway.
        if key.starts_with('$') {
            continue;
        }
        let child = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        match (value, merged_list(&child)) {
            (Value::Null, _) => drop(map.remove(key)),
            (Value::Array(items), Some(merge_key)) => {
                let list = map.entry(key).or_insert_with(|| Value::Array(Vec::new()));
                merge_list(list, items, merge_key, &child)?;
            }
            _ => strategic(map.entry(key).or_insert(Value::Null), value, &child)?,
        }
    }
    Ok(())
}

fn merge_list(
    list: &mut Value,
    items: &[Value],
    key: Option<&str>,
    path: &str,
) -> Result<(), ApiError> {
    if !list.is_array() {
        *list = Value::Array(Vec::new());
    }
    let Some(list) = list.as_array_mut() else {
        return Ok(());
    };
    if items.iter().any(|item| item["$patch"] == "replace") {
        *list = items
            .iter()
            .filter(|item| item["$patch"] != "replace")
            .cloned()
            .collect();
        return Ok(());
    }
    let Some(key) = key else {
        // What is new comes first.
        let new = items.iter().filter(|item| !list.contains(item)).cloned();
        let mut merged: Vec<Value> = new.collect();
        merged.append(list);
        *list = merged;
        return Ok(());
    };
    for item in items {
        if item[key].is_null() {
            let message = format!("map: {item} does not contain declared merge key: {key}");
            return Err(ApiError::bad_request(message));
        }
        let position = list.iter().position(|one| one[key] == item[key]);
        match (item["$patch"] == "delete", position) {
            (true, Some(position)) => drop(list.remove(position)),
            (true, None) => {}
            (false, Some(position)) => strategic(&mut list[position], item, path)?,
            (false, None) => list.push(item.clone()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::resource;
    use super::*;

    #[test]
    fn strategic_merge_knows_its_lists_and_directives() {
        let mut object = json!({"metadata": {"finalizers": ["a", "b"], "ownerReferences": [{"uid": "1", "name": "x"}],
            "labels": {"l": "1"}}, "data": {"k": "v", "gone": "x"}});
        let patch = json!({"metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"],
            "ownerReferences": [{"uid": "1", "name": "y"}, {"uid": "2", "name": "z"}], "labels": null},
            "data": {"gone": null, "new": "n"}});
        strategic(&mut object, &patch, "").unwrap();
        let mut finalizers = object["metadata"]["finalizers"].as_array().unwrap().clone();
        finalizers.sort_by_key(ToString::to_string);
        assert_eq!(finalizers, ["b", "c"]);
        assert_eq!(
            object["metadata"]["ownerReferences"],
            json!([{"uid": "1", "name": "y"}, {"uid": "2", "name": "z"}])
        );
        assert_eq!(object["data"], json!({"k": "v", "new": "n"}));
        assert!(object["metadata"]["labels"].is_null());
        strategic(
            &mut object,
            &json!({"data": {"$patch": "replace", "only": "1"}}),
            "",
        )
        .unwrap();
        assert_eq!(object["data"], json!({"only": "1"}));
    }

    /// A body of a few hundred bytes must not become an object of gigabytes, nor one that nobody can walk through.
    #[test]
    fn operations_have_limits() {
        let ours = resource::find("kubedb.com", "v1alpha1", "postgreses").unwrap();
        let apply = |operations: Value| {
            let patch = Patch::parse(ours, JSON, operations.to_string().as_bytes()).unwrap();
            patch.apply(&json!({"a": {"b": "c".repeat(1000)}}))
        };
        let doubling: Vec<Value> = (0..60)
            .map(|index| json!({"op": "copy", "from": "/a", "path": format!("/a/{index}")}))
            .collect();
        assert_eq!(apply(doubling.into()).unwrap_err().code, 422);
        let deeper = |count: usize| -> Value {
            let op = |index| json!({"op": "add", "path": "/a".repeat(index + 2), "value": {}});
            (0..count).map(op).collect()
        };
        assert!(apply(deeper(90)).is_ok());
        assert_eq!(apply(deeper(120)).unwrap_err().code, 422);
        let nested: Vec<Value> = (0..12)
            .map(|_| json!({"op": "copy", "from": "", "path": "/a"}))
            .chain((0..12).map(
                |level| json!({"op": "copy", "from": "/a", "path": "/a".repeat((1 << level) + 1)}),
            ))
            .collect();
        assert_eq!(apply(nested.into()).unwrap_err().code, 422);
        let none = apply(
            json!([{"op": "test", "path": "/a", "value": 1}, {"op": "remove", "path": "/x"}]),
        );
        let message = none.unwrap_err().message;
        assert!(message.contains("operation '/0'"), "{message}");
    }

    #[test]
    fn says_which_patches_it_takes() {
        let ours = resource::find("kubedb.com", "v1alpha1", "postgreses").unwrap();
        for wrong in [STRATEGIC, "application/apply-patch+yaml", "text/plain"] {
            assert_eq!(
                Patch::parse(ours, wrong, b"{}").unwrap_err().code,
                415,
                "{wrong}"
            );
        }
        assert!(Patch::parse(ours, MERGE, b"[]").is_err());
        let patch = Patch::parse(ours, JSON, br#"[{"op":"test","path":"/a","value":1}]"#).unwrap();
        assert_eq!(patch.apply(&json!({"a": 2})).unwrap_err().code, 422);
    }
}
