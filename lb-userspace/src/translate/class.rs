//! Classes: which Ingresses are ours, and whose defaults they get.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::networking::v1::IngressClass;

use super::report::issue;
use super::{Settings, UnknownClass};
use crate::model::{Compat, Issue, IssueReason, ObjectKey, Severity};
use crate::objects::{Ingress, Objects, excerpt, parameters_of};

/// The annotation that named the class before `spec.ingressClassName` did.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const DEFAULT_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";
/// On an IngressClass: whose defaults its Ingresses get, `kubernetes` or `ingress-nginx`. Works on
/// classes of other controllers too, for when they are adopted. Without it the class's parameters
/// count, then the node's setting.
const COMPAT_ANNOTATION: &str = "sluice.dev/compat";

/// In the ConfigMap that a class's `parameters` name, for the same.
const COMPAT_KEY: &str = "compat";

/// What the IngressClasses and the settings say.
#[derive(Default, PartialEq)]
pub(super) struct Classes {
    settings: Settings,
    ours: BTreeSet<Arc<str>>,
    others: BTreeSet<Arc<str>>,
    /// The default class, whoever's it is.
    default: Option<Arc<str>>,
    /// Of the classes that say it.
    compat: BTreeMap<Arc<str>, Compat>,
}

impl Classes {
    /// Says which annotations and parameters of the classes it can't read.
    pub(super) fn new(objects: &Objects, settings: &Settings, issues: &mut Vec<Issue>) -> Self {
        let (mut ours, mut others, mut compat) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        let mut defaults = Vec::new();
        for (key, class) in &objects.classes {
            let name = key.name.clone();
            let annotation = |name| class.metadata.annotations.as_ref().and_then(|a| a.get(name));
            let controller = class.spec.as_ref().and_then(|spec| spec.controller.as_deref());
            if annotation(DEFAULT_ANNOTATION).is_some_and(|value| value == "true") {
                let created = class.metadata.creation_timestamp.as_ref();
                defaults.push((created.map(|time| time.0.as_nanosecond()), name.clone()));
            }
            match controller == Some(settings.controller.as_str()) {
                true => ours.insert(name.clone()),
                false => others.insert(name.clone()),
            };
            let annotated = annotation(COMPAT_ANNOTATION).and_then(|value| {
                parse_compat(
                    value,
                    ("IngressClass", key),
                    format!("metadata.annotations[{COMPAT_ANNOTATION}]"),
                    issues,
                )
            });
            // Parameters of other controllers' classes are not for us to read.
            let ours = ours.contains(&name);
            let parameters = if ours { compat_of_parameters(key, class, objects, issues) } else { None };
            if let Some(found) = annotated.or(parameters) {
                compat.insert(name, found);
            }
        }
        // Of several default classes, of whichever controllers, the API server takes the youngest, then the
        // first by name (its admission plugin DefaultIngressClass).
        let default = defaults.iter().max_by(|a, b| a.0.cmp(&b.0).then_with(|| b.1.cmp(&a.1)));
        let default = default.map(|(_, name)| name.clone());
        for (_, name) in defaults.iter().filter(|(_, name)| ours.contains(name)) {
            let Some(taken) = default.as_ref().filter(|taken| *taken != name) else { continue };
            issues.push(issue(
                Severity::Warning,
                IssueReason::Conflict,
                "IngressClass",
                &ObjectKey::new("", name.clone()),
                format!("metadata.annotations[{DEFAULT_ANNOTATION}]"),
                format!(
                    "{:?} is a default class, too, and the younger one, so that Ingresses without a class are its; \
                     let one class be the default.",
                    excerpt(taken)
                ),
            ));
        }
        Self { settings: settings.clone(), ours, others, default, compat }
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
        let named = ingress.spec.class.as_deref();
        let legacy = ingress.metadata.annotations.get(CLASS_ANNOTATION);
        let named = named.filter(|name| !name.is_empty()).map(|name| (name, "spec.ingressClassName"));
        let legacy = legacy.filter(|name| !name.is_empty());
        let legacy = legacy.map(|name| (name, "metadata.annotations[kubernetes.io/ingress.class]"));
        // The annotation goes first, as it always did in the controllers that people come from.
        let Some((name, field)) = legacy.or(named) else {
            let default = self.default.as_deref();
            let is_ours = default.is_some_and(|name| self.serves(name));
            if !is_ours && !self.settings.serve_classless {
                say(
                    Severity::Note,
                    "spec.ingressClassName",
                    "names no class and no default class is Sluice's, so it is not served; \
                     name a class, or let the node serve Ingresses without one."
                        .into(),
                );
            }
            let ours = is_ours || self.settings.serve_classless;
            return ours.then(|| self.compat(default.filter(|_| is_ours)));
        };
        let ours = self.serves(name)
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

    /// Whether the class's Ingresses are ours, because it is or because we are told so.
    fn serves(&self, class: &str) -> bool {
        self.ours.contains(class) || self.settings.adopt.iter().any(|adopted| adopted == class)
    }

    fn compat(&self, class: Option<&str>) -> Compat {
        class.and_then(|class| self.compat.get(class)).copied().unwrap_or(self.settings.compat)
    }
}

fn parse_compat(
    text: &str,
    (kind, key): (&'static str, &ObjectKey),
    field: String,
    issues: &mut Vec<Issue>,
) -> Option<Compat> {
    match text.trim() {
        "kubernetes" => Some(Compat::Kubernetes),
        "ingress-nginx" => Some(Compat::IngressNginx),
        other => {
            issues.push(issue(
                Severity::Warning,
                IssueReason::InvalidAnnotation,
                kind,
                key,
                field,
                format!(
                    "{:?} is neither kubernetes nor ingress-nginx and is ignored; write one of them.",
                    excerpt(other)
                ),
            ));
            None
        }
    }
}

/// What the ConfigMap says that the class's `spec.parameters` name.
fn compat_of_parameters(
    key: &ObjectKey,
    class: &IngressClass,
    objects: &Objects,
    issues: &mut Vec<Issue>,
) -> Option<Compat> {
    let parameters = class.spec.as_ref()?.parameters.as_ref()?;
    let mut say = |severity, message: String| {
        issues.push(issue(
            severity,
            IssueReason::InvalidField,
            "IngressClass",
            key,
            "spec.parameters",
            message,
        ));
    };
    let Some(name) = parameters_of(class) else {
        say(
            Severity::Warning,
            format!(
                "names a {:?}, which is not read; name a ConfigMap with its namespace (kind ConfigMap, no apiGroup, \
                 scope Namespace).",
                excerpt(&parameters.kind)
            ),
        );
        return None;
    };
    let Some(map) = objects.config_maps.get(&name) else {
        let message = format!("ConfigMap {name} does not exist; the node's own defaults apply. Create it.");
        say(Severity::Error, message);
        return None;
    };
    let value = map.data.as_ref()?.get(COMPAT_KEY)?;
    parse_compat(value, ("ConfigMap", &name), format!("data[{COMPAT_KEY}]"), issues)
}
