//! How endpoints are watched and spared: annotations `sluice.dev/NAME` of Services, and settings of
//! the same names for Services that say nothing.

use std::sync::Arc;
use std::time::Duration;

use super::annotations::reader::Reader;
use super::annotations::values::{self, Bad, Read};
use crate::model::{Care, HealthCheck, Issue, ObjectKey, Probe};
use crate::objects::Objects;

/// Longer times would make what they are for pointless.
const DAY: Duration = Duration::from_secs(86_400);

/// What a Service says, and `node` where it says nothing.
pub(super) fn of_service(
    objects: &Objects,
    key: &ObjectKey,
    node: &Arc<Care>,
    issues: &mut Vec<Issue>,
) -> Arc<Care> {
    let Some(service) = objects.services.get(key) else { return Arc::clone(node) };
    let care = read(&mut Reader::of_service(key, &service.metadata.annotations, issues), node);
    // Most Services have annotations of others only.
    if care == **node { Arc::clone(node) } else { Arc::new(care) }
}

/// What the values say, and `defaults` where they say nothing.
pub(super) fn read(reader: &mut Reader<'_>, defaults: &Care) -> Care {
    let mut care = defaults.clone();
    let ejection = &mut care.ejection;
    ejection.after = reader.get("eject-after", values::count).unwrap_or(ejection.after);
    ejection.time = reader.get("eject-time", time).unwrap_or(ejection.time);
    let percent = reader.get("eject-max-percent", values::number(0, 100));
    ejection.max_percent = percent.map_or(ejection.max_percent, |percent| percent as u32);

    let limits = &mut care.limits;
    for (name, limit) in [
        ("max-connections", &mut limits.connections),
        ("max-connections-per-endpoint", &mut limits.endpoint_connections),
        ("max-retries", &mut limits.retries),
    ] {
        // As in nginx, 0 is no limit.
        *limit = reader.get(name, values::count).map_or(*limit, |most| (most > 0).then_some(most));
    }
    limits.pending = reader.get("max-pending", values::count).unwrap_or(limits.pending);
    let slow_start = reader.get("slow-start", values::duration);
    care.slow_start = slow_start.map_or(care.slow_start, |time| (!time.is_zero()).then_some(time.min(DAY)));
    care.check = check(reader, defaults.check.as_deref()).map(Arc::new);
    care
}

/// What kind of check there is to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Off,
    Tcp,
    Http { tls: bool },
}

fn check(reader: &mut Reader<'_>, default: Option<&HealthCheck>) -> Option<HealthCheck> {
    let kinds = [
        ("off", Kind::Off),
        ("tcp", Kind::Tcp),
        ("http", Kind::Http { tls: false }),
        ("https", Kind::Http { tls: true }),
    ];
    let kind = reader.get("health-check", values::one_of(&kinds));
    let path = reader.get("health-check-path", target);
    let host = reader.get("health-check-host", host);
    let statuses = reader.get("health-check-status", statuses);
    let port = reader.get("health-check-port", values::number(1, 65_535));
    let interval = reader.get("health-check-interval", time);
    let timeout = reader.get("health-check-timeout", time);
    let threshold =
        |reader: &mut Reader<'_>, name| reader.get(name, values::number(1, 1000)).map(|count| count as u32);
    let healthy_after = threshold(reader, "health-check-healthy-threshold");
    let unhealthy_after = threshold(reader, "health-check-unhealthy-threshold");

    // A path alone asks for a check, too.
    let kind = kind.or(match (&path, default.map(|check| &check.probe)) {
        (_, Some(Probe::Http { tls, .. })) => Some(Kind::Http { tls: *tls }),
        (Some(_), _) => Some(Kind::Http { tls: false }),
        (None, Some(Probe::Tcp)) => Some(Kind::Tcp),
        (None, None) => None,
    })?;
    let mut check = default.cloned().unwrap_or(HealthCheck {
        probe: Probe::Tcp,
        port: None,
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(5),
        healthy_after: 2,
        unhealthy_after: 3,
    });
    check.probe = match (kind, check.probe) {
        (Kind::Off, _) => return None,
        (Kind::Tcp, _) => Probe::Tcp,
        (Kind::Http { tls }, before) => {
            let (old_path, old_host, old_statuses) = match before {
                Probe::Http { path, host, statuses, .. } => (path, host, statuses),
                Probe::Tcp => ("/".into(), None, vec![(200, 399)]),
            };
            Probe::Http {
                tls,
                path: path.unwrap_or(old_path),
                host: host.or(old_host),
                statuses: statuses.unwrap_or(old_statuses),
            }
        }
    };
    check.port = port.and_then(|port| u16::try_from(port).ok()).or(check.port);
    check.interval = interval.unwrap_or(check.interval);
    check.timeout = timeout.unwrap_or(check.timeout);
    check.healthy_after = healthy_after.unwrap_or(check.healthy_after);
    check.unhealthy_after = unhealthy_after.unwrap_or(check.unhealthy_after);
    Some(check)
}

/// From a tenth of a second to a day.
fn time(text: &str) -> Read<Duration> {
    let time = values::duration(text)?;
    match (Duration::from_millis(100)..=DAY).contains(&time) {
        true => Ok(time),
        false => Err(Bad::new("is too short or too long", "write a time from 100ms to 24h")),
    }
}

/// A path, maybe with a query.
fn target(text: &str) -> Read<Arc<str>> {
    let text = text.trim();
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let fits = query.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if fits && text.len() <= 4096 && values::is_path(path) {
        return Ok(text.into());
    }
    Err(Bad::new("is no absolute path", "begin it with /"))
}

