//! What the API server would not have: the rules that it checks objects and requests by, as far as a
//! controller's own requests can break them. Names of functions in comments are those of Kubernetes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::answers::Target;

/// Status code, reason, and what is wrong.
pub(super) type Refusal = (u16, &'static str, String);

/// Longest value of an annotation map, names and values together.
const MOST_ANNOTATIONS: usize = 256 << 10;

fn invalid(what: impl Into<String>) -> Refusal {
    (422, "Invalid", what.into())
}

pub(super) fn bad_request(what: impl Into<String>) -> Refusal {
    (400, "BadRequest", what.into())
}

/// `ValidateListOptions`, and what the storage asks of versions and tokens.
pub(super) fn listing(verb: &str, query: &BTreeMap<String, String>) -> Result<(), Refusal> {
    let given = |name: &str| query.get(name).map(String::as_str).filter(|value| !value.is_empty());
    for number in ["limit", "timeoutSeconds"] {
        if given(number).is_some_and(|value| value.parse::<i64>().is_err()) {
            return Err(bad_request(format!("{number} is no number")));
        }
    }
    if given("resourceVersion").is_some_and(|version| version.parse::<u64>().is_err()) {
        return Err(bad_request("resourceVersion is no number"));
    }
    for selector in [given("fieldSelector"), given("labelSelector")].into_iter().flatten() {
        if selector.split(',').any(|term| !term.contains('=')) {
            return Err(bad_request(format!("{selector}: this server knows only selectors like a=b")));
        }
    }
    let fields = given("fieldSelector").into_iter().flat_map(|selector| selector.split(','));
    for field in fields.filter_map(|term| term.split('=').next()) {
        if !["metadata.name", "metadata.namespace"].contains(&field) {
            return Err(bad_request(format!("field label not supported: {field}")));
        }
    }
    let (initial, matching) = (given("sendInitialEvents"), given("resourceVersionMatch"));
    match (verb, initial, matching) {
        ("list", Some(_), _) => Err(invalid("sendInitialEvents: forbidden for list")),
        ("list", None, Some(_)) if given("resourceVersion").is_none() || given("continue").is_some() => {
            Err(invalid("resourceVersionMatch: forbidden without resourceVersion, or with continue"))
        }
        ("list", ..) if given("continue").is_some() && given("resourceVersion").is_some() => {
            Err(bad_request("resourceVersion is not allowed beside continue"))
        }
        ("watch", Some(_), other) if other != Some("NotOlderThan") => {
            Err(invalid("resourceVersionMatch: sendInitialEvents requires NotOlderThan"))
        }
        // Not an error there, but a stream whose end of the list never comes.
        ("watch", Some(_), _) if given("allowWatchBookmarks") != Some("true") => {
            Err(invalid("sendInitialEvents: no bookmark would tell the end of the list"))
        }
        ("watch", None, Some(_)) => Err(invalid("resourceVersionMatch: forbidden without sendInitialEvents")),
        _ => Ok(()),
    }
}

/// What a write says in its address: `ValidateCreateOptions` and the others.
pub(super) fn options(query: &BTreeMap<String, String>) -> Result<(), Refusal> {
    let manager = query.get("fieldManager").map(String::as_str).unwrap_or_default();
    if manager.len() > 128 || !manager.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
        return Err(invalid("fieldManager: at most 128 printable characters"));
    }
    Ok(())
}

/// Whether an object belongs where it is sent to.
pub(super) fn place(verb: &str, target: &Target, object: &Value) -> Result<(), Refusal> {
    let Some(all) = object.as_object() else { return Err(bad_request("the body is no object")) };
    let version = target.collection.trim_start_matches("/apis/").trim_start_matches("/api/");
    let (version, _) = version.rsplit_once('/').unwrap_or_default();
    let names_itself = all.contains_key("kind") || all.contains_key("apiVersion");
    if names_itself || verb != "patch" {
        if object["apiVersion"] != version {
            return Err(bad_request(format!("apiVersion {} in place of {version}", object["apiVersion"])));
        }
        if super::store::collection_of(object) != target.collection {
            return Err(bad_request(format!("kind {} in {}", object["kind"], target.collection)));
        }
    }
    let metadata = &object["metadata"];
    let other = |field: &str, expect: &Option<String>| {
        let given = metadata[field].as_str().filter(|given| !given.is_empty());
        given.is_some_and(|given| Some(given) != expect.as_deref())
    };
    if other("namespace", &target.namespace) {
        return Err(bad_request("the object's namespace is not the one in the address"));
    }
    match verb {
        "create" if metadata["resourceVersion"].as_str().is_some_and(|version| !version.is_empty()) => {
            Err((500, "InternalError", "resourceVersion set on an object to be created".into()))
        }
        "create" if target.name.is_some() => Err((405, "MethodNotAllowed", "POST to an object".into())),
        "update" if metadata["name"].is_null() => Err(bad_request("the object has no name")),
        "update" | "patch" if other("name", &target.name) => {
            Err(bad_request("the object's name is not the one in the address"))
        }
        _ => Ok(()),
    }
}

