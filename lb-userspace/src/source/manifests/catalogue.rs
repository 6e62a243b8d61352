//! The last good content of every file, and the objects they make together.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use super::document::{self, Chunk, Document};
use super::spread::spread;
use super::tree::{Stamp, Tree};
use crate::model::{Issue, IssueReason, ObjectKey, ObjectRef, Severity};
use crate::objects::{self, Object, Objects};

/// Larger files are refused: they are no manifests, and reading them could take all memory.
const MAX_FILE: u64 = 64 << 20;

/// How long after its last change a file may still be half written, in seconds. Until then it is
/// read again even when its stamp is the same, as two writes can fall into one tick of the clock.
const SETTLED: f64 = 0.5;

/// So many files, or documents of a file, are worth a thread: some milliseconds of work.
const LEAST_FILES: usize = 50;
const LEAST_DOCUMENTS: usize = 50;

/// SHA-256.
type Digest = [u8; 32];

/// What is known of the files below a directory.
#[derive(Debug)]
pub struct Catalogue {
    root: PathBuf,
    files: BTreeMap<PathBuf, Content>,
    blocked: BTreeMap<PathBuf, Issue>,
}

/// One file: its objects, each with the line that it starts on.
#[derive(Debug)]
struct Content {
    /// `None` makes the next look read the file again.
    stamp: Option<Stamp>,
    /// Of the text, so that the same is not parsed again; `None` if there was no text to read.
    digest: Option<Digest>,
    objects: Vec<(usize, Object)>,
    issues: Vec<Issue>,
}

/// What a file was found to hold.
enum Look {
    /// What is known.
    Same(Option<Stamp>),
    Other(Content),
}

/// The objects of a text, each with its line, and what is wrong with it.
#[derive(Default)]
struct Read {
    objects: Vec<(usize, Object)>,
    issues: Vec<Issue>,
}

impl Catalogue {
    /// A catalogue of the files below `root` that has not looked yet.
    pub fn new(root: PathBuf) -> Self {
        Self { root, files: BTreeMap::new(), blocked: BTreeMap::new() }
    }

    /// Looks at the directory and reads what has changed. Returns whether anything did.
    ///
    /// # Errors
    /// When the directory itself can't be listed; what is known stays as it is.
    pub fn refresh(&mut self) -> io::Result<bool> {
        let tree = Tree::list(&self.root)?;
        let now = SystemTime::now();
        let mut changed = false;

        let blocked: BTreeMap<_, _> =
            tree.blocked.iter().map(|(path, e)| (path.clone(), self.blocked(path, e))).collect();
        changed |= blocked != self.blocked;
        self.blocked = blocked;
        let hidden = |path: &Path| tree.blocked.keys().any(|b| path.starts_with(b));
        let count = self.files.len();
        self.files.retain(|path, _| tree.files.contains_key(path) || hidden(path));
        changed |= self.files.len() != count;

        let stamps: Vec<_> =
            tree.files.into_iter().filter(|(path, stamp)| self.may_differ(path, stamp, now)).collect();
        let look = |files: &[(PathBuf, Stamp)]| -> Vec<_> {
            files.iter().map(|(path, stamp)| self.look(path, *stamp, now)).collect()
        };
        let looks = spread(&stamps, LEAST_FILES, look).into_iter().flatten();
        // All before the first is kept: looking asks for what was known.
        let looks: Vec<_> = stamps.iter().zip(looks).collect();
        for ((path, _), look) in looks {
            match (look, self.files.get_mut(path)) {
                (Look::Same(stamp), Some(known)) => known.stamp = stamp,
                (Look::Same(_), None) => {}
                (Look::Other(mut content), known) => {
                    if let Some(before) = &known {
                        content.keep_from(before);
                    }
                    changed |= known.is_none_or(|before| !content.same_as(before));
                    self.files.insert(path.clone(), content);
                }
            }
        }
        Ok(changed)
    }

    /// Whether the file has to be read to know what is in it.
    fn may_differ(&self, path: &Path, stamp: &Stamp, now: SystemTime) -> bool {
        let Some(known) = self.files.get(path) else { return true };
        // Many tools empty a file before they write it anew.
        let emptied = stamp.len == 0 && stamp.age(now) < SETTLED && !known.objects.is_empty();
        known.stamp != Some(*stamp) && !emptied
    }

    /// Reads a file.
    fn look(&self, path: &Path, stamp: Stamp, now: SystemTime) -> Look {
        let text = read_text(path);
        let digest = text.as_ref().ok().map(|text| Digest::from(Sha256::digest(text)));
        let stamp = (stamp.age(now) >= SETTLED).then_some(stamp);
        if self.files.get(path).is_some_and(|known| digest.is_some() && known.digest == digest) {
            return Look::Same(stamp);
        }
        let Read { objects, issues } = match text {
            Ok(text) => self.read(path, &text),
            Err(error) => Read { issues: vec![self.blocked(path, &error)], ..Read::default() },
        };
        Look::Other(Content { stamp, digest, objects, issues })
    }

