//! What changes when Ingresses move from ingress-nginx to Sluice. Pure.
//!
//! Three answers are worked out for the same requests and compared: ingress-nginx's by a model of
//! the nginx configuration that it writes ([`Nginx`]), and Sluice's by its own route tables, once
//! with each [`crate::model::Compat`]. So a finding is never a guess from an annotation's presence:
//! it names the paths it hits and, where there is one, a request that shows it.
//!
//! Annotations are judged by the catalogue beside their parser, and by what the parser said of
//! their values.

mod annotations;
mod nginx;
mod outcome;
mod report;
mod sample;
mod surprises;
mod uri;

#[cfg(test)]
mod tests;

pub use nginx::{Answer, Nginx};
pub use outcome::Outcome;
pub use report::{AnnotationUse, Changes, Example, Kind, Migration, Place, Surprise, Verdict};

use crate::model::Snapshot;
use crate::objects::Objects;
use crate::route::RouteTable;
use crate::translate::annotations::Entry;

/// What annotations of ingress-nginx begin with.
pub const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// What a migration is judged by: the objects, and what Sluice makes of them with either default.
pub struct Study<'a> {
    /// Everything there is.
    pub objects: &'a Objects,
    /// What becomes of each annotation.
    pub catalogue: &'a [Entry],
    /// The objects translated with Kubernetes' defaults.
    pub kubernetes: &'a Snapshot,
    /// The objects translated with ingress-nginx's defaults.
    pub ingress_nginx: &'a Snapshot,
    /// Classes that are served besides ingress-nginx's and Sluice's own.
    pub adopt: &'a [String],
}

impl Study<'_> {
    /// Everything that is worth knowing before traffic moves.
    pub fn report(&self) -> Migration {
        let nginx = Nginx::of(self.objects, self.adopt);
        let tables =
            [self.kubernetes, self.ingress_nginx].map(|snapshot| RouteTable::build(&snapshot.routing));
        Migration {
            annotations: annotations::uses(self, &nginx),
            surprises: surprises::find(self, &nginx, &tables),
        }
    }
}

/// Whether any Ingress has an annotation of ingress-nginx.
pub fn is_from_ingress_nginx(objects: &Objects) -> bool {
    let mut annotations = objects.ingresses.values().flat_map(|ingress| ingress.metadata.annotations.iter());
    annotations.any(|(name, _)| name.starts_with(PREFIX))
}

/// The names of ingress-nginx's IngressClasses.
pub fn classes(objects: &Objects) -> Vec<String> {
    let theirs = objects.classes.iter().filter(|(_, class)| {
        class.spec.as_ref().and_then(|spec| spec.controller.as_deref()) == Some(nginx::NGINX_CONTROLLER)
    });
    theirs.map(|(key, _)| key.name.to_string()).collect()
}
