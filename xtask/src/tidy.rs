//! Rules that no compiler checks: who may import whom, where `unsafe` may be, how long a file may get.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// More lines than one sitting holds.
const LONGEST_FILE: usize = 700;

/// The layers of lb-userspace with the modules each may import, its own besides. `app` and the
/// binary tie everything together and may import all.
const LAYERS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("route", &["model"]),
    ("objects", &["model"]),
    ("translate", &["model", "objects", "route"]),
    ("migrate", &["model", "objects", "route", "translate"]),
    ("dataplane", &["model"]),
    ("dataplane::kernel", &["model", "dataplane"]),
    ("proxy", &["model", "route"]),
    ("backoff", &[]),
    ("source", &["backoff", "model", "objects"]),
    ("status", &["backoff", "model", "objects", "translate"]),
];

/// Where each foreign crate may be named inside lb-userspace.
const CRATES: &[(&str, &[&str])] = &[
    ("k8s_openapi", &["objects", "translate", "migrate", "source", "status"]),
    ("kube", &["source", "status", "app"]),
    ("aya", &["dataplane::kernel"]),
    ("aya_log", &["dataplane::kernel"]),
    ("hyper", &["proxy", "app", "source"]),
];

/// Modules that do no I/O: neither a runtime nor a clock nor the network.
const PURE: &[&str] = &["model", "route", "objects", "translate", "migrate", "dataplane"];
const IMPURE_PATHS: &[&str] =
    &["tokio", "std::fs", "std::net::TcpStream", "std::time::Instant", "std::time::SystemTime", "std::env"];

/// Something that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    file: PathBuf,
    /// Counted from 1.
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

/// Checks all Rust sources under `root`; fails with all findings.
pub fn run(root: &Path) -> Result<()> {
    let mut findings = Vec::new();
    let mut files = Vec::new();
    for directory in ["lb-common", "lb-ebpf", "lb-userspace", "xtask"] {
        sources(&root.join(directory), &mut files)?;
    }
    for path in &files {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        check(path.strip_prefix(root).unwrap_or(path), &text, &mut findings);
    }
    for finding in &findings {
        eprintln!("{finding}");
    }
    match findings.len() {
        0 => eprintln!("tidy: {} files keep the rules", files.len()),
        count => bail!("tidy: {count} findings; the rules are in xtask/src/tidy.rs"),
    }
    Ok(())
}

fn sources(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            sources(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Checks one file; `file` is relative to the workspace.
fn check(file: &Path, text: &str, findings: &mut Vec<Finding>) {
    let mut find = |line, what: String| findings.push(Finding { file: file.to_owned(), line, what });
    let count = text.lines().count();
    if count > LONGEST_FILE {
        find(count, format!("{count} lines; split by concept, {LONGEST_FILE} is the most"));
    }
    let module = file.strip_prefix("lb-userspace/src").ok().and_then(module_of);
    // Tests inside a file may use anything: they tie layers together on purpose.
    let code_ends = text.find("#[cfg(test)]").unwrap_or(text.len());
    for (number, code) in statements(&text[..code_ends]) {
        if let Some(module) = &module {
            imports(module, &code, &mut |what| find(number, what));
        }
    }
    for (number, line) in (1..).zip(text[..code_ends].lines()) {
        let code = line.split("//").next().unwrap_or_default();
        if has_word(code, "unsafe") && !unsafe_is_fine(file, code) {
            find(number, "`unsafe` belongs to lb-ebpf and to the Pod impls of lb-common".into());
        }
    }
    for (number, line) in (1..).zip(text.lines()) {
        // Split so that this file does not find itself.
        for words in [
            concat!("to", "do!("),
            concat!("unimple", "mented!("),
            concat!("/ho", "me/"),
            concat!("/ro", "ot/"),
        ] {
            if line.contains(words) {
                find(number, format!("{words} must not stay in the sources"));
            }
        }
    }
}

/// The lines without comments; one that opens an import list comes with the lines up to the list's end.
fn statements(text: &str) -> Vec<(usize, String)> {
    let mut all: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (number, line) in (1..).zip(text.lines()) {
        let code = line.split("//").next().unwrap_or_default();
        match all.last_mut() {
            Some((_, statement)) if open => statement.push_str(code),
            _ => all.push((number, code.to_owned())),
        }
        open = all.last().is_some_and(|(_, statement)| {
            let list = statement.find("use ").and_then(|at| statement[at..].find("::{"));
            list.is_some() && statement.matches('{').count() > statement.matches('}').count()
        });
    }
    all
}

/// `proxy::upstream` for `proxy/upstream.rs`; `None` for lib.rs, main.rs and the layers above all rules.
fn module_of(path: &Path) -> Option<String> {
    let parts: Vec<_> = path.with_extension("").iter().map(|p| p.to_string_lossy().into_owned()).collect();
    let parts = if parts.last().is_some_and(|p| p == "mod") { &parts[..parts.len() - 1] } else { &parts };
    let module = parts.join("::");
    (!matches!(module.as_str(), "lib" | "main")).then_some(module)
}

/// The rules of layers and crates for one line of `module`.
fn imports(module: &str, code: &str, find: &mut dyn FnMut(String)) {
    if let Some((layer, allowed)) = layer_of(module) {
        for target in crate_paths(code) {
            let own = inside(&target, layer) || layer.starts_with(&format!("{target}::"));
            // dataplane::kernel lies above the rest of dataplane.
            let upwards = inside(&target, "dataplane::kernel") && *layer != "dataplane::kernel";
            if upwards || !(own || allowed.iter().any(|&a| inside(&target, a))) {
                find(format!("`{layer}` may not import `crate::{target}`: nobody imports upwards"));
            }
        }
    }
    for (name, places) in CRATES {
        let named = names_crate(code, name);
        if named && !places.iter().any(|place| inside(module, place)) {
            find(format!("`{name}` is only for {}", places.join(", ")));
        }
    }
    let pure = PURE.iter().any(|p| inside(module, p)) && !inside(module, "dataplane::kernel");
    for path in IMPURE_PATHS.iter().filter(|path| pure && names_crate(code, path)) {
        find(format!("`{path}` in `{module}`, which is pure: take it as an argument"));
    }
}

/// The most specific layer that `module` belongs to.
fn layer_of(module: &str) -> Option<&'static (&'static str, &'static [&'static str])> {
    LAYERS.iter().filter(|(layer, _)| inside(module, layer)).max_by_key(|(layer, _)| layer.len())
}

