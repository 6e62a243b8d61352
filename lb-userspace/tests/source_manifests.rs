//! The manifest directory, from files to updates: what is good is served, what is bad is named,
//! and nothing good is lost on the way.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use sluice::model::IssueReason;
use sluice::source::manifests::{load, watch};
use sluice::source::{Health, Update};
use tokio::sync::watch::Receiver;

/// Only keeps a broken test from hanging.
const DEADLINE: Duration = Duration::from_secs(60);

fn ingress(name: &str, host: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}}}\nspec:\n  rules:\n  \
         - host: {host}\n    http:\n      paths:\n      - path: /\n        pathType: Prefix\n        \
         backend: {{service: {{name: {name}, port: {{number: 80}}}}}}\n"
    )
}

fn names(update: &Update) -> Vec<String> {
    update.objects.ingresses.keys().map(|key| key.name.to_string()).collect()
}

fn put(dir: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().expect("has a parent")).expect("mkdir");
        fs::write(path, text).expect("write");
    }
}

/// Waits until exactly `expect` is known and `issues` issues are told.
async fn until(updates: &mut Receiver<Update>, what: &str, expect: &[&str], issues: usize) -> Update {
    let done = |u: &Update| names(u) == expect && u.issues.len() == issues && u.health.is_ok();
    let found = tokio::time::timeout(DEADLINE, updates.wait_for(done)).await.map(|r| r.map(|u| u.clone()));
    match found {
        Ok(Ok(update)) => update,
        _ => {
            let last = updates.borrow();
            panic!("{what}: {:?} {:#?} {:?}", names(&last), last.issues, last.health)
        }
    }
}

#[test]
fn what_is_good_is_served_and_what_is_bad_is_named() {
    let (a, b) = (&*ingress("a", "a.example"), &*ingress("b", "b.example"));
    let both = &*format!("{a}---\n{b}");
    let broken = &*format!("{a}---\nkind: [\n---\n{b}");
    let wrong = &*format!("{a}---\n{}", b.replace("rules:\n", "rules: 7\n  x:\n"));
    let list = &*format!("apiVersion: v1\nkind: List\nitems:\n- {}", a.trim_end().replace('\n', "\n  "));
    let again = &*ingress("a", "other.example");
    for (what, files, expect, issues) in [
        ("empty", &[][..], &[][..], &[][..]),
        ("one", &[("a.yaml", a)], &["a"], &[]),
        ("two documents", &[("a.yaml", both)], &["a", "b"], &[]),
        ("two files", &[("x/a.yaml", a), ("x/y/b.yml", b)], &["a", "b"], &[]),
        ("list", &[("a.yaml", list)], &["a"], &[]),
        ("a bad document", &[("a.yaml", broken)], &["a", "b"], &["File a.yaml:"]),
        ("a bad file", &[("a.yaml", a), ("b.yaml", "a: b: c\n")], &["a"], &["File b.yaml:1"]),
        ("a bad field", &[("a.yaml", wrong)], &["a"], &["a.yaml:"]),
        ("bad JSON", &[("a.yaml", a), ("b.json", "{\n]")], &["a"], &["File b.json:2"]),
        ("no object", &[("a.yaml", a), ("b.yaml", "hello\n")], &["a"], &["b.yaml:1"]),
        ("twice", &[("a.yaml", a), ("b.yaml", again)], &["a"], &["b.yaml:1 defines it again; a.yaml:1"]),
        ("empty file", &[("a.yaml", a), ("b.yaml", "")], &["a"], &[]),
    ] {
        let dir = tempfile::tempdir().expect("temporary directory");
        put(dir.path(), files);
        let (objects, found) = load(dir.path()).expect("readable");
        let names: Vec<_> = objects.ingresses.keys().map(|key| &*key.name).collect();
        assert_eq!(names, expect, "{what}: {found:#?}");
        assert_eq!(found.len(), issues.len(), "{what}: {found:#?}");
        for (issue, part) in found.iter().zip(issues) {
            assert!(issue.to_string().contains(part), "{what}: {issue}");
        }
        let specs = objects.ingresses.values().map(|ingress| &ingress.spec);
        let others = specs.filter(|spec| format!("{spec:?}").contains("other.example")).count();
        assert_eq!(others, 0, "{what}: the first definition counts");
    }
}

#[test]
fn files_that_are_no_text() {
    let dir = tempfile::tempdir().expect("temporary directory");
    put(dir.path(), &[("a.yaml", &ingress("a", "a.example"))]);
    fs::write(dir.path().join("b.yaml"), b"a: b\nc: \xff\n").expect("write");
    fs::File::create(dir.path().join("c.yaml")).and_then(|f| f.set_len((64 << 20) + 1)).expect("sparse");
    symlink("missing", dir.path().join("d.yaml")).expect("link");
    let (objects, issues) = load(dir.path()).expect("readable");
    assert_eq!(objects.ingresses.len(), 1);
    let told: Vec<String> = issues.iter().map(ToString::to_string).collect();
    for (issue, parts) in told.iter().zip([
        ["b.yaml", "line 2 is not UTF-8"],
        ["c.yaml", "64 MiB"],
        ["d.yaml", "can't be read"],
    ]) {
        assert!(parts.iter().all(|part| issue.contains(part)), "{issue}");
    }
    assert_eq!(told.len(), 3, "{told:#?}");
    assert!(issues.iter().all(|issue| issue.reason == IssueReason::Unreadable));
}

