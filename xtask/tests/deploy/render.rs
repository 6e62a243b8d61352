//! What helm and kubectl make of the chart and the kustomizations: the real ones, from `setup`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// Objects by kind and name. Namespaces are left out: helm gives objects theirs when it installs.
pub type Objects = BTreeMap<(String, String), Value>;

pub fn deploy() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy"))
}

/// Standard output, or standard error if it fails.
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Result<String, String> {
    let binary = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools/bin")).join(program);
    let output = Command::new(&binary).args(arguments).current_dir(deploy()).output();
    let output =
        output.unwrap_or_else(|e| panic!("{}: {e}; `cargo xtask setup` installs it", binary.display()));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// `kubectl kustomize`.
pub fn kustomize(directory: &str) -> Objects {
    objects(&run("kubectl", &["kustomize", directory]).unwrap_or_else(|e| panic!("{directory}: {e}")))
}

/// `helm template` of a release named sluice, with `--set` for each of `values`.
pub fn helm(values: &[&str]) -> Result<Objects, String> {
    let mut arguments = vec!["template", "sluice", "helm/sluice", "--namespace", "sluice-system"];
    arguments.extend(values.iter().flat_map(|value| ["--set-json", value]));
    run("helm", &arguments).map(|text| objects(&text))
}

/// The one object of a kind.
pub fn one<'a>(objects: &'a Objects, kind: &str) -> &'a Value {
    let mut of_kind = objects.iter().filter(|((k, _), _)| k == kind);
    let found = of_kind.next().unwrap_or_else(|| panic!("no {kind} in {:?}", objects.keys()));
    assert!(of_kind.next().is_none(), "more than one {kind}");
    found.1
}

fn objects(text: &str) -> Objects {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).expect("YAML");
    let documents = documents.into_iter().filter(|document| !document.is_null());
    let mut objects = Objects::new();
    for mut document in documents {
        let metadata = document["metadata"].as_object_mut().expect("metadata");
        metadata.remove("namespace");
        let name = metadata["name"].as_str().expect("a name").to_owned();
        let kind = document["kind"].as_str().expect("a kind").to_owned();
        assert!(objects.insert((kind, name.clone()), document).is_none(), "{name} twice");
    }
    objects
}
