//! UDP ports of Services whose packets may name their endpoint by QUIC's connection id.

use std::collections::BTreeSet;

use super::report::issue;
use crate::model::{Issue, IssueReason, ObjectKey, Severity};
use crate::objects::{Service, excerpt};

/// Annotation of a Service of ours: `true` for all its UDP ports, or their numbers, separated by commas.
const QUIC: &str = "sluice.dev/quic";
const FIELD: &str = "metadata.annotations[sluice.dev/quic]";

/// Which ports they are.
#[derive(Debug, PartialEq)]
pub(super) enum QuicPorts {
    /// All of the Service's UDP ports.
    All,
    /// Those with these numbers.
    These(BTreeSet<u16>),
}

impl QuicPorts {
    /// What the Service's annotation says. What is wrong about it counts for no port.
    pub(super) fn read(key: &ObjectKey, service: &Service, issues: &mut Vec<Issue>) -> Self {
        let mut say = |message: String| {
            let (severity, reason) = (Severity::Warning, IssueReason::InvalidAnnotation);
            issues.push(issue(severity, reason, "Service", key, FIELD, message));
        };
        let udp = service.ports.iter().filter(|port| port.protocol.as_deref() == Some("UDP"));
        let udp: BTreeSet<_> = udp.filter_map(|port| u16::try_from(port.port).ok()).collect();
        let text = service.metadata.annotations.get(QUIC).unwrap_or_default().trim();
        match text {
            "" | "false" => return Self::These(BTreeSet::new()),
            "true" if udp.is_empty() => {
                say("the Service has no UDP port; give it one, or remove this.".into())
            }
            "true" => {}
            _ => {
                let mut ports = BTreeSet::new();
                for word in text.split(',').map(str::trim) {
                    match word.parse::<u16>() {
                        Ok(port) if udp.contains(&port) => drop(ports.insert(port)),
                        Ok(port) => {
                            say(format!("the Service has no UDP port {port}, which is ignored; correct it."))
                        }
                        Err(_) => say(format!(
                            "{:?} is no port and is ignored; write true, or UDP ports as 443,8443.",
                            excerpt(word)
                        )),
                    }
                }
                return Self::These(ports);
            }
        }
        Self::All
    }

    /// Whether a UDP port is one of them.
    pub(super) fn has(&self, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::These(ports) => ports.contains(&port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::ServicePort;

    #[test]
    fn annotations() {
        let these = |ports: &[u16]| QuicPorts::These(ports.iter().copied().collect());
        let port = |port, protocol: Option<&str>| ServicePort {
            port,
            protocol: protocol.map(Into::into),
            ..ServicePort::default()
        };
        let all = [port(443, None), port(443, Some("UDP")), port(8443, Some("UDP")), port(80, None)];
        for (text, ports, expect, wrong) in [
            (None, &all[..], these(&[]), 0),
            (Some("true"), &all, QuicPorts::All, 0),
            (Some(" true "), &all, QuicPorts::All, 0),
            (Some("true"), &all[..1], QuicPorts::All, 1),
            (Some("false"), &all, these(&[]), 0),
            (Some(""), &all, these(&[]), 0),
            (Some("443"), &all, these(&[443]), 0),
            (Some("443, 8443"), &all, these(&[443, 8443]), 0),
            (Some("443,80"), &all, these(&[443]), 1),
            (Some("443,70000,-1,yes,"), &all, these(&[443]), 4),
            (Some("TRUE"), &all, these(&[]), 1),
        ] {
            let mut service = Service { ports: ports.into(), ..Service::default() };
            service.metadata.annotations = text.map(|text| (QUIC, text)).into_iter().collect();
            let mut issues = Vec::new();
            let found = QuicPorts::read(&ObjectKey::new("default", "web"), &service, &mut issues);
            assert_eq!((found, issues.len()), (expect, wrong), "{text:?}");
            assert!(issues.iter().all(|issue| issue.reason == IssueReason::InvalidAnnotation));
        }
    }
}
