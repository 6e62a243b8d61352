//! `sluice check`: what a manifest directory would serve, what is wrong with it, and what changes for
//! Ingresses that come from ingress-nginx. No daemon.

mod replay;
mod text;

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::migrate::{self, Migration, Study, Verdict};
use crate::model::{Compat, Issue, ObjectKey, Severity, Snapshot};
use crate::objects::Objects;
use crate::source::manifests::{self, ManifestsError};
use crate::translate::annotations::CATALOGUE;
use crate::translate::{ClusterSettings, Settings, UnknownClass, translate};

use super::admin::views::{self, Host, Serving};
use super::cli::{CheckArgs, CheckCompat, Origin};

pub use replay::replay;
pub use text::migration as migration_text;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// As given.
    pub directory: String,
    /// Whose defaults the objects were checked with: `kubernetes` or `ingress-nginx`.
    pub compat: String,
    /// Objects of kinds that Sluice reads.
    pub objects: usize,
    /// What would be served.
    pub serving: Serving,
    /// How many issues are errors.
    pub errors: usize,
    /// How many are warnings.
    pub warnings: usize,
    /// How many are notes.
    pub notes: usize,
    /// Sorted by object.
    pub issues: Vec<views::Issue>,
    /// Hosts, paths and where they lead.
    pub hosts: Vec<Host>,
    /// Classes of ingress-nginx that were adopted, as `--adopt-class` would.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub adopted: Vec<String>,
    /// What changes by the move; `None` if nothing comes from ingress-nginx.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migration: Option<Migration>,
}

impl Report {
    /// Whether the directory may go live. `strict`: warnings, and whatever changes, count as errors.
    pub fn passes(&self, strict: bool) -> bool {
        let migration = self.migration.iter();
        let refused = migration.clone().flat_map(Migration::refused).next().is_some();
        let differs = || {
            migration.clone().flat_map(|m| &m.annotations).any(|one| one.verdict <= Verdict::Differs)
                || migration.clone().flat_map(|m| &m.surprises).any(|one| match self.compat.as_str() {
                    "kubernetes" => one.changes.kubernetes,
                    _ => one.changes.ingress_nginx,
                })
        };
        self.errors == 0 && !refused && (!strict || (self.warnings == 0 && !differs()))
    }
}

/// Reads the directory and translates it as `sluice run --manifests` would.
///
/// # Errors
/// When the directory can't be listed.
pub fn check(args: &CheckArgs) -> Result<Report, ManifestsError> {
    let loaded = Loaded::read(args)?;
    Ok(report(&args.directory, &loaded, now_unix()))
}

/// Seconds since 1970.
pub fn now_unix() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A directory's objects and how they are to be translated.
struct Loaded {
    objects: Objects,
    issues: Vec<Issue>,
    settings: Settings,
    /// Whose defaults apply.
    compat: CheckCompat,
    /// Whether a migration is reported.
    from_ingress_nginx: bool,
    /// Classes of ingress-nginx, which are served too then.
    adopted: Vec<String>,
}

impl Loaded {
    fn read(args: &CheckArgs) -> Result<Self, ManifestsError> {
        let (mut objects, issues) = manifests::load(&args.directory)?;
        let said = args.config_map.as_ref().and_then(|key| take_compat(&mut objects, key));
        let from_ingress_nginx = match args.from {
            Origin::Auto => migrate::is_from_ingress_nginx(&objects),
            Origin::IngressNginx => true,
            Origin::None => false,
        };
        let adopted: Vec<_> = if from_ingress_nginx { migrate::classes(&objects) } else { Vec::new() };
        let settings = Settings {
            adopt: args.adopt_class.iter().chain(&adopted).cloned().collect(),
            serve_classless: args.serve_classless || !args.strict_class,
            unknown_class: if args.strict_class { UnknownClass::Ignore } else { UnknownClass::Serve },
            config_map: args.config_map.clone(),
            service_vips: args.service_vips.clone(),
            ..Settings::default()
        };
        let compat = args.compat.or(said).unwrap_or(CheckCompat::Kubernetes);
        Ok(Self { objects, issues, settings, compat, from_ingress_nginx, adopted })
    }

    /// What a node with these defaults would serve.
    fn snapshot(&self, compat: Compat, now: i64) -> Snapshot {
        let settings = Settings { compat, ..self.settings.clone() };
        translate(&self.objects, &settings, &self.issues, now, &Snapshot::empty())
    }
}

/// Takes what the settings say of `compat` out of them: both are looked at.
fn take_compat(objects: &mut Objects, key: &ObjectKey) -> Option<CheckCompat> {
    let mut settings = objects.config_maps.get(key)?.clone();
    // What is wrong with them is said by the translation, which reads what stays.
    let said = ClusterSettings::read(key, settings.data.as_ref()?, &mut Vec::new()).compat?;
    Arc::make_mut(&mut settings).data.as_mut()?.remove("compat");
    objects.config_maps.insert(key.clone(), settings);
    Some(match said {
        Compat::Kubernetes => CheckCompat::Kubernetes,
        Compat::IngressNginx => CheckCompat::IngressNginx,
    })
}

fn report(directory: &Path, loaded: &Loaded, now: i64) -> Report {
    let compat = loaded.compat.each()[0];
    let snapshots = [Compat::Kubernetes, Compat::IngressNginx].map(|compat| loaded.snapshot(compat, now));
    let [kubernetes, ingress_nginx] = &snapshots;
    let snapshot = if compat == Compat::Kubernetes { kubernetes } else { ingress_nginx };
    let study = Study {
        objects: &loaded.objects,
        catalogue: CATALOGUE,
        kubernetes,
        ingress_nginx,
        adopt: &loaded.settings.adopt,
    };
    let count = |severity| snapshot.issues.iter().filter(|issue| issue.severity == severity).count();
    Report {
        directory: directory.display().to_string(),
        compat: views::word(&compat),
        objects: loaded.objects.len(),
        serving: Serving::of(snapshot),
        errors: count(Severity::Error),
        warnings: count(Severity::Warning),
        notes: count(Severity::Note),
        issues: snapshot.issues.iter().map(views::Issue::from).collect(),
        hosts: views::routes(snapshot),
        adopted: loaded.adopted.clone(),
        migration: loaded.from_ingress_nginx.then(|| study.report()),
    }
}