/// A DNS name or an address, maybe with a port: what `Host` may say.
fn host(text: &str) -> Read<Arc<str>> {
    let text = text.trim();
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    match !text.is_empty() && text.len() <= 255 && text.bytes().all(letter) {
        true => Ok(text.into()),
        false => Err(Bad::new("is no host", "write a DNS name")),
    }
}

/// `200`, `200-299,304`.
fn statuses(text: &str) -> Read<Vec<(u16, u16)>> {
    let range = |item: &str| {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let range: (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (200 <= range.0 && range.0 <= range.1 && range.1 <= 599).then_some(range)
    };
    let ranges: Option<Vec<_>> = values::list(text).map(range).collect();
    match ranges {
        Some(ranges) if (1..=32).contains(&ranges.len()) => Ok(ranges),
        _ => Err(Bad::new(
            "is no list of statuses",
            "write statuses and ranges from 200 to 599, like 200-299,304",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CircuitLimits, Ejection};
    use crate::objects::AnnotationMap;

    /// What annotations of a Service come to, and how many of them are wrong.
    fn said(annotations: &str, defaults: &Care) -> (Care, usize) {
        let annotations: AnnotationMap = annotations
            .lines()
            .map(|line| line.split_once(": ").expect("name: value"))
            .map(|(name, value)| (format!("sluice.dev/{name}"), value.to_owned()))
            .collect();
        let mut issues = Vec::new();
        let key = ObjectKey::new("default", "web");
        let care = read(&mut Reader::of_service(&key, &annotations, &mut issues), defaults);
        assert!(issues.iter().all(|issue| issue.object.kind == "Service"), "{issues:?}");
        (care, issues.len())
    }

    fn http(tls: bool, path: &str) -> HealthCheck {
        HealthCheck {
            probe: Probe::Http { tls, path: path.into(), host: None, statuses: vec![(200, 399)] },
            port: None,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            healthy_after: 2,
            unhealthy_after: 3,
        }
    }

    #[test]
    fn what_services_say() {
        let none = Care::default();
        let checked = Care { check: Some(Arc::new(http(false, "/up"))), ..Care::default() };
        let with = |check: HealthCheck| Care { check: Some(Arc::new(check)), ..Care::default() };
        let limits = |limits| Care { limits, ..Care::default() };
        let ejection = |ejection| Care { ejection, ..Care::default() };
        for (text, defaults, expect, wrong) in [
            ("", &none, none.clone(), 0),
            ("eject-after: 0", &none, ejection(Ejection { after: 0, ..Ejection::default() }), 0),
            (
                "eject-after: 3\neject-time: 30s\neject-max-percent: 100",
                &none,
                ejection(Ejection { after: 3, time: Duration::from_secs(30), max_percent: 100 }),
                0,
            ),
            ("eject-after: -1\neject-time: 1ms\neject-max-percent: 101", &none, none.clone(), 3),
            ("health-check-path: /up", &none, with(http(false, "/up")), 0),
            ("health-check: https", &none, with(http(true, "/")), 0),
            ("health-check: tcp", &none, with(HealthCheck { probe: Probe::Tcp, ..http(false, "/") }), 0),
            ("health-check: off\nhealth-check-path: /up", &none, none.clone(), 0),
            // The cluster's settings, and what a Service says over them.
            ("", &checked, checked.clone(), 0),
            ("health-check: off", &checked, none.clone(), 0),
            ("health-check: https", &checked, with(http(true, "/up")), 0),
            ("health-check-path: /other?q=1", &checked, with(http(false, "/other?q=1")), 0),
            (
                "health-check-interval: 2s\nhealth-check-timeout: 500ms\nhealth-check-healthy-threshold: 1\n\
                 health-check-unhealthy-threshold: 5\nhealth-check-port: 9000\nhealth-check-host: a.test\n\
                 health-check-status: 200, 204-206",
                &checked,
                with(HealthCheck {
                    probe: Probe::Http {
                        tls: false,
                        path: "/up".into(),
                        host: Some("a.test".into()),
                        statuses: vec![(200, 200), (204, 206)],
                    },
                    port: Some(9000),
                    interval: Duration::from_secs(2),
                    timeout: Duration::from_millis(500),
                    healthy_after: 1,
                    unhealthy_after: 5,
                }),
                0,
            ),
            // Without a check there is nothing to say about it, but nothing wrong either.
            ("health-check-interval: 2s", &none, none.clone(), 0),
            (
                "health-check: ping\nhealth-check-path: up\nhealth-check-port: 0\nhealth-check-host: a b\n\
                 health-check-status: 100\nhealth-check-interval: 0\nhealth-check-timeout: soon\n\
                 health-check-healthy-threshold: 0\nhealth-check-unhealthy-threshold: 0",
                &none,
                none.clone(),
                9,
            ),
            (
                "max-connections: 10\nmax-connections-per-endpoint: 2\nmax-pending: 5\nmax-retries: 3",
                &none,
                limits(CircuitLimits {
                    connections: Some(10),
                    endpoint_connections: Some(2),
                    pending: 5,
                    retries: Some(3),
                }),
                0,
            ),
            ("max-connections: 0\nmax-retries: many", &none, none.clone(), 1),
            ("slow-start: 30s", &none, Care { slow_start: Some(Duration::from_secs(30)), ..none.clone() }, 0),
            ("slow-start: 0", &none, none.clone(), 0),
            ("l4-mode: dsr", &none, none.clone(), 0),
        ] {
            assert_eq!(said(text, defaults), (expect, wrong), "{text}");
        }
    }
}
