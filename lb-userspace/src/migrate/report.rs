//! What a migration report says. These are the fields of `sluice check -o json`; names stay, new ones
//! may come.

use serde::{Deserialize, Serialize};

use super::Outcome;

/// Everything that is worth knowing before traffic moves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migration {
    /// Each annotation of ingress-nginx on each Ingress that it serves, sorted by Ingress and name.
    pub annotations: Vec<AnnotationUse>,
    /// What ingress-nginx does unasked, where it does it. Sorted by kind and host.
    pub surprises: Vec<Surprise>,
}

impl Migration {
    /// Annotations that keep the migration from being taken as it is.
    pub fn refused(&self) -> impl Iterator<Item = &AnnotationUse> {
        self.annotations.iter().filter(|one| matches!(one.verdict, Verdict::Refused | Verdict::Closed))
    }
}

/// What becomes of an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Routes with it answer 503: they would stand open without it.
    Closed,
    /// Is not followed.
    Refused,
    /// No controller knows it by this name.
    Unknown,
    /// Does nearly the same.
    Differs,
    /// Is not needed.
    Ignored,
    /// Does the same.
    Supported,
}

/// One annotation of one Ingress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnotationUse {
    /// namespace/name.
    pub ingress: String,
    /// Without `nginx.ingress.kubernetes.io/`.
    pub annotation: String,
    /// Its value, shortened.
    pub value: String,
    /// What becomes of it.
    pub verdict: Verdict,
    /// How it differs or what to do instead; empty when nothing.
    pub note: String,
}

/// A kind of surprise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// One Ingress makes all paths of a host regular expressions, other Ingresses' too.
    HostWideRegex,
    /// Regular expressions match any path that begins so, whatever the case of letters.
    RegexPrefix,
    /// `rewrite-target` makes paths regular expressions, unasked.
    RewriteImpliesRegex,
    /// `/foo` is answered with a redirect to `/foo/`.
    TrailingSlash,
    /// Paths are decoded before they are compared, `%2F` included.
    Normalisation,
    /// A path without a pathType that Kubernetes defines covers what merely begins with its letters.
    PrefixByLetters,
    /// What a host's own rules leave open never falls to rules without a host.
    HostFallThrough,
    /// `/admin;x` is not below a path `/admin` that is restricted, and many servers take it for that.
    PathParameters,
    /// Other requests that another rule takes.
    OtherRule,
    /// Without being asked, ingress-nginx applies settings that Kubernetes doesn't know.
    Defaults,
}

/// A surprise, on one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surprise {
    /// Which one.
    pub kind: Kind,
    /// The host pattern; `*` for rules without one.
    pub host: String,
    /// What brings it about, if an annotation does: Ingress and field.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub causes: Vec<String>,
    /// Whether requests are answered differently by Sluice.
    pub changes: Changes,
    /// What ingress-nginx does.
    pub ingress_nginx: String,
    /// What Sluice does with `compat: kubernetes`.
    pub sluice_kubernetes: String,
    /// What Sluice does with `compat: ingress-nginx`.
    pub sluice_ingress_nginx: String,
    /// What to do.
    pub remedy: String,
    /// The paths that it hits.
    pub places: Vec<Place>,
    /// How many more places are not listed.
    pub more: usize,
}

/// Whether an answer changes, by whose defaults Sluice has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// With `compat: kubernetes`.
    pub kubernetes: bool,
    /// With `compat: ingress-nginx`.
    pub ingress_nginx: bool,
}

/// A path of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// namespace/name.
    pub ingress: String,
    /// Where in the Ingress: `spec.rules[0].http.paths[1].path`.
    pub field: String,
    /// As the manifest has it.
    pub path: String,
    /// As the manifest has it.
    pub path_type: String,
    /// A request that shows it, if there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub example: Option<Example>,
}

/// A request and who takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// Its path.
    pub path: String,
    /// What it gets of ingress-nginx.
    pub ingress_nginx: Outcome,
    /// What it gets of Sluice with `compat: kubernetes`.
    pub sluice_kubernetes: Outcome,
    /// What it gets of Sluice with `compat: ingress-nginx`.
    pub sluice_ingress_nginx: Outcome,
}

impl Example {
    /// Whether Sluice answers differently.
    pub fn changes(&self) -> Changes {
        Changes {
            kubernetes: self.sluice_kubernetes != self.ingress_nginx,
            ingress_nginx: self.sluice_ingress_nginx != self.ingress_nginx,
        }
    }
}
