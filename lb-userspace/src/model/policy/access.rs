//! Who gets in: by address, password, another server's word, or client certificate.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;

use super::Template;

/// Who gets in. The default lets everyone in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Access {
    /// Only clients from these networks; `None`: from anywhere. Others get 403.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<Arc<[IpNet]>>,
    /// No clients from these networks, even if `allow` has them: 403.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deny: Option<Arc<[IpNet]>>,
    /// Name and password (RFC 7617): else 401.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basic: Option<Arc<BasicAuth>>,
    /// Another server decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<Arc<ExternalAuth>>,
    /// A certificate of the client, checked in the TLS handshake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Arc<ClientCertificate>>,
    /// Whether networks, passwords and the other server must all agree, or one is enough.
    #[serde(skip_serializing_if = "super::is_default")]
    pub satisfy: Satisfy,
}

/// How the checks of an [`Access`] count together, as nginx's `satisfy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Satisfy {
    /// Every check must let the request in.
    #[default]
    All,
    /// One is enough.
    Any,
}

/// Users and their passwords, from an `htpasswd` file in a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct BasicAuth {
    /// What the browser shows.
    pub realm: Arc<str>,
    /// Name and hashed password, sorted by name. Empty: nobody gets in.
    pub users: Arc<[(Arc<str>, Password)]>,
}

/// A hashed password as `htpasswd` writes it: bcrypt, apr1, SHA-1, crypt. Never printed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Password(pub Arc<str>);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(hidden)")
    }
}

impl Serialize for Password {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str("hidden")
    }
}

/// A server that is asked about each request, as nginx's `auth_request`: 2xx lets it in, 401 and 403
/// are the client's answer, everything else is 500.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ExternalAuth {
    /// Which URL is asked: absolute, http or https.
    pub url: Template,
    /// The method of the question; `None`: GET.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Arc<str>>,
    /// Where clients are sent on 401 (302) to sign in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signin: Option<Template>,
    /// The parameter that gets the address that the client wanted, added to `signin` unless it has
    /// a query with that parameter. ingress-nginx: `rd`.
    pub signin_redirect_param: Arc<str>,
    /// Headers of the server's answer that go on to the endpoint, lower case.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub response_headers: Vec<Arc<str>>,
    /// `X-Auth-Request-Redirect` of the question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_redirect: Option<Template>,
    /// Headers that the question gets besides, name and value.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub request_headers: Vec<(Arc<str>, Template)>,
    /// Cookies of the server's answer go to the client whatever the endpoint's status is.
    pub always_set_cookie: bool,
    /// Answers to questions with the same key are kept: the key, and how long by status (0: any).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<(Template, Vec<(u16, Duration)>)>,
}

/// What a route asks of its clients' certificates. The handshake's side of it is
/// [`crate::model::ClientAuth`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ClientCertificate {
    /// Requests without a certificate that was verified get 400, as in nginx.
    pub required: bool,
    /// The endpoint gets the certificate (`ssl-client-cert`, PEM in percent-encoding).
    pub pass_on: bool,
    /// Where clients without a valid certificate are sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_page: Option<Arc<str>>,
    /// A regular expression that the subject's common name has to match: else 403.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub common_name: Option<Arc<str>>,
}
