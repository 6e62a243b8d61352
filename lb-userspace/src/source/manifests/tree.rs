//! Which files of a directory hold manifests, and how to see that one changed.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What tells two versions of a file apart without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Length in bytes.
    pub len: u64,
    device: u64,
    inode: u64,
    modified: (i64, i64),
    // Tools that put the modification time back can't put this one back.
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of a file.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            len: metadata.len(),
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Seconds since the file last changed, by the wall clock; 0 for times in the future.
    pub fn age(&self, now: SystemTime) -> f64 {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        (now - (self.changed.0 as f64 + self.changed.1 as f64 / 1e9)).max(0.0)
    }
}

/// The manifests below a directory.
#[derive(Debug, Default)]
pub struct Tree {
    /// Files by path, in the order in which they are read.
    pub files: BTreeMap<PathBuf, Stamp>,
    /// What could not be looked at: files or directories, with all that is below them.
    pub blocked: BTreeMap<PathBuf, io::Error>,
}

impl Tree {
    /// Lists `*.yaml`, `*.yml` and `*.json` below `root`, following symbolic links.
    ///
    /// Names that start with a dot are passed over. That is how a mounted ConfigMap hides its
    /// `..data` and `..<timestamp>` directories; its visible names are links into them.
    ///
    /// # Errors
    /// When `root` itself is no readable directory. What is wrong further down is in `blocked`.
    pub fn list(root: &Path) -> io::Result<Self> {
        let mut tree = Self::default();
        let metadata = fs::metadata(root)?;
        let entries = fs::read_dir(root)?;
        tree.descend(root, entries, &mut vec![(metadata.dev(), metadata.ino())]);
        Ok(tree)
    }

    /// `above` holds device and inode of the directories on the way here: a link back to one of
    /// them is a loop.
    fn descend(&mut self, directory: &Path, entries: fs::ReadDir, above: &mut Vec<(u64, u64)>) {
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                // What the rest of the listing would have held is unknown, not gone.
                Err(e) => {
                    self.blocked.insert(directory.to_owned(), e);
                    return;
                }
            };
            let (name, path) = (entry.file_name(), entry.path());
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let wanted = is_manifest(&path);
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => {
                    let identity = (metadata.dev(), metadata.ino());
                    if above.contains(&identity) {
                        continue;
                    }
                    match fs::read_dir(&path) {
                        Ok(entries) => {
                            above.push(identity);
                            self.descend(&path, entries, above);
                            above.pop();
                        }
                        Err(e) => drop(self.blocked.insert(path, e)),
                    }
                }
                Ok(metadata) if metadata.is_file() && wanted => {
                    self.files.insert(path, Stamp::of(&metadata));
                }
                // Opening a named pipe would wait for a writer.
                Ok(_) if wanted => {
                    let error = io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file");
                    self.blocked.insert(path, error);
                }
                // Of another name it may be a directory: only what surely isn't there is passed over.
                Err(e) if wanted || e.kind() != io::ErrorKind::NotFound => {
                    self.blocked.insert(path, e);
                }
                _ => {}
            }
        }
    }
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    ["yaml", "yml", "json"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn lists_what_kubectl_would_apply() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path();
        for (path, is_file) in [
            ("b.yaml", true),
            ("a.yml", true),
            ("c.json", true),
            ("UPPER.YAML", true),
            ("notes.txt", true),
            ("no-extension", true),
            (".hidden.yaml", true),
            ("b.yaml~", true),
            ("sub/deep/d.yaml", true),
            (".git/e.yaml", true),
            ("..2024_01/mounted.yaml", true),
            ("empty.yaml.d", false),
        ] {
            let path = root.join(path);
            if is_file {
                fs::create_dir_all(path.parent().expect("has a parent")).expect("mkdir");
                fs::write(path, "").expect("write");
            } else {
                fs::create_dir_all(path).expect("mkdir");
            }
        }
        symlink("..2024_01", root.join("..data")).expect("link");
        symlink("..data/mounted.yaml", root.join("mounted.yaml")).expect("link");
        symlink("..", root.join("sub/loop")).expect("link");
        symlink("nowhere", root.join("dangling.yaml")).expect("link");
        symlink("/dev/null", root.join("device.yaml")).expect("link");

        let tree = Tree::list(root).expect("readable");
        let shown = |paths: Vec<&PathBuf>| -> Vec<String> {
            let relative = |p: &&PathBuf| p.strip_prefix(root).expect("below").display().to_string();
            paths.iter().map(relative).collect()
        };
        assert_eq!(
            shown(tree.files.keys().collect()),
            ["UPPER.YAML", "a.yml", "b.yaml", "c.json", "mounted.yaml", "sub/deep/d.yaml"]
        );
        assert_eq!(shown(tree.blocked.keys().collect()), ["dangling.yaml", "device.yaml"]);
        assert!(Tree::list(&root.join("missing")).is_err());
        assert!(Tree::list(&root.join("b.yaml")).is_err());
    }
}
