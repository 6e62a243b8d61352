//! Classes: which Ingresses are ours.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::networking::v1::Ingress;

use super::report::issue;
use super::{Settings, UnknownClass};
use crate::model::{Compat, Issue, IssueReason, ObjectKey, Severity};
use crate::objects::{Objects, excerpt};

/// The annotation that named the class before `spec.ingressClassName` did.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const DEFAULT_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";
/// On an IngressClass: whose defaults its Ingresses get, `kubernetes` or `ingress-nginx`. Works on
/// classes of other controllers too, for when they are adopted. Without it the node's setting counts.
const COMPAT_ANNOTATION: &str = "sluice.dev/compat";

/// What the IngressClasses and the settings say.
pub(super) struct Classes<'a> {
    settings: &'a Settings,
    ours: BTreeSet<&'a str>,
    others: BTreeSet<&'a str>,
    /// The default class, if it is ours.
    default: Option<&'a str>,
    /// Of the classes that say it.
    compat: BTreeMap<&'a str, Compat>,
}

impl<'a> Classes<'a> {
    /// Says which annotations of the classes it can't read.
    pub(super) fn new(objects: &'a Objects, settings: &'a Settings, issues: &mut Vec<Issue>) -> Self {
        let (mut ours, mut others, mut compat) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        let mut defaults = Vec::new();
        for (key, class) in &objects.classes {
            let name = &*key.name;
            let annotation = |name| class.metadata.annotations.as_ref().and_then(|a| a.get(name));
            let controller = class.spec.as_ref().and_then(|spec| spec.controller.as_deref());
            if controller == Some(settings.controller.as_str()) {
                ours.insert(name);
                if annotation(DEFAULT_ANNOTATION).is_some_and(|value| value == "true") {
                    let created = class.metadata.creation_timestamp.as_ref();
                    defaults.push((created.map(|time| time.0.as_nanosecond()), name));
                }
            } else {
                others.insert(name);
            }
            match annotation(COMPAT_ANNOTATION).map(String::as_str) {
                None => {}
                Some("kubernetes") => drop(compat.insert(name, Compat::Kubernetes)),
                Some("ingress-nginx") => drop(compat.insert(name, Compat::IngressNginx)),
                Some(other) => issues.push(issue(
                    Severity::Warning,
                    IssueReason::InvalidAnnotation,
                    "IngressClass",
                    key,
                    format!("metadata.annotations[{COMPAT_ANNOTATION}]"),
                    format!(
                        "{:?} is neither kubernetes nor ingress-nginx and is ignored; write one of them.",
                        excerpt(other)
                    ),
                )),
            }
        }
        // Of several default classes the API server takes the youngest, then the first by name.
        let default = defaults.iter().max_by(|a, b| a.0.cmp(&b.0).then_with(|| b.1.cmp(a.1)));
        let default = default.map(|(_, name)| *name);
        Self { settings, ours, others, default, compat }
    }

    /// If the Ingress is ours: whose defaults it gets.
    pub(super) fn claim(
        &self,
        key: &ObjectKey,
        ingress: &Ingress,
        issues: &mut Vec<Issue>,
    ) -> Option<Compat> {
        let mut say = |severity, field: &str, message: String| {
            issues.push(issue(severity, IssueReason::ClassNotFound, "Ingress", key, field, message));
        };
        let named = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
        let legacy = ingress.metadata.annotations.as_ref().and_then(|a| a.get(CLASS_ANNOTATION));
        let named = named.filter(|name| !name.is_empty()).map(|name| (name, "spec.ingressClassName"));
        let legacy = legacy.filter(|name| !name.is_empty());
        let legacy = legacy.map(|name| (name.as_str(), "metadata.annotations[kubernetes.io/ingress.class]"));
        // The annotation goes first, as it always did in the controllers that people come from.
        let Some((name, field)) = legacy.or(named) else {
            let ours = self.default.is_some() || self.settings.serve_classless;
            if !ours {
                say(
                    Severity::Note,
                    "spec.ingressClassName",
                    "names no class and no default class is Sluice's, so it is not served; \
                     name a class, or let the node serve Ingresses without one."
                        .into(),
                );
            }
            return ours.then(|| self.compat(self.default));
        };
        let ours = self.settings.adopt.iter().any(|adopted| adopted == name)
            || self.ours.contains(name)
            || (!self.others.contains(name) && self.settings.unknown_class == UnknownClass::Serve);
        if !ours && !self.others.contains(name) && field.starts_with("spec") {
            say(
                Severity::Note,
                field,
                format!(
                    "there is no IngressClass {:?}, so it is not served; create the class or adopt its name.",
                    excerpt(name)
                ),
            );
        }
        if ours
            && let (Some((annotated, _)), Some((specified, _))) = (legacy, named)
            && annotated != specified
        {
            say(
                Severity::Warning,
                "spec.ingressClassName",
                format!(
                    "says {:?}, the annotation {CLASS_ANNOTATION} says {:?}; the annotation counts. Remove it.",
                    excerpt(specified),
                    excerpt(annotated)
                ),
            );
        }
        ours.then(|| self.compat(Some(name)))
    }

    fn compat(&self, class: Option<&str>) -> Compat {
        class.and_then(|class| self.compat.get(class)).copied().unwrap_or(self.settings.compat)
    }
}
