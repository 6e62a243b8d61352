//! Metadata of objects, of which a big cluster has thousands: only what is read of it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Of the domains that are read, those for other programs, which may be as long as the object itself.
const UNREAD: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time"];

/// What is read of an object's `metadata`, but for its name, which is the key that it is kept under.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Tells the object from others that had its name.
    pub uid: Option<Box<str>>,
    /// `creationTimestamp` in seconds since 1970; manifests have none.
    pub created: Option<i64>,
    /// It is about to go.
    pub deleting: bool,
    /// But for those that only other programs read: `sluice.dev/…` and `….kubernetes.io/…` are there.
    pub annotations: AnnotationMap,
}

/// Annotations by name, in order. A tenth of the memory of a `BTreeMap`, whose nodes have room for eleven.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnnotationMap(Box<[(Box<str>, Box<str>)]>);

impl AnnotationMap {
    /// The value of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        Some(&self.0[at].1)
    }

    /// Names and values, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<N: Into<Box<str>> + Ord, V: Into<Box<str>>> FromIterator<(N, V)> for AnnotationMap {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(all: I) -> Self {
        let mut all: Vec<_> = all.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all.dedup_by(|(a, _), (b, _)| a == b);
        Self(all.into())
    }
}

/// Whether an annotation may be for us. What installers and certificate managers write on every object of
/// a cluster is often longer than what is read of the object.
pub(super) fn is_read(name: &str) -> bool {
    let domain = name.split_once('/').map_or("", |(domain, _)| domain);
    let of_kubernetes =
        domain.strip_suffix("kubernetes.io").is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    (domain == "sluice.dev" || of_kubernetes) && !UNREAD.contains(&name)
}

impl From<&ObjectMeta> for Metadata {
    fn from(metadata: &ObjectMeta) -> Self {
        let annotations = metadata.annotations.iter().flatten();
        let read = annotations.filter(|(name, _)| is_read(name));
        Self {
            uid: metadata.uid.as_deref().map(Into::into),
            created: metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
            deleting: metadata.deletion_timestamp.is_some(),
            annotations: read.map(|(name, value)| (name.as_str(), value.as_str())).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_of_others_are_not_kept() {
        for (name, expect) in [
            ("sluice.dev/compat", true),
            ("nginx.ingress.kubernetes.io/rewrite-target", true),
            ("kubernetes.io/ingress.class", true),
            ("service.beta.kubernetes.io/load-balancer-source-ranges", true),
            ("kubectl.kubernetes.io/last-applied-configuration", false),
            ("meta.helm.sh/release-name", false),
            ("notkubernetes.io/x", false),
            ("x.sluice.dev/x", false),
            ("sluice.dev", false),
            ("round", false),
        ] {
            assert_eq!(is_read(name), expect, "{name}");
        }
    }

    #[test]
    fn annotations_are_found_by_name() {
        let all: AnnotationMap = [("b", "2"), ("a", "1"), ("c", "3"), ("a", "later")].into_iter().collect();
        for (name, value) in [("a", Some("1")), ("b", Some("2")), ("c", Some("3")), ("d", None), ("", None)] {
            assert_eq!(all.get(name), value, "{name}");
        }
        assert_eq!(all.iter().map(|(name, _)| name).collect::<String>(), "abc");
        assert!(!all.is_empty() && AnnotationMap::default().is_empty());
    }
}
