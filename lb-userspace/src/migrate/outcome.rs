//! Who takes a request, in a form that controllers can be compared by.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Answer;
use crate::model::{Backend, Route, TemplatePart};
use crate::route::{RouteTable, Target};

/// Who takes a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// A rule of an Ingress.
    Rule {
        /// namespace/name.
        ingress: String,
        /// `rules[0].http.paths[1]`, `defaultBackend`.
        rule: String,
    },
    /// The client is sent to the same path with a slash at its end.
    SlashRedirect,
    /// Nobody: 404, or the controller's own default backend.
    NotFound,
    /// The request is refused as it is: 400.
    BadRequest,
}

impl Outcome {
    /// What ingress-nginx does with a request.
    pub fn of_nginx(answer: &Answer<'_>) -> Self {
        match answer {
            Answer::Rule(rule) => {
                Self::Rule { ingress: rule.ingress.to_string(), rule: rule.place.to_string() }
            }
            Answer::SlashRedirect(_) => Self::SlashRedirect,
            Answer::NotFound => Self::NotFound,
            Answer::BadRequest => Self::BadRequest,
        }
    }

    /// What Sluice does with a request for `path`, which may be in any form, on `host` in its normal
    /// form.
    pub fn of_sluice<T>(table: &RouteTable<T>, host: Option<&str>, path: &str) -> Self {
        let Ok(target) = Target::parse(path) else { return Self::BadRequest };
        match table.find(host, target.path()) {
            Some(found) if redirects_to_slash(found.route, target.path()) => Self::SlashRedirect,
            Some(found) => {
                Self::Rule { ingress: found.route.ingress.to_string(), rule: found.route.rule.to_string() }
            }
            None => Self::NotFound,
        }
    }
}

/// Whether the route's whole answer is to send `path` to `path/`.
fn redirects_to_slash(route: &Route, path: &str) -> bool {
    let to = route.policy.redirect.as_ref().filter(|redirect| redirect.status == 301);
    let begin = to.and_then(|redirect| redirect.to.0.first());
    let slashed = |text: &str| text.strip_suffix('/') == Some(path);
    route.backend == Backend::Answered && matches!(begin, Some(TemplatePart::Text(text)) if slashed(text))
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule { ingress, rule } => write!(f, "{ingress} {rule}"),
            Self::SlashRedirect => f.write_str("301 to the path with /"),
            Self::NotFound => f.write_str("404"),
            Self::BadRequest => f.write_str("400"),
        }
    }
}
