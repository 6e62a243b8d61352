//! The certificate that a client sees.

use serde::{Deserialize, Serialize};

use crate::model::{HostPattern, Snapshot};

use super::asked::Asked;

/// The certificate that the client sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// The server name that the client sends; none for addresses.
    pub sni: Option<String>,
    /// The Secret, or `self-signed`.
    pub certificate: String,
    /// For which pattern it was chosen; `default` if for none.
    pub chosen_for: String,
    /// The names in it.
    pub names: Vec<String>,
    /// Whether one of them covers the host; clients refuse it otherwise.
    pub covers_host: bool,
}

pub(super) fn tls(asked: &Asked, snapshot: &Snapshot) -> Tls {
    let sni = asked.sni();
    let by_name = sni.and_then(|sni| {
        let covering = snapshot.tls.by_host.iter().filter(|(pattern, _)| pattern.matches(sni));
        covering.min_by(|a, b| a.0.cmp(&b.0))
    });
    let (certificate, chosen_for) = match by_name {
        Some((pattern, certificates)) => (certificates.first(), pattern.to_string()),
        None => (snapshot.tls.default.as_ref(), "default".to_owned()),
    };
    let names = certificate.map(|c| c.names.clone()).unwrap_or_default();
    let covers_host = names.iter().any(|name| {
        HostPattern::parse(name).is_ok_and(|pattern| sni.is_some_and(|sni| pattern.matches(sni)))
    });
    Tls {
        sni: sni.map(str::to_owned),
        certificate: certificate.map_or_else(|| "self-signed".to_owned(), |c| c.secret.to_string()),
        chosen_for,
        names,
        covers_host,
    }
}
