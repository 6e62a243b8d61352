//! Issues: what is wrong with an object, as a value.

use std::fmt;

use serde::Serialize;

use super::ObjectRef;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; everything asked for is served.
    Note,
    /// Something asked for is not served as written.
    Warning,
    /// The object, or the named part of it, is not served at all.
    Error,
}

/// The kind of trouble: the Event's reason, stable for scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum IssueReason {
    /// A file or an object can't be read.
    Unreadable,
    /// An old API version was converted.
    DeprecatedApi,
    /// A field holds what it can't.
    InvalidField,
    /// A kind that Sluice does not read.
    UnknownKind,
    /// Two sources define the same object.
    Duplicate,
    /// Another Ingress already has this host and path.
    Conflict,
    /// The Service isn't there.
    ServiceNotFound,
    /// The Service has no such port.
    PortNotFound,
    /// The Service has no endpoints, for a reason that can be named.
    NoEndpoints,
    /// A Service of type LoadBalancer has no address to be reached at.
    NoAddress,
    /// The kernel's tables have no room for it.
    NoRoom,
    /// The Secret isn't there.
    SecretNotFound,
    /// The Secret holds no usable certificate.
    InvalidCertificate,
    /// The certificate does not cover the host.
    CertificateMismatch,
    /// The certificate's time is over.
    CertificateExpired,
    /// The certificate's time is still to come.
    CertificateNotYetValid,
    /// The IngressClass isn't there.
    ClassNotFound,
    /// The ConfigMap isn't there.
    ConfigMapNotFound,
    /// An annotation that Sluice does not know or can't follow.
    UnsupportedAnnotation,
    /// An annotation's value is wrong.
    InvalidAnnotation,
    /// The API's own rules allow this, Sluice doesn't.
    Unsupported,
}

/// What is wrong with one object and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Issue {
    /// How bad.
    pub severity: Severity,
    /// Which object; for files that hold none, kind `File`.
    pub object: ObjectRef,
    /// The kind of trouble.
    pub reason: IssueReason,
    /// Where in the object: `spec.rules[0].http.paths[1]`, or a file and line. May be empty.
    pub field: String,
    /// What is wrong and what to do, as a sentence.
    pub message: String,
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.object)?;
        if !self.field.is_empty() {
            write!(f, " {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}