/// Whether the path `inner` is `outer` or below it.
fn inside(inner: &str, outer: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The paths after `crate::` in a line, braces opened: `crate::{a::B, c}` gives `a::B` and `c`.
fn crate_paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        // `$crate::` and `lb_crate::` are other things.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => paths.extend(top_level(list)),
            None => paths.push(leading_path(rest)),
        }
    }
    paths.retain(|path| !path.is_empty());
    paths
}

/// The paths of an opened brace list, at its own depth.
fn top_level(list: &str) -> Vec<String> {
    let (mut depth, mut start, mut paths) = (0, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                paths.push(leading_path(list[start..at].trim()));
                return paths;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                paths.push(leading_path(list[start..at].trim()));
                start = at + 1;
            }
            _ => {}
        }
    }
    paths.push(leading_path(list[start..].trim()));
    paths
}

fn leading_path(text: &str) -> String {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len());
    text[..end].trim_end_matches(':').to_owned()
}

/// Whether a line names a path that starts with `name`: `use name`, `name::…`.
fn names_crate(code: &str, name: &str) -> bool {
    let starts = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
    let after = |at: usize| &code[at + name.len()..];
    code.match_indices(name).any(|(at, _)| {
        let used = code.trim_start().trim_start_matches("pub ").starts_with("use ");
        let end = !after(at).starts_with(|c: char| c.is_alphanumeric() || c == '_');
        starts(at) && end && (after(at).starts_with("::") || used)
    })
}

fn has_word(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let quoted = code[..at].matches('"').count() % 2 == 1;
        !quoted
            && !code[..at].ends_with(part)
            && !code[at + word.len()..].starts_with(part)
            && !code[..at].ends_with('`')
    })
}

