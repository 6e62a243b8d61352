//! Writes, as the API takes them: versions are compared, status is apart from the rest, and what
//! the API would not have is refused.

use std::collections::BTreeMap;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use serde_json::Value;

use super::ApiServer;
use super::answers::{Body, Target, key, reply, status, status_object};
use super::store::{Shared, merge, name_of};
use super::validation::{self, Refusal, bad_request};

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
    let kind = request.headers().get("content-type").and_then(|kind| kind.to_str().ok());
    let kind = kind.unwrap_or_default().to_owned();
    let Ok(body) = request.into_body().collect().await else { return status(400, "the body broke off") };
    let read = serde_json::from_slice(&body.to_bytes());
    let body: Value = read.as_ref().ok().cloned().unwrap_or_default();
    let mut name = key(target);
    if verb == "create" {
        name.1 = name_of(&body).1;
    }
    // Nothing is awaited from here on, so no other write comes between.
    let outcome = match read {
        Ok(body) => {
            asked(verb, target, query, &kind).and_then(|()| perform(verb, shared, target, &name, body))
        }
        Err(error) => Err(bad_request(format!("the body is no JSON: {error}"))),
    };
    let (code, answer) = match outcome {
        Ok(object) => (if verb == "create" { 201 } else { 200 }, object),
        Err((code, reason, message)) => {
            let mut object = status_object(code, &message);
            object["reason"] = reason.into();
            (code, object)
        }
    };
    let manager = query.get("fieldManager").cloned();
    shared.lock().written.push(Written { verb, resource: target.resource(), name, manager, body, code });
    reply(StatusCode::from_u16(code).expect("a status"), &answer)
}

/// What can be refused without a look at the objects.
fn asked(verb: &str, target: &Target, query: &BTreeMap<String, String>, kind: &str) -> Result<(), Refusal> {
    let read = if verb == "patch" { "application/merge-patch+json" } else { "application/json" };
    let kind = kind.split(';').next().unwrap_or_default();
    // Of objects whose lists are replaced whole, as an Ingress's rules are, the two come to the same.
    let strategic = verb == "patch" && kind == "application/strategic-merge-patch+json";
    if kind != read && !strategic {
        return Err((415, "UnsupportedMediaType", format!("{verb} of {kind}; this server reads {read}")));
    }
    if verb != "create" && target.name.is_none() {
        return Err((405, "MethodNotAllowed", format!("{verb} of a whole collection")));
    }
    validation::options(query)
}

fn perform(
    verb: &str,
    shared: &Shared,
    target: &Target,
    name: &(String, String),
    body: Value,
) -> Result<Value, Refusal> {
    if verb != "delete" {
        validation::place(verb, target, &body)?;
    }
    let known = shared.lock().objects.get(&target.collection).and_then(|all| all.get(name)).cloned();
    let object = match (verb, known.clone()) {
        ("create", Some(_)) => return Err((409, "AlreadyExists", "already exists".into())),
        ("create", None) => {
            let mut object = body;
            object["metadata"]["namespace"] = name.0.as_str().into();
            object.as_object_mut().expect("an object").remove("status");
            object
        }
        (_, None) => return Err((404, "NotFound", "not found".into())),
        ("delete", Some(known)) => {
            same_version(&body["preconditions"], &known)?;
            shared.remove(&target.collection, name);
            return Ok(known);
        }
        ("update", Some(known)) => {
            same_version(&body["metadata"], &known)?;
            if body["metadata"]["resourceVersion"].is_null() {
                return Err((
                    422,
                    "Invalid",
                    "metadata.resourceVersion: must be specified for an update".into(),
                ));
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
    validation::object(target, known.as_ref(), &object)?;
    // A write that changes nothing makes no new version, and nobody hears of it.
    if let Some(known) = known.filter(|known| *known == object) {
        return Ok(known);
    }
    Ok(shared.put(&target.collection, object))
}

/// A write that names a version is for that version only.
fn same_version(named: &Value, known: &Value) -> Result<(), Refusal> {
    for field in ["resourceVersion", "uid"] {
        if !named[field].is_null() && named[field] != known["metadata"][field] {
            return Err((409, "Conflict", format!("{field}: the object has been modified")));
        }
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
