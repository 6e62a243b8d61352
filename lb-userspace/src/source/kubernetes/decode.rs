//! From the server's JSON to objects: page by page of a list, line by line of a watch. What can't
//! be read is named and costs nothing but itself.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Node, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::core::Status;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::api::{Collection, MAX_OBJECT};
use crate::model::{Issue, IssueReason, ObjectKey, ObjectRef, Severity};
use crate::objects::{Kind, Object, excerpt};

/// What is new of one object.
#[derive(Debug)]
pub enum Event {
    /// It is new or different.
    Applied(Object),
    /// It has this version; its content was not asked for.
    Named(ObjectKey, String),
    /// It is gone.
    Deleted(ObjectKey),
    /// It can't be read.
    Bad(Box<Issue>),
}

/// One page of a list.
#[derive(Debug)]
pub struct Page {
    /// Its objects.
    pub events: Vec<Event>,
    /// The version of the list.
    pub version: String,
    /// Where the next page begins; empty for the last one.
    pub token: String,
}

/// One line of a watch.
#[derive(Debug)]
pub enum News {
    /// Something changed, and the version after it.
    Event(Event, String),
    /// Nothing changed up to this version.
    Bookmark {
        /// The version.
        version: String,
        /// All objects that were there when the watch began have been told.
        initial_end: bool,
    },
    /// The watch has ended.
    Error(Box<Status>),
}

#[derive(Deserialize)]
struct RawPage<'a> {
    #[serde(default, borrow)]
    metadata: Metadata<'a>,
    #[serde(default, borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Default, Deserialize)]
struct Named<'a> {
    #[serde(default, borrow)]
    metadata: Metadata<'a>,
}

/// What is needed of any object's or list's metadata.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(default, borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    namespace: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    resource_version: Option<Cow<'a, str>>,
    #[serde(default, rename = "continue", borrow)]
    token: Option<Cow<'a, str>>,
    #[serde(default)]
    annotations: Option<InitialEnd>,
}

#[derive(Deserialize)]
struct InitialEnd {
    #[serde(default, rename = "k8s.io/initial-events-end")]
    initial_end: Option<String>,
}

/// Reads a page.
///
/// # Errors
/// A sentence for people, when it is no list at all.
pub fn page(what: &Collection, text: &[u8]) -> Result<Page, String> {
    let raw: RawPage<'_> = serde_json::from_slice(text).map_err(|error| garbage(&error))?;
    let items = raw.items.unwrap_or_default();
    Ok(Page {
        events: items.into_iter().map(|item| object(what, item.get()).0).collect(),
        version: raw.metadata.resource_version.unwrap_or_default().into_owned(),
        token: raw.metadata.token.unwrap_or_default().into_owned(),
    })
}

/// Reads a line.
///
/// # Errors
/// A sentence for people, when it is no event.
pub fn line(what: &Collection, text: &[u8]) -> Result<News, String> {
    let raw: RawEvent<'_> = serde_json::from_slice(text).map_err(|error| garbage(&error))?;
    let text = raw.object.get();
    Ok(match &*raw.kind {
        "ADDED" | "MODIFIED" => {
            let (event, version) = object(what, text);
            News::Event(event, version)
        }
        "DELETED" => {
            let Named { metadata } = serde_json::from_str(text).map_err(|error| garbage(&error))?;
            News::Event(Event::Deleted(key(what.kind, &metadata)), version(&metadata))
        }
        "BOOKMARK" => {
            let Named { metadata } = serde_json::from_str(text).map_err(|error| garbage(&error))?;
            let end = metadata.annotations.as_ref().and_then(|a| a.initial_end.as_deref());
            News::Bookmark { version: version(&metadata), initial_end: end == Some("true") }
        }
        "ERROR" => News::Error(Box::new(serde_json::from_str(text).map_err(|error| garbage(&error))?)),
        other => return Err(format!("an event of the unknown type {:?}", excerpt(other))),
    })
}

/// Reads one object, as `get` gives it too; the second is its version.
pub fn object(what: &Collection, text: &str) -> (Event, String) {
    let named: Named<'_> = serde_json::from_str(text).unwrap_or_default();
    let (key, version) = (key(what.kind, &named.metadata), version(&named.metadata));
    if key.name.is_empty() {
        return (bad(what.kind, key, "has no metadata.name".into()), version);
    }
    if what.names_only {
        return (Event::Named(key, version.clone()), version);
    }
    let event = match typed(what.kind, text) {
        Ok(object) => Event::Applied(object),
        // The reader's words quote the value, and a Secret's values are nobody's to read.
        Err(_) if what.kind == Kind::Secret => bad(what.kind, key, "is not of the API's form".into()),
        Err(error) => bad(what.kind, key, excerpt(&error.to_string()).into_owned()),
    };
    (event, version)
}

/// What becomes of a line that is too long, by the begin of it: servers write the name first.
pub fn too_long(kind: Kind, begin: &[u8]) -> Event {
    let text = String::from_utf8_lossy(begin);
    let value = |field: &str| {
        let (_, rest) = text.split_once(&format!("\"{field}\":\""))?;
        rest.split_once('"').map(|(value, _)| excerpt(value).into_owned())
    };
    let key = ObjectKey::new(
        value("namespace").unwrap_or_default(),
        value("name").unwrap_or_else(|| "(unknown)".into()),
    );
    bad(kind, key, format!("is larger than {} MiB", MAX_OBJECT >> 20))
}

