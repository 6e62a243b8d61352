//! How clusters and endpoints are, in words, for `sluice backends`, `explain` and `status`.

use serde_json::Value;

use super::views::{Backend, EndpointView};
use crate::app::render::plural;
use crate::proxy::EndpointState;

/// How many requests a cluster got, and how many it did not for its limits.
pub fn requests_of(cluster: &Backend) -> String {
    let refused = cluster.health.as_ref().map_or(0, |health| health.overflows);
    match (cluster.requests, refused) {
        (None, _) => String::new(),
        (Some(requests), 0) => requests.to_string(),
        (Some(requests), refused) => format!("{requests} ({refused} over its limits)"),
    }
}

/// Whether an endpoint gets requests, and why not.
pub fn endpoint_state(endpoint: &EndpointView) -> String {
    let mut words = Vec::new();
    if endpoint.terminating {
        words.push("terminating".to_owned());
    }
    if let Some(health) = &endpoint.health {
        let seconds = health.rests_ms.div_ceil(1000);
        let failure = health.last_error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
        let check = health.check.as_ref().and_then(|check| check.last_error.as_deref());
        match health.state {
            EndpointState::Ready => {}
            EndpointState::SlowStart => words.push("slow start".to_owned()),
            EndpointState::Unreachable => words.push(format!("unreachable{failure}")),
            EndpointState::Ejected => words.push(format!("ejected for {seconds} s{failure}")),
            EndpointState::Unhealthy => {
                words.push(format!("unhealthy: {}", check.unwrap_or("its checks failed")));
            }
        }
        if let (EndpointState::Ready, Some(check)) = (health.state, check) {
            words.push(format!("ready, but its last check failed: {check}"));
        }
    }
    if words.is_empty() {
        words.push("ready".to_owned());
    }
    if endpoint.distant {
        words.push("for other zones".to_owned());
    }
    words.join(", ")
}

/// How many endpoints get no requests although their slices say that they are ready.
pub fn unwell(proxy: &Value) -> Option<String> {
    let clusters = proxy.get("health")?.as_object()?.values();
    let out = |cluster: &Value| {
        let states = ["unreachable", "ejected", "unhealthy"];
        states.iter().filter_map(|state| cluster["states"][state].as_u64()).sum::<u64>()
    };
    let (endpoints, clusters) =
        clusters.map(out).filter(|out| *out > 0).fold((0, 0), |(e, c), out| (e + out, c + 1));
    let endpoints = plural(usize::try_from(endpoints).unwrap_or(usize::MAX), "endpoint");
    (clusters > 0).then(|| format!("{endpoints} of {}: see sluice backends", plural(clusters, "cluster")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn endpoints_in_words() {
        let health = |state: &str, more: Value| {
            let mut health = json!({"address": "10.0.0.1:80", "state": state, "rests_ms": 0, "failures": 0,
                "ejections": 0, "connections": 0, "check": null, "last_error": null});
            let more = more.as_object().cloned().unwrap_or_default();
            health.as_object_mut().expect("an object").extend(more);
            health
        };
        let check = json!({"check": {"passing": false, "checks": 3, "last_error": "answered 503"}});
        for (fields, expect) in [
            (json!({}), "ready"),
            (json!({"terminating": true}), "terminating"),
            (json!({"distant": true}), "ready, for other zones"),
            (json!({"health": health("ready", json!({}))}), "ready"),
            (json!({"health": health("slow-start", json!({}))}), "slow start"),
            (
                json!({"health": health("ejected", json!({"rests_ms": 8100, "last_error": "answered 502"}))}),
                "ejected for 9 s: answered 502",
            ),
            (
                json!({"health": health("unreachable", json!({"last_error": "refused"})), "distant": true}),
                "unreachable: refused, for other zones",
            ),
            (json!({"health": health("unhealthy", check.clone())}), "unhealthy: answered 503"),
            (json!({"health": health("ready", check)}), "ready, but its last check failed: answered 503"),
        ] {
            let mut endpoint = json!({"address": "10.0.0.1:80", "terminating": false});
            endpoint
                .as_object_mut()
                .expect("an object")
                .extend(fields.as_object().cloned().unwrap_or_default());
            let endpoint: EndpointView = serde_json::from_value(endpoint).expect("an endpoint");
            assert_eq!(endpoint_state(&endpoint), expect);
        }
    }

    #[test]
    fn who_is_unwell() {
        for (health, expect) in [
            (json!({}), None),
            (json!({"d/a:80": {"states": {"ready": 3, "slow-start": 1}}}), None),
            (
                json!({"d/a:80": {"states": {"ready": 3, "ejected": 1}},
                    "d/b:80": {"states": {"unhealthy": 2, "unreachable": 1}}}),
                Some("4 endpoints of 2 clusters: see sluice backends"),
            ),
        ] {
            assert_eq!(unwell(&json!({"health": health})).as_deref(), expect);
        }
        assert_eq!(unwell(&Value::Null), None);
    }
}