/// What an object says; `known` is what was there before.
pub(super) fn object(target: &Target, known: Option<&Value>, object: &Value) -> Result<(), Refusal> {
    metadata(&object["metadata"], known.map(|known| &known["metadata"]))?;
    match target.collection.rsplit('/').next().unwrap_or_default() {
        "events" => event(object, known),
        "leases" => lease(&object["spec"]),
        "ingresses" => balancer(&object["status"], &["ip", "hostname", "ports"]),
        "services" => service_status(object),
        _ => Ok(()),
    }
}

/// `ValidateObjectMeta` and its update.
fn metadata(metadata: &Value, known: Option<&Value>) -> Result<(), Refusal> {
    if !metadata["name"].as_str().is_some_and(is_subdomain) {
        return Err(invalid("metadata.name: no DNS subdomain name"));
    }
    let texts = |field: &str| -> Vec<(String, String)> {
        let all = metadata[field].as_object().into_iter().flatten();
        all.map(|(name, value)| (name.clone(), value.as_str().unwrap_or("\u{0}").to_owned())).collect()
    };
    for (name, value) in texts("labels") {
        if !is_qualified(&name) || !(value.is_empty() || is_label(&value)) {
            return Err(invalid(format!("metadata.labels: {name}={value}")));
        }
    }
    let annotations = texts("annotations");
    if annotations.iter().any(|(name, _)| !is_qualified(&name.to_ascii_lowercase()))
        || annotations.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MOST_ANNOTATIONS
    {
        return Err(invalid("metadata.annotations: a bad name, or too long"));
    }
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        if known.is_some_and(|known| known[field] != metadata[field] && !metadata[field].is_null()) {
            return Err(invalid(format!("metadata.{field}: field is immutable")));
        }
    }
    Ok(())
}

/// `ValidateEventCreate` and `ValidateEventUpdate`, of `events.k8s.io/v1`.
fn event(event: &Value, known: Option<&Value>) -> Result<(), Refusal> {
    let text = |field: &str| event[field].as_str().unwrap_or_default();
    for field in ["reportingController", "reportingInstance", "action", "reason"] {
        if text(field).is_empty() || text(field).len() > 128 {
            return Err(invalid(format!("{field}: required, and of at most 128 bytes")));
        }
    }
    if !is_qualified(text("reportingController")) {
        return Err(invalid("reportingController: no qualified name"));
    }
    if text("note").len() > 1024 {
        return Err(invalid("note: at most 1024 bytes"));
    }
    if !["Normal", "Warning"].contains(&text("type")) {
        return Err(invalid("type: Normal or Warning"));
    }
    micro_time("eventTime", &event["eventTime"])?;
    let regarding = event["regarding"]["namespace"].as_str().unwrap_or_default();
    let namespace = event["metadata"]["namespace"].as_str().unwrap_or_default();
    // Of an object without a namespace; the API takes `kube-system`, too.
    if namespace != if regarding.is_empty() { "default" } else { regarding } {
        return Err(invalid("regarding.namespace: does not match the Event's"));
    }
    for field in
        ["deprecatedFirstTimestamp", "deprecatedLastTimestamp", "deprecatedCount", "deprecatedSource"]
    {
        if !event[field].is_null() {
            return Err(invalid(format!("{field}: needs to be unset")));
        }
    }
    let series = &event["series"];
    if !series.is_null() && known.is_none_or(|known| known["series"] != *series) {
        if series["count"].as_i64() < Some(2) || series["count"].as_i64() > Some(i32::MAX.into()) {
            return Err(invalid("series.count: should be at least 2"));
        }
        micro_time("series.lastObservedTime", &series["lastObservedTime"])?;
    }
    let Some(known) = known else { return Ok(()) };
    let immutable = [
        "regarding",
        "related",
        "reason",
        "note",
        "type",
        "eventTime",
        "action",
        "reportingController",
        "reportingInstance",
    ];
    match immutable.into_iter().find(|field| known[*field] != event[*field]) {
        Some(field) => Err(invalid(format!("{field}: field is immutable"))),
        None => Ok(()),
    }
}

