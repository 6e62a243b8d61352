//! Names: of Kubernetes objects and of hosts.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// The namespace and name of an object of a known kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Empty for cluster-scoped objects.
    pub namespace: Arc<str>,
    /// The object's name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// A key from its two parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

impl Serialize for ObjectKey {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// An object with its kind, as issues and `explain` name it: `Ingress default/web`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ObjectRef {
    /// The kind as the API writes it: `Ingress`, `Secret`.
    pub kind: &'static str,
    /// Which one.
    pub key: ObjectKey,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.key)
    }
}

/// Which hosts a rule or a certificate covers. Always lower case, without port or trailing dot.
///
/// The order is the order of preference: exact before wildcard before any.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// This very name.
    Exact(Arc<str>),
    /// `*.suffix`: exactly one label before `.suffix`. Holds the suffix without `*.`.
    Wildcard(Arc<str>),
    /// Every host, and requests without one.
    Any,
}

/// Why a text is no host pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no DNS name or wildcard like *.example.com")]
pub struct InvalidHost(pub String);

impl HostPattern {
    /// Reads an Ingress rule's `host`: empty is [`HostPattern::Any`], `*.x` a wildcard.
    /// Names follow RFC 1123 (labels of 1-63 letters, digits and inner hyphens; 253 bytes in all);
    /// underscores are let through, as DNS and other proxies do.
    pub fn parse(text: &str) -> Result<Self, InvalidHost> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if text.is_empty() || text == "*" {
            return Ok(Self::Any);
        }
        let (wild, rest) = match name.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, name.as_str()),
        };
        let label_ok = |l: &str| {
            (1..=63).contains(&l.len())
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        if rest.len() > 253 || !rest.split('.').all(label_ok) {
            return Err(InvalidHost(text.to_owned()));
        }
        Ok(if wild { Self::Wildcard(rest.into()) } else { Self::Exact(rest.into()) })
    }

    /// Whether `host` (lower case, no port) is covered.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *host,
            Self::Wildcard(suffix) => {
                host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && *rest == **suffix)
            }
            Self::Any => true,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

impl Serialize for HostPattern {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_patterns() {
        for (pattern, host, expect) in [
            ("foo.com", "foo.com", true),
            ("FOO.com.", "foo.com", true),
            ("*.foo.com", "bar.foo.com", true),
            ("*.foo.com", "baz.bar.foo.com", false),
            ("*.foo.com", "foo.com", false),
            ("*.foo.com", ".foo.com", false),
            ("", "anything", true),
        ] {
            let parsed = HostPattern::parse(pattern).expect(pattern);
            assert_eq!(parsed.matches(host), expect, "{pattern} vs {host}");
        }
        for bad in ["a..b", "-a.b", "a b", "*.", "a.*.b", "foo*.com", "a:80", "é.com"] {
            assert!(HostPattern::parse(bad).is_err(), "{bad}");
        }
    }
}
