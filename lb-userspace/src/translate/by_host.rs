//! A few values by their host.

use crate::model::HostPattern;

/// One `T` for each host, in the order of hosts. Most Ingresses have one host: a tree for each of
/// thousands would be ten times the size.
pub(super) struct ByHost<T>(Vec<(HostPattern, T)>);

impl<T> Default for ByHost<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Default> ByHost<T> {
    /// The host's, made if there is none.
    pub(super) fn entry(&mut self, host: HostPattern) -> &mut T {
        let at = match self.find(&host) {
            Ok(at) => at,
            Err(free) => {
                self.0.reserve_exact(1);
                self.0.insert(free, (host, T::default()));
                free
            }
        };
        &mut self.0[at].1
    }
}

impl<T> ByHost<T> {
    pub(super) fn get(&self, host: &HostPattern) -> Option<&T> {
        self.find(host).ok().map(|at| &self.0[at].1)
    }

    pub(super) fn contains(&self, host: &HostPattern) -> bool {
        self.find(host).is_ok()
    }

    pub(super) fn hosts(&self) -> impl Iterator<Item = &HostPattern> + Clone {
        self.0.iter().map(|(host, _)| host)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, value)| value)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    fn find(&self, host: &HostPattern) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.cmp(host))
    }
}