#[test]
fn a_missing_directory_is_named() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let missing = dir.path().join("missing");
    for error in [
        load(&missing).map(drop).expect_err("missing"),
        watch(missing.clone()).map(drop).expect_err("missing"),
    ] {
        assert!(error.to_string().contains(missing.to_str().expect("UTF-8")), "{error}");
    }
}

#[tokio::test]
async fn follows_changes_and_never_loses_what_was_good() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let root = dir.path().join("manifests");
    let (a, b) = (ingress("a", "a.example"), ingress("b", "b.example"));
    put(&root, &[("a.yaml", &a)]);
    let mut updates = watch(root.clone()).expect("readable");
    until(&mut updates, "start", &["a"], 0).await;
    assert!(updates.borrow().synced);

    put(&root, &[("sub/b.yaml", &b)]);
    let with_b = until(&mut updates, "a new file in a new directory", &["a", "b"], 0).await;
    put(&root, &[("sub/b.yaml", "kind: [\n")]);
    let bad = until(&mut updates, "a file turns bad", &["a", "b"], 1).await;
    let first = |u: &Update| u.objects.ingresses.values().next().cloned().expect("a");
    assert!(std::sync::Arc::ptr_eq(&first(&with_b), &first(&bad)), "unchanged files are not read again");
    put(&root, &[("sub/b.yaml", &format!("{}---\nkind: [\n", ingress("c", "c.example")))]);
    until(&mut updates, "half of it turns good", &["a", "b", "c"], 1).await;
    put(&root, &[("sub/b.yaml", &b)]);
    until(&mut updates, "mended", &["a", "b"], 0).await;
    fs::write(root.join(".new"), ingress("d", "d.example")).expect("write");
    fs::rename(root.join(".new"), root.join("sub/b.yaml")).expect("rename");
    until(&mut updates, "replaced", &["a", "d"], 0).await;
    fs::remove_file(root.join("a.yaml")).expect("remove");
    until(&mut updates, "removed", &["d"], 0).await;

    let away = dir.path().join("away");
    fs::rename(&root, &away).expect("rename");
    let told =
        |u: &Update| matches!(&u.health, Health::Degraded { reason, .. } if reason.contains("manifests"));
    let gone =
        tokio::time::timeout(DEADLINE, updates.wait_for(told)).await.expect("in time").expect("runs").clone();
    assert_eq!(names(&gone), ["d"], "the last good state stays");
    put(&root, &[("e.yaml", &ingress("e", "e.example"))]);
    until(&mut updates, "another directory in its place", &["e"], 0).await;
    put(&root, &[("e.yaml", &ingress("f", "f.example"))]);
    until(&mut updates, "and it is followed", &["f"], 0).await;
}

#[tokio::test]
async fn follows_a_mounted_config_map() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let root = dir.path();
    put(root, &[("..1/a.yaml", &ingress("a", "a.example"))]);
    symlink("..1", root.join("..data")).expect("link");
    symlink("..data/a.yaml", root.join("a.yaml")).expect("link");
    let mut updates = watch(root.to_owned()).expect("readable");
    until(&mut updates, "start", &["a"], 0).await;
    put(root, &[("..2/a.yaml", &ingress("b", "b.example"))]);
    symlink("..2", root.join("..tmp")).expect("link");
    fs::rename(root.join("..tmp"), root.join("..data")).expect("rename");
    fs::remove_dir_all(root.join("..1")).expect("remove");
    until(&mut updates, "swapped", &["b"], 0).await;
}

#[test]
fn five_thousand_ingresses_in_one_file_and_in_many() {
    let texts: Vec<String> = (0..5000).map(|i| ingress(&format!("i{i}"), &format!("h{i}.example"))).collect();
    let dir = tempfile::tempdir().expect("temporary directory");
    put(dir.path(), &[("all.yaml", &texts.join("---\n"))]);
    assert_eq!(load(dir.path()).expect("readable").0.ingresses.len(), 5000);
    let items: Vec<String> =
        texts.iter().map(|t| format!("- {}\n", t.trim_end().replace('\n', "\n  "))).collect();
    put(dir.path(), &[("all.yaml", &format!("apiVersion: v1\nkind: List\nitems:\n{}", items.concat()))]);
    let (objects, issues) = load(dir.path()).expect("readable");
    assert_eq!((objects.ingresses.len(), issues.len()), (5000, 0), "{:?}", issues.first());
    fs::remove_file(dir.path().join("all.yaml")).expect("remove");
    for (i, text) in texts.iter().enumerate() {
        put(dir.path(), &[(&format!("{i}.yaml"), text)]);
    }
    assert_eq!(load(dir.path()).expect("readable").0.ingresses.len(), 5000);
}
