//! Classes: which Ingresses are ours.

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1::Ingress;

use super::report::issue;
use super::{Settings, UnknownClass};
use crate::model::{Issue, IssueReason, ObjectKey, Severity};
use crate::objects::{Objects, excerpt};

/// The annotation that named the class before `spec.ingressClassName` did.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const DEFAULT_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";

/// What the IngressClasses and the settings say.
pub(super) struct Classes<'a> {
    settings: &'a Settings,
    ours: BTreeSet<&'a str>,
    others: BTreeSet<&'a str>,
    default_is_ours: bool,
}

impl<'a> Classes<'a> {
    pub(super) fn new(objects: &'a Objects, settings: &'a Settings) -> Self {
        let (mut ours, mut others) = (BTreeSet::new(), BTreeSet::new());
        let mut default_is_ours = false;
        for (key, class) in &objects.classes {
            let controller = class.spec.as_ref().and_then(|spec| spec.controller.as_deref());
            if controller == Some(settings.controller.as_str()) {
                ours.insert(&*key.name);
                let annotations = class.metadata.annotations.as_ref();
                default_is_ours |=
                    annotations.and_then(|a| a.get(DEFAULT_ANNOTATION)).is_some_and(|v| v == "true");
            } else {
                others.insert(&*key.name);
            }
        }
        Self { settings, ours, others, default_is_ours }
    }

    /// Whether the Ingress is ours.
    pub(super) fn claim(&self, key: &ObjectKey, ingress: &Ingress, issues: &mut Vec<Issue>) -> bool {
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
            let ours = self.default_is_ours || self.settings.serve_classless;
            if !ours {
                say(
                    Severity::Note,
                    "spec.ingressClassName",
                    "names no class and no default class is Sluice's, so it is not served; \
                     name a class, or let the node serve Ingresses without one."
                        .into(),
                );
            }
            return ours;
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
        ours
    }
}