/// lb-ebpf works on raw kernel memory; lb-common only asserts that its map types are plain data.
fn unsafe_is_fine(file: &Path, code: &str) -> bool {
    file.starts_with("lb-ebpf")
        || file.starts_with("lb-common") && code.contains("unsafe impl") && code.contains("Pod for")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check(Path::new(file), text, &mut findings);
        findings.iter().map(|f| format!("{} {}", f.line, f.what)).collect()
    }

    #[test]
    fn breaches_are_found() {
        for (file, text, expect) in [
            (
                "lb-userspace/src/model/route.rs",
                "use crate::route::Target;",
                "1 `model` may not import `crate::route",
            ),
            (
                "lb-userspace/src/model/mod.rs",
                "\nfn f(x: crate::proxy::Proxy) {}",
                "2 `model` may not import",
            ),
            (
                "lb-userspace/src/route/table.rs",
                "use crate::{model::Route, proxy::Stats};",
                "1 `route` may not import `crate::proxy::Stats",
            ),
            ("lb-userspace/src/proxy/worker.rs", "use crate::app::Cli;", "1 `proxy` may not import"),
            (
                "lb-userspace/src/proxy/worker.rs",
                "\nuse crate::{\n    model::Route,\n    app::{Cli, Run},\n};",
                "2 `proxy` may not import `crate::app",
            ),
            ("lb-userspace/src/proxy/mod.rs", "use crate::dataplane::kernel::Counters;", "1 `proxy` may not"),
            (
                "lb-userspace/src/dataplane/image.rs",
                "use crate::dataplane::kernel::Maps;",
                "1 `dataplane` may not",
            ),
            ("lb-userspace/src/dataplane/image.rs", "use aya::maps::Map;", "1 `aya` is only for"),
            (
                "lb-userspace/src/route/mod.rs",
                "use k8s_openapi::api::core::v1::Pod;",
                "1 `k8s_openapi` is only",
            ),
            ("lb-userspace/src/proxy/mod.rs", "let x = kube::Client::new();", "1 `kube` is only for"),
            (
                "lb-userspace/src/translate/mod.rs",
                "let now = std::time::SystemTime::now();",
                "1 `std::time::SystemTime` in",
            ),
            ("lb-userspace/src/objects/mod.rs", "use tokio::sync::watch;", "1 `tokio` in"),
            ("lb-userspace/src/proxy/mod.rs", "let x = unsafe { y() };", "1 `unsafe` belongs"),
            ("lb-common/src/packet.rs", "let x = unsafe { y() };", "1 `unsafe` belongs"),
            ("xtask/src/main.rs", concat!("fn f() { to", "do!() }"), "1 to"),
            ("xtask/src/main.rs", concat!("let p = \"/ho", "me/me/x\";"), "1 /ho"),
        ] {
            let found = found(file, text);
            assert!(found.len() == 1 && found[0].starts_with(expect), "{file}: {text}: {found:?}");
        }
        let long = "\n".repeat(LONGEST_FILE + 1);
        assert_eq!(found("lb-common/src/lib.rs", &long).len(), 1);
    }

    #[test]
    fn what_is_allowed_is_not_found() {
        for (file, text) in [
            (
                "lb-userspace/src/app/mod.rs",
                "use crate::{dataplane::kernel::Dataplane, proxy::Proxy};\nuse kube::Client;",
            ),
            ("lb-userspace/src/main.rs", "use sluice::app;"),
            (
                "lb-userspace/src/proxy/mod.rs",
                "use crate::model::{Route, Snapshot};\nuse crate::proxy::stats::Stats;",
            ),
            ("lb-userspace/src/proxy/mod.rs", "use crate::{\n    model::Route,\n};"),
            (
                "lb-userspace/src/dataplane/kernel/maps.rs",
                "use crate::dataplane::image::MapImage;\nuse aya::maps::Map;",
            ),
            ("lb-userspace/src/dataplane/mod.rs", "pub mod kernel;"),
            (
                "lb-userspace/src/route/mod.rs",
                "use crate::model::Route;\n#[cfg(test)]\nmod tests { use crate::translate::translate; }",
            ),
            (
                "lb-userspace/src/model/mod.rs",
                "/// Not `crate::proxy`, and nothing unsafe.\nuse std::time::Duration;",
            ),
            ("lb-ebpf/src/main.rs", "let x = unsafe { *ptr };"),
            ("lb-common/src/maps.rs", "unsafe impl aya::Pod for VipKey {}"),
            ("lb-userspace/src/lib.rs", "#![forbid(unsafe_code)]"),
        ] {
            assert_eq!(found(file, text), Vec::<String>::new(), "{file}: {text}");
        }
    }

    #[test]
    fn modules_have_the_names_of_their_files() {
        for (path, expect) in [
            ("proxy/mod.rs", Some("proxy")),
            ("dataplane/kernel/maps.rs", Some("dataplane::kernel::maps")),
            ("route.rs", Some("route")),
            ("lib.rs", None),
            ("main.rs", None),
        ] {
            assert_eq!(module_of(Path::new(path)).as_deref(), expect, "{path}");
        }
    }
}