/// `ValidateLeaseSpec`, and the types of its fields.
fn lease(spec: &Value) -> Result<(), Refusal> {
    for (field, least) in [("leaseDurationSeconds", 1), ("leaseTransitions", 0)] {
        let value = &spec[field];
        if !value.is_null() && !value.as_i64().is_some_and(|n| (least..=i32::MAX.into()).contains(&n)) {
            return Err(invalid(format!("spec.{field}: at least {least}")));
        }
    }
    for field in ["acquireTime", "renewTime"] {
        if !spec[field].is_null() {
            micro_time(field, &spec[field])?;
        }
    }
    let strategy = spec["strategy"].as_str().unwrap_or_default();
    if !spec["preferredHolder"].is_null() && strategy.is_empty() {
        return Err(invalid("spec.preferredHolder: only with a strategy"));
    }
    Ok(())
}

/// `ValidateLoadBalancerStatus`. `ipMode` is filled in where it is left out.
fn service_status(service: &Value) -> Result<(), Refusal> {
    let status = &service["status"];
    let entries = status.pointer("/loadBalancer/ingress").and_then(Value::as_array);
    if service["spec"]["type"] != "LoadBalancer" && entries.is_some_and(|entries| !entries.is_empty()) {
        return Err(invalid("status.loadBalancer.ingress: only of Services of type LoadBalancer"));
    }
    balancer(status, &["ip", "hostname", "ports", "ipMode"])
}

/// `ValidateIngressLoadBalancerStatus`. A Service's entries have an `ipMode`, an Ingress's have none.
fn balancer(status: &Value, fields_known: &[&str]) -> Result<(), Refusal> {
    let none = json!([]);
    let entries = status.pointer("/loadBalancer/ingress").unwrap_or(&none);
    let Some(entries) = entries.as_array() else { return Err(bad_request("loadBalancer.ingress: no list")) };
    for entry in entries {
        let fields = entry.as_object().ok_or_else(|| bad_request("loadBalancer.ingress: no object"))?;
        if let Some(field) = fields.keys().find(|field| !fields_known.contains(&field.as_str())) {
            return Err(bad_request(format!("loadBalancer.ingress.{field}: no such field")));
        }
        let text = |field: &str| entry[field].as_str().unwrap_or_default();
        let is_ip = |text: &str| text.parse::<IpAddr>().is_ok();
        if !text("ip").is_empty() && !is_ip(text("ip")) {
            return Err(invalid("loadBalancer.ingress.ip: no address"));
        }
        // Numbers with leading zeros are an address there.
        let numbers = |text: &str| text.split('.').all(|part| part.parse::<u8>().is_ok());
        let name = text("hostname");
        if !name.is_empty()
            && (!is_subdomain(name) || is_ip(name) || name.matches('.').count() == 3 && numbers(name))
        {
            return Err(invalid("loadBalancer.ingress.hostname: no DNS name"));
        }
    }
    Ok(())
}

/// Go reads six digits of a second, no fewer and no more.
fn micro_time(field: &str, value: &Value) -> Result<(), Refusal> {
    let shape: Option<String> =
        value.as_str().map(|text| text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect());
    match shape.as_deref() {
        Some("0000-00-00T00:00:00.000000Z") => Ok(()),
        Some(_) => Err(bad_request(format!("{field}: {value} can't be read"))),
        None => Err(invalid(format!("{field}: required"))),
    }
}

/// `IsDNS1123Subdomain`.
fn is_subdomain(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// `IsQualifiedName`.
fn is_qualified(name: &str) -> bool {
    match name.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_label(name),
        None => is_label(name),
    }
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
}