fn typed(kind: Kind, text: &str) -> Result<Object, serde_json::Error> {
    fn read<K: DeserializeOwned + Into<Object>>(text: &str) -> Result<Object, serde_json::Error> {
        serde_json::from_str::<K>(text).map(Into::into)
    }
    match kind {
        Kind::Ingress => read::<Ingress>(text),
        Kind::IngressClass => read::<IngressClass>(text),
        Kind::Service => read::<Service>(text),
        Kind::EndpointSlice => read::<EndpointSlice>(text),
        Kind::Endpoints => read::<Endpoints>(text),
        Kind::Secret => read::<Secret>(text),
        Kind::ConfigMap => read::<ConfigMap>(text),
        Kind::Node => read::<Node>(text),
    }
}

fn key(kind: Kind, metadata: &Metadata<'_>) -> ObjectKey {
    let namespace = if kind.namespaced() { metadata.namespace.as_deref().unwrap_or("default") } else { "" };
    ObjectKey::new(namespace, metadata.name.as_deref().unwrap_or_default())
}

fn version(metadata: &Metadata<'_>) -> String {
    metadata.resource_version.as_deref().unwrap_or_default().to_owned()
}

fn bad(kind: Kind, key: ObjectKey, cause: String) -> Event {
    Event::Bad(Box::new(Issue {
        severity: Severity::Error,
        object: ObjectRef { kind: kind.name(), key },
        reason: IssueReason::Unreadable,
        field: String::new(),
        message: format!(
            "the API server's {} can't be read: it {cause}; what it was before, if anything, is served on.",
            kind.name()
        ),
    }))
}

fn garbage(error: &serde_json::Error) -> String {
    format!("an answer that can't be read: {}", excerpt(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(event: &Event) -> String {
        match event {
            Event::Applied(object) => format!("applied {}", object.key()),
            Event::Named(key, version) => format!("named {key} {version}"),
            Event::Deleted(key) => format!("deleted {key}"),
            Event::Bad(issue) => format!("bad {}: {}", issue.object, issue.message),
        }
    }

    #[test]
    fn lines() {
        let services = Collection::all(Kind::Service);
        let names = Collection { names_only: true, ..Collection::all(Kind::Secret) };
        let secrets = Collection::all(Kind::Secret);
        for (what, text, expect) in [
            (
                &services,
                r#"{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"7"}}}"#,
                "applied default/a @7",
            ),
            (
                &services,
                r#"{"type":"MODIFIED","object":{"metadata":{"name":"a","namespace":"n"},"spec":7}}"#,
                "bad Service n/a",
            ),
            (&services, r#"{"type":"ADDED","object":{"metadata":{}}}"#, "has no metadata.name"),
            (
                &services,
                r#"{"type":"DELETED","object":{"metadata":{"name":"a","namespace":"n"},"spec":7}}"#,
                "deleted n/a @",
            ),
            (
                &services,
                r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}"#,
                "bookmark 9 false",
            ),
            (
                &services,
                r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}}"#,
                "bookmark 9 true",
            ),
            (&services, r#"{"type":"ERROR","object":{"code":410,"message":"old"}}"#, "error 410"),
            (&services, r#"{"type":"ODD","object":{}}"#, "unknown type \"ODD\""),
            (&services, r#"{"type":"ADDED","object":{"metadata""#, "can't be read"),
            (&services, "<html>", "can't be read"),
            (&services, r#"{"type":"ADDED","object":"x"}"#, "has no metadata.name"),
            (
                &names,
                r#"{"type":"ADDED","object":{"metadata":{"name":"a","namespace":"n","resourceVersion":"7"}}}"#,
                "named n/a 7",
            ),
            (
                &secrets,
                r#"{"type":"ADDED","object":{"metadata":{"name":"a"},"data":{"k":"hunter2"}}}"#,
                "bad Secret default/a",
            ),
        ] {
            let got = match line(what, text.as_bytes()) {
                Ok(News::Event(event, version)) => format!("{} @{version}", shown(&event)),
                Ok(News::Bookmark { version, initial_end }) => format!("bookmark {version} {initial_end}"),
                Ok(News::Error(status)) => format!("error {}", status.code),
                Err(error) => error,
            };
            assert!(got.contains(expect), "{text}: {got}");
            assert!(!got.contains("hunter2"), "secrets are not quoted");
        }
    }

    #[test]
    fn pages() {
        let what = Collection::all(Kind::Service);
        let text = r#"{"metadata":{"resourceVersion":"5","continue":"next"},"items":[
            {"metadata":{"name":"a"}}, {"metadata":{"name":"b"},"spec":{"ports":"x"}}, 7, {"metadata":{"name":"c"}}]}"#;
        let read = page(&what, text.as_bytes()).expect("a page");
        let events: Vec<_> = read.events.iter().map(shown).collect();
        assert_eq!((read.version.as_str(), read.token.as_str(), events.len()), ("5", "next", 4));
        assert!(events[1].starts_with("bad Service default/b") && events[2].starts_with("bad"), "{events:?}");
        assert_eq!(events[3], "applied default/c");
        assert_eq!(page(&what, br#"{"items":null}"#).expect("a page").events.len(), 0);
        assert!(page(&what, b"[").is_err());
    }

    #[test]
    fn names_of_lines_that_are_too_long() {
        let begin = br#"{"type":"ADDED","object":{"kind":"Ingress","metadata":{"name":"big","namespace":"n","annotations":{"a":"xxxx"#;
        assert!(shown(&too_long(Kind::Ingress, begin)).starts_with("bad Ingress n/big"));
        assert!(shown(&too_long(Kind::Ingress, b"{")).contains("(unknown)"));
    }
}
