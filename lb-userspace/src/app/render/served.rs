//! `sluice routes` and `sluice backends`.

use super::{lines, table};
use crate::app::admin::health_words::{endpoint_state, requests_of};
use crate::app::admin::views::{Backend, Host};

/// `sluice routes`.
pub fn routes(hosts: &[Host]) -> String {
    if hosts.is_empty() {
        return "no routes: no Ingress is served; `sluice status` shows the source and what is wrong\n"
            .to_owned();
    }
    let mut rows = table(&["HOST", "PATH", "TYPE", "BACKEND", "ENDPOINTS", "INGRESS", "POLICY"]);
    for host in hosts {
        for (at, route) in host.routes.iter().enumerate() {
            let mut policy = route.policy.clone();
            if route.shadowed {
                policy.push("loses to an older Ingress".to_owned());
            }
            rows.add_row([
                if at == 0 { host.host.clone() } else { String::new() },
                route.path.clone(),
                route.path_type.clone(),
                route.backend.clone(),
                route.endpoints.to_string(),
                route.ingress.clone(),
                policy.join(", "),
            ]);
        }
    }
    lines(&rows)
}

/// `sluice backends`.
pub fn backends(backends: &[Backend]) -> String {
    if backends.is_empty() {
        return "no clusters: no served Ingress names a Service, and no Service is forwarded\n".to_owned();
    }
    let mut rows = table(&["CLUSTER", "PROTOCOL", "ENDPOINT", "ZONE", "STATE", "REQUESTS"]);
    for cluster in backends {
        if cluster.endpoints.is_empty() {
            let requests = requests_of(cluster);
            let becomes = if cluster.requests.is_some() { "503" } else { "packets are dropped" };
            rows.add_row([&*cluster.cluster, &*cluster.protocol, "none ready", "", becomes, &*requests]);
        }
        for (at, endpoint) in cluster.endpoints.iter().enumerate() {
            let first = |text: &str| if at == 0 { text.to_owned() } else { String::new() };
            rows.add_row([
                first(&cluster.cluster),
                first(&cluster.protocol),
                endpoint.address.clone(),
                endpoint.zone.clone().unwrap_or_default(),
                endpoint_state(endpoint),
                first(&requests_of(cluster)),
            ]);
        }
    }
    lines(&rows)
}
