//! `sluice check`: what a manifest directory would serve, and what is wrong with it. No daemon.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::model::{Issue, Severity, Snapshot};
use crate::objects::Objects;
use crate::source::manifests::{self, ManifestsError};
use crate::translate::{Settings, UnknownClass, translate};

use super::admin::views::{self, Host, Serving};
use super::cli::CheckArgs;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// As given.
    pub directory: String,
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
}

impl Report {
    /// Whether the directory may go live. `strict`: warnings count as errors.
    pub fn passes(&self, strict: bool) -> bool {
        self.errors == 0 && (!strict || self.warnings == 0)
    }
}

/// Reads the directory and translates it as `sluice run --manifests` would.
pub fn check(args: &CheckArgs) -> Result<Report, ManifestsError> {
    let (objects, issues) = manifests::load(&args.directory)?;
    let settings = Settings {
        adopt: args.adopt_class.clone(),
        serve_classless: args.serve_classless || !args.strict_class,
        unknown_class: if args.strict_class { UnknownClass::Ignore } else { UnknownClass::Serve },
        compat: args.compat.into(),
        ..Settings::default()
    };
    Ok(report(&args.directory, &objects, &issues, &settings, now_unix()))
}

/// Seconds since 1970.
pub fn now_unix() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn report(directory: &Path, objects: &Objects, issues: &[Issue], settings: &Settings, now: i64) -> Report {
    let snapshot = translate(objects, settings, issues, now, &Snapshot::empty());
    let count = |severity| snapshot.issues.iter().filter(|issue| issue.severity == severity).count();
    Report {
        directory: directory.display().to_string(),
        objects: objects.len(),
        serving: Serving::of(&snapshot),
        errors: count(Severity::Error),
        warnings: count(Severity::Warning),
        notes: count(Severity::Note),
        issues: snapshot.issues.iter().map(views::Issue::from).collect(),
        hosts: views::routes(&snapshot),
    }
}
