//! What a status says of where something is reached.

/// An entry of `status.loadBalancer.ingress`, as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GivenAddress {
    /// `ip`.
    pub ip: Option<Box<str>>,
    /// `hostname`.
    pub hostname: Option<Box<str>>,
}

impl GivenAddress {
    pub(super) fn new(ip: &Option<String>, hostname: &Option<String>) -> Self {
        Self { ip: ip.as_deref().map(Into::into), hostname: hostname.as_deref().map(Into::into) }
    }
}
