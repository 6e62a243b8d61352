//! What holds for which server name.

use ahash::AHashMap;

use crate::model::HostPattern;

/// Values by name: the exact name's, then the wildcard's, then the one for any name and for none.
#[derive(Debug)]
pub(in crate::proxy) struct ByName<T> {
    exact: AHashMap<Box<str>, T>,
    wildcard: AHashMap<Box<str>, T>,
    any: Option<T>,
}

impl<T> ByName<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcard.is_empty() && self.any.is_none()
    }

    /// The value for a name in lower case, without trailing dot.
    pub(in crate::proxy) fn find(&self, name: Option<&str>) -> Option<&T> {
        let named =
            name.and_then(|name| self.exact.get(name).or_else(|| self.wildcard.get(name.split_once('.')?.1)));
        named.or(self.any.as_ref())
    }
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        Self { exact: AHashMap::new(), wildcard: AHashMap::new(), any: None }
    }
}

impl<T> FromIterator<(HostPattern, T)> for ByName<T> {
    fn from_iter<I: IntoIterator<Item = (HostPattern, T)>>(values: I) -> Self {
        let mut names = Self::default();
        for (pattern, value) in values {
            match pattern {
                HostPattern::Exact(name) => drop(names.exact.insert(name.as_ref().into(), value)),
                HostPattern::Wildcard(suffix) => drop(names.wildcard.insert(suffix.as_ref().into(), value)),
                HostPattern::Any => names.any = Some(value),
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_counts() {
        let names: ByName<u8> = [("a.test", 1), ("*.test", 2), ("*.b.test", 3)]
            .into_iter()
            .map(|(name, value)| (HostPattern::parse(name).expect("a host"), value))
            .collect();
        for (name, expect) in [
            (Some("a.test"), Some(1)),
            (Some("c.test"), Some(2)),
            (Some("x.b.test"), Some(3)),
            (Some("b.test"), Some(2)),
            (Some("x.a.test"), None),
            (Some("test"), None),
            (None, None),
        ] {
            assert_eq!(names.find(name).copied(), expect, "{name:?}");
        }
        let any: ByName<u8> = [(HostPattern::Any, 9)].into_iter().collect();
        assert_eq!((any.find(None), any.find(Some("x"))), (Some(&9), Some(&9)));
        assert!(!any.is_empty() && ByName::<u8>::default().is_empty());
    }
}
