//! Writes, as the API takes them: versions are compared, status is apart from the rest, and what
//! the API would not have is refused.

use std::collections::BTreeMap;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};

use super::ApiServer;
use super::answers::{Body, Target, key, reply, status, status_object};
use super::store::{Shared, merge, name_of};

/// One write that the server was asked for, in the order in which they were done.
#[derive(Clone, Debug)]
pub struct Written {
    /// `create`, `update`, `patch` or `delete`.
    pub verb: &'static str,
    /// `leases`, `ingresses/status`.
    pub resource: String,
    /// The object's namespace and name.
    pub name: (String, String),
    /// Who says to have written it: `fieldManager`.
    pub manager: Option<String>,
    /// What was sent.
    pub body: Value,
    /// What it was answered with.
    pub code: u16,
}

impl ApiServer {
    /// Every write so far, those that were refused too; not those that met a [`super::Fault`].
    pub fn written(&self) -> Vec<Written> {
        self.shared.lock().written.clone()
    }
}

/// Creates, replaces, merges or deletes.
pub(super) async fn write(
    verb: &'static str,
    request: Request<Incoming>,
    shared: &Shared,
    target: &Target,
    query: &BTreeMap<String, String>,
) -> Response<Body> {
    let Ok(body) = request.into_body().collect().await else { return status(400, "the body broke off") };
    let body: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
    let mut name = key(target);
    if verb == "create" {
        name.1 = name_of(&body).1;
    }
    // Nothing is awaited from here on, so no other write comes between.
    let outcome = perform(verb, shared, target, &name, body.clone());
    let (code, answer) = match outcome {
        Ok(object) => (if verb == "create" { 201 } else { 200 }, object),
        Err((code, reason, message)) => {
            let mut object = status_object(code, message);
            object["reason"] = reason.into();
            (code, object)
        }
    };
    let manager = query.get("fieldManager").cloned();
    shared.lock().written.push(Written { verb, resource: target.resource(), name, manager, body, code });
    reply(StatusCode::from_u16(code).expect("a status"), &answer)
}

type Refusal = (u16, &'static str, &'static str);

fn perform(
    verb: &str,
    shared: &Shared,
    target: &Target,
    name: &(String, String),
    body: Value,
) -> Result<Value, Refusal> {
    let known = shared.lock().objects.get(&target.collection).and_then(|all| all.get(name)).cloned();
    let object = match (verb, known) {
        ("create", Some(_)) => return Err((409, "AlreadyExists", "already exists")),
        ("create", None) => {
            let mut object = body;
            object["metadata"]["namespace"] = name.0.as_str().into();
            object.as_object_mut().expect("an object").remove("status");
            object
        }
        (_, None) => return Err((404, "NotFound", "not found")),
        ("delete", Some(known)) => {
            same_version(&body["preconditions"], &known)?;
            shared.remove(&target.collection, name);
            return Ok(known);
        }
        ("update", Some(known)) => {
            same_version(&body["metadata"], &known)?;
            if body["metadata"]["resourceVersion"].is_null() {
                return Err((422, "Invalid", "metadata.resourceVersion: must be specified for an update"));
            }
            parted(target, known, body)
        }
        (_, Some(known)) => {
            same_version(&body["metadata"], &known)?;
            let mut merged = known.clone();
            merge(&mut merged, body);
            parted(target, known, merged)
        }
    };
    valid(verb, target, &object)?;
    Ok(shared.put(&target.collection, object))
}

/// A write that names a version is for that version only.
fn same_version(named: &Value, known: &Value) -> Result<(), Refusal> {
    let named = &named["resourceVersion"];
    if !named.is_null() && *named != known["metadata"]["resourceVersion"] {
        return Err((409, "Conflict", "the object has been modified"));
    }
    Ok(())
}

/// Of a write to a subresource only the status counts, of any other all but the status.
fn parted(target: &Target, mut known: Value, mut new: Value) -> Value {
    if target.subresource.is_some() {
        known["status"] = new["status"].take();
        return known;
    }
    let status = known["status"].take();
    if !status.is_null() {
        new["status"] = status;
    }
    new["metadata"]["namespace"] = known["metadata"]["namespace"].clone();
    new
}

/// The rules of the API's validation that a controller can break.
fn valid(verb: &str, target: &Target, object: &Value) -> Result<(), Refusal> {
    let filled =
        |field: &str| object[field].as_str().is_some_and(|text| !text.is_empty() && text.len() <= 128);
    let ok = match target.collection.rsplit('/').next().unwrap_or_default() {
        "events" => {
            let required = ["reportingController", "reportingInstance", "action", "reason"].map(filled);
            let micro = object["eventTime"]
                .as_str()
                .is_some_and(|time| time.len() == "2026-01-01T00:00:00.000000Z".len());
            let namespace = object["regarding"]["namespace"].as_str().unwrap_or("default");
            let counted = object["series"].is_null() || object["series"]["count"].as_i64() >= Some(2);
            required.iter().all(|filled| *filled)
                && micro
                && ["Normal", "Warning"].map(Value::from).contains(&object["type"])
                && object["note"].as_str().is_none_or(|note| note.len() <= 1024)
                && object["metadata"]["namespace"] == namespace
                && (verb == "create" || counted)
        }
        "leases" => object["spec"]["leaseDurationSeconds"].as_i64() > Some(0),
        "ingresses" => {
            let entries = object.pointer("/status/loadBalancer/ingress").cloned().unwrap_or(json!([]));
            entries.as_array().is_some_and(|all| {
                all.iter().all(|entry| entry["ip"].is_string() != entry["hostname"].is_string())
            })
        }
        _ => true,
    };
    if ok { Ok(()) } else { Err((422, "Invalid", "the object is invalid")) }
}
