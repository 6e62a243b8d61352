//! Each annotation over the wire: from the text of an Ingress to what client and endpoint see.
//!
//! A [`Row`] is an Ingress with annotations, the first of which is the one the row is about, and a
//! script of requests and what becomes of them ([`script`]). Each row is played twice: as it stands,
//! where all has to be as the script says, and without its annotation, where it must not. So a row that
//! can't fail is none. `every_annotation_has_a_row` takes the catalogue as the list of what there is.

mod access;
mod answers;
mod balance;
mod endpoints;
mod limits;
mod probes;
mod script;
mod upstream;
mod ways;
mod world;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use sluice::translate::annotations::{CATALOGUE, Support, entry};
use world::World;

/// An Ingress and what it does.
#[derive(Clone)]
pub struct Row {
    /// Lines of YAML, without the prefix of their names. The first is what the row is about.
    annotations: String,
    play: Play,
    path: &'static str,
    service: &'static str,
    port: &'static str,
    /// More documents.
    also: String,
    /// The Ingress has the defaults of ingress-nginx.
    compat: bool,
    /// The Ingress is a canary beside another one, which leads to `web`.
    canary: bool,
    /// The Ingress has TLS for its host.
    tls: bool,
}

#[derive(Clone)]
pub enum Play {
    Script(&'static str),
    Probe(fn(&World) -> Result<(), String>),
}

/// A row whose requests are for `a.test` and whose endpoint is `web`, unless it says otherwise.
pub fn row(annotations: &str, script: &'static str) -> Row {
    Row {
        annotations: annotations.to_owned(),
        play: Play::Script(script),
        path: "/",
        service: "web",
        port: "80",
        also: String::new(),
        compat: false,
        canary: false,
        tls: false,
    }
}

/// The same with a function in the script's place. It says why it is not as it should be.
pub fn probe(annotations: &str, probe: fn(&World) -> Result<(), String>) -> Row {
    Row { play: Play::Probe(probe), ..row(annotations, "") }
}

impl Row {
    pub fn path(self, path: &'static str) -> Self {
        Self { path, ..self }
    }

    pub fn to(self, service: &'static str) -> Self {
        Self { service, ..self }
    }

    pub fn port(self, port: &'static str) -> Self {
        Self { port, ..self }
    }

    pub fn also(self, documents: &str) -> Self {
        Self { also: format!("{}\n---\n{documents}", self.also), ..self }
    }

    /// Has the cluster's settings say this.
    pub fn settings(self, data: &str) -> Self {
        let data: String = data.lines().map(|line| format!("\n  {}", line.trim())).collect();
        self.also(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: settings, namespace: sluice }}\ndata:{data}"
        ))
    }

    pub fn compat(self) -> Self {
        Self { compat: true, ..self }
    }

    pub fn canary(self) -> Self {
        Self { canary: true, service: "other", ..self }
    }

    pub fn tls(self) -> Self {
        Self { tls: true, ..self }
    }

    /// The annotation that it is about.
    fn subject(&self) -> &str {
        self.annotations.trim_start().split(':').next().unwrap_or_default()
    }

    /// The annotations but the first.
    fn others(&self) -> String {
        let mut lines = self.annotations.trim_start().lines();
        lines.next();
        lines.skip_while(|line| line.starts_with(' ')).map(|line| format!("{line}\n")).collect()
    }

    /// Plays it with the annotation and without.
    fn check(&self) -> Result<(), String> {
        let subject = self.subject();
        World::new(self, &self.annotations, true)
            .play(&self.play)
            .map_err(|why| format!("{subject}: {why}\n  annotations: {}", self.annotations.trim()))?;
        match World::new(self, &self.others(), false).play(&self.play) {
            Err(_) => Ok(()),
            Ok(()) => Err(format!("{subject}: the row also holds without it: {}", self.annotations.trim())),
        }
    }
}

fn rows() -> Vec<Row> {
    [ways::rows(), access::rows(), limits::rows(), balance::rows(), upstream::rows(), answers::rows()]
        .concat()
}

/// What is not followed changes nothing: one row for each such annotation.
fn ignored() -> Vec<&'static str> {
    let is_ignored = |support| matches!(support, Support::Ignored(_) | Support::Refused(_));
    CATALOGUE.iter().filter(|entry| is_ignored(entry.support)).map(|entry| entry.name).collect()
}

#[test]
fn every_annotation_has_a_row() {
    let rows = rows();
    let mut played: BTreeSet<_> = rows.iter().map(Row::subject).collect();
    for subject in &played {
        assert!(entry(subject).is_some(), "{subject} is no annotation");
    }
    played.extend(ignored());
    let missing: Vec<_> =
        CATALOGUE.iter().map(|entry| entry.name).filter(|name| !played.contains(name)).collect();
    assert!(missing.is_empty(), "no row over the wire for {missing:?}");
}

#[test]
fn rows_over_the_wire() {
    play_all(&rows(), Row::check);
}

#[test]
fn what_is_not_followed_changes_nothing() {
    let script = "? GET /x\n= 200\n@ web\n> GET /x HTTP/1.1\n< !location\n< !set-cookie\n";
    let rows: Vec<_> = ignored().into_iter().map(|name| row(&format!("{name}: \"true\""), script)).collect();
    play_all(&rows, |row| {
        let subject = row.subject();
        World::new(row, &row.annotations, true).play(&row.play).map_err(|why| format!("{subject}: {why}"))
    });
}

/// Plays rows a few at a time, since some of them wait, and says all that is wrong.
fn play_all(rows: &[Row], check: impl Fn(&Row) -> Result<(), String> + Sync) {
    let next = AtomicUsize::new(0);
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let play = || {
            let mut wrong = Vec::new();
            while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                wrong.extend(check(row).err());
            }
            wrong
        };
        let players: Vec<_> = (0..8).map(|_| scope.spawn(play)).collect();
        players.into_iter().flat_map(|player| player.join().expect("a row panicked")).collect()
    });
    assert!(wrong.is_empty(), "{} rows are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