    /// Whether a file changed so lately that it may still be written to.
    pub fn is_unsettled(&self) -> bool {
        self.files.values().any(|content| content.stamp.is_none())
    }

    /// All objects and all that is wrong with the files. Of an object that two files define, the
    /// first counts, in the order of paths.
    pub fn collect(&self) -> (Objects, Vec<Issue>) {
        let mut all = Objects::default();
        let mut issues: Vec<Issue> = self.blocked.values().cloned().collect();
        // Looked for only where something is defined twice.
        let mut places = None;
        for (path, content) in &self.files {
            issues.extend(content.issues.iter().cloned());
            for (line, object) in &content.objects {
                if !all.contains(object.kind(), object.key()) {
                    all.insert(object.clone());
                    continue;
                }
                let name = object.reference();
                let first = &places.get_or_insert_with(|| self.places())[&name];
                issues.push(Issue {
                    severity: Severity::Warning,
                    object: name,
                    reason: IssueReason::Duplicate,
                    field: String::new(),
                    message: format!(
                        "{}:{line} defines it again; {first} is what counts, remove one of them.",
                        self.shown(path),
                    ),
                });
            }
        }
        issues.sort();
        (all, issues)
    }

    /// Where each object stands first.
    fn places(&self) -> BTreeMap<ObjectRef, String> {
        let mut places = BTreeMap::new();
        for (path, content) in &self.files {
            for (line, object) in &content.objects {
                places.entry(object.reference()).or_insert_with(|| format!("{}:{line}", self.shown(path)));
            }
        }
        places
    }

    fn read(&self, path: &Path, text: &str) -> Read {
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) {
            return self.parse(path, document::read_json(text));
        }
        let chunks = document::cut_yaml(text);
        let parse = |part: &[Chunk<'_>]| self.parse(path, part.iter().filter_map(document::read_yaml));
        let parts = spread(&chunks, LEAST_DOCUMENTS, parse);
        let mut all = Read::default();
        for part in parts {
            all.objects.extend(part.objects);
            all.issues.extend(part.issues);
        }
        all.objects.shrink_to_fit();
        all
    }

    /// The objects of documents, one after the other: a document takes twenty times the memory of what
    /// is kept of it.
    fn parse(&self, path: &Path, documents: impl IntoIterator<Item = Document>) -> Read {
        let mut read = Read::default();
        for Document { line, value } in documents {
            let place = format!("{}:{line}", self.shown(path));
            match value {
                Ok(value) => {
                    let parsed = objects::parse(value, &place);
                    read.issues.extend(parsed.issues.into_iter().map(|issue| located(issue, &place)));
                    read.objects.extend(parsed.objects.into_iter().map(|object| (line, object)));
                }
                Err(cause) => read.issues.push(unreadable(
                    place,
                    format!("can't be read: {cause}; correct it. What can be read of the file is served."),
                )),
            }
        }
        read
    }

    fn blocked(&self, path: &Path, error: &io::Error) -> Issue {
        unreadable(
            self.shown(path),
            format!("can't be read: {error}; what it last held, if anything, is served on."),
        )
    }

    fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }
}

impl Content {
    /// Takes over what is the same, so that readers see the very same objects. When this version
    /// has errors, also takes over the objects that are gone: they may be the very ones that can't
    /// be read.
    fn keep_from(&mut self, before: &Self) {
        let mut known: BTreeMap<ObjectRef, &(usize, Object)> =
            before.objects.iter().map(|entry| (entry.1.reference(), entry)).collect();
        for (_, object) in &mut self.objects {
            if let Some((_, same)) = known.remove(&object.reference())
                && same == object
            {
                *object = same.clone();
            }
        }
        if self.issues.iter().any(|issue| issue.severity == Severity::Error) {
            self.objects.extend(known.into_values().cloned());
        }
    }

    fn same_as(&self, other: &Self) -> bool {
        self.objects == other.objects && self.issues == other.issues
    }
}

/// The whole text of a file.
fn read_text(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    let expected = usize::try_from(file.metadata()?.len().min(MAX_FILE)).unwrap_or_default();
    // One more, for the read that finds the end.
    let mut bytes = Vec::with_capacity(expected + 1);
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    let problem = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    if bytes.len() as u64 > MAX_FILE {
        return Err(problem(format!("it is larger than {} MiB; split it", MAX_FILE >> 20)));
    }
    String::from_utf8(bytes).map_err(|e| {
        let valid = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|b| **b == b'\n').count() + 1;
        problem(format!("line {line} is not UTF-8 text"))
    })
}

fn unreadable(place: String, message: String) -> Issue {
    let object = ObjectRef { kind: "File", key: ObjectKey::new("", place) };
    Issue {
        severity: Severity::Error,
        object,
        reason: IssueReason::Unreadable,
        field: String::new(),
        message,
    }
}

/// Adds to an issue of an object where the object is written.
fn located(mut issue: Issue, place: &str) -> Issue {
    if issue.object.kind != "File" {
        issue.message = format!("{} ({place})", issue.message);
    }
    issue
}
