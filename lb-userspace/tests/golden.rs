//! Golden pairs: `golden/CASE/in.yaml` → `golden/CASE/out.snap`.
//!
//! A case is a directory. Its documents are read as a manifest directory's are; comment lines
//! `#! name: value` at the top change settings. `CERT(name)` and `KEY(name)` stand for PEM that is
//! made anew in each run, see [`site`]. Snapshots hold names and dates only, so they stay the same.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::LazyLock;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::Value;
use sluice::model::{
    ClusterKey, Compat, Listener, ObjectKey, PortRef, Protocol, Snapshot, SniMode, Transport, Vip,
};
use sluice::objects::{Objects, parse};
use sluice::translate::annotations::CATALOGUE;
use sluice::translate::{Settings, UnknownClass, translate};

/// 2026-06-01, when all cases play.
const NOW: i64 = 1_780_272_000;

#[test]
fn golden() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<_> = std::fs::read_dir(&root)
        .expect("tests/golden is there")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    assert!(cases.len() >= 15, "only {} cases were found", cases.len());
    for case in cases {
        let name = case.file_name().expect("named").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(case.join("in.yaml")).unwrap_or_else(|e| panic!("{name}: {e}"));
        let settings = settings(&text);
        let documents = documents(&text);

        let forward = run(documents.iter().cloned(), &settings, &Snapshot::empty());
        let backward = run(documents.iter().rev().cloned(), &settings, &Snapshot::empty());
        let again = run(documents.iter().cloned(), &settings, &forward);
        assert_eq!(yaml(&forward), yaml(&backward), "{name}: the order of documents must not matter");
        assert_eq!(again.generation, forward.generation, "{name}: the same input is the same generation");

        insta::with_settings!({
            snapshot_path => &case,
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, { insta::assert_yaml_snapshot!("out", forward) });
    }
}

/// Whoever adds an annotation adds the pair that shows what it comes to.
#[test]
fn every_annotation_has_a_pair() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let cases = std::fs::read_dir(&root).expect("tests/golden is there");
    let texts = cases.filter_map(|case| std::fs::read_to_string(case.ok()?.path().join("in.yaml")).ok());
    let documents: Vec<Value> = texts.flat_map(|text| documents(&text)).collect();
    let ingresses = documents.iter().filter(|document| document["kind"] == "Ingress");
    let annotations = ingresses.filter_map(|ingress| ingress["metadata"]["annotations"].as_object());
    let names = annotations.flat_map(|all| all.keys()).filter_map(|full| full.split_once('/'));
    let used: BTreeSet<_> = names
        .filter(|(prefix, _)| ["nginx.ingress.kubernetes.io", "sluice.dev"].contains(prefix))
        .map(|(_, name)| name)
        .collect();
    let missing: Vec<_> =
        CATALOGUE.iter().map(|entry| entry.name).filter(|name| !used.contains(name)).collect();
    assert!(missing.is_empty(), "in no tests/golden/*/in.yaml: {missing:?}");
}

fn run(documents: impl Iterator<Item = Value>, settings: &Settings, previous: &Snapshot) -> Snapshot {
    let (mut objects, mut issues) = (Objects::default(), Vec::new());
    for document in documents {
        let parsed = parse(document, "in.yaml");
        issues.extend(parsed.issues);
        for object in parsed.objects {
            assert!(objects.insert(object), "a case has each object once");
        }
    }
    translate(&objects, settings, &issues, NOW, previous)
}

fn yaml(snapshot: &Snapshot) -> Value {
    serde_json::to_value(snapshot).expect("serialises")
}

/// A case's own settings on top of those of manifest-directory mode.
fn settings(text: &str) -> Settings {
    let mut settings =
        Settings { unknown_class: UnknownClass::Serve, serve_classless: true, ..Settings::default() };
    for line in text.lines().map_while(|line| line.strip_prefix("#! ")) {
        let (name, value) = line.split_once(": ").expect("`#! name: value`");
        let pair = |text: &str| {
            let (a, b) = text.split_once('/').expect("namespace/name");
            ObjectKey::new(a, b)
        };
        match name {
            "adopt" => settings.adopt.push(value.into()),
            "strict" => (settings.unknown_class, settings.serve_classless) = (UnknownClass::Ignore, false),
            "compat" if value == "ingress-nginx" => settings.compat = Compat::IngressNginx,
            "config-map" => settings.config_map = Some(pair(value)),
            "zone" => settings.zone = Some(value.into()),
            "node" => settings.node = Some(value.into()),
            "listen" => {
                let address: SocketAddr = value.parse().expect("address:port");
                settings.listeners.push(Listener {
                    vip: Vip { address: address.ip(), port: address.port(), transport: Transport::Tcp },
                    protocol: Protocol::Http,
                    sni: SniMode::Off,
                });
            }
            "default-backend" => {
                let (service, port) = value.split_once(':').expect("namespace/name:port");
                let port = PortRef::Number(port.parse().expect("a port"));
                settings.default_backend = Some(ClusterKey::new(pair(service), port));
            }
            "default-certificate" => settings.default_certificate = Some(pair(value)),
            other => panic!("{other} is no setting of these tests"),
        }
    }
    settings
}

fn documents(text: &str) -> Vec<Value> {
    let mut documents: Vec<Value> = serde_saphyr::from_multiple(text).expect("in.yaml is YAML");
    documents.iter_mut().for_each(fill_in_pem);
    documents
}

/// Replaces `CERT(name)` and `KEY(name)`.
fn fill_in_pem(value: &mut Value) {
    match value {
        Value::String(text) => {
            let argument = |what: &str| text.strip_prefix(what)?.strip_suffix(')');
            let pem =
                argument("CERT(").map(|name| &site(name).0).or(argument("KEY(").map(|name| &site(name).1));
            if let Some(pem) = pem {
                *text = pem.clone();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(fill_in_pem),
        Value::Object(fields) => fields.values_mut().for_each(fill_in_pem),
        _ => {}
    }
}

/// Certificate and key of a name.
fn site(name: &str) -> &'static (String, String) {
    type Site = (&'static str, &'static [&'static str], [i32; 2], &'static rcgen::SignatureAlgorithm);
    static SITES: LazyLock<Vec<(&'static str, (String, String))>> = LazyLock::new(|| {
        let sites: [Site; 5] = [
            ("blue", &["blue.example.com"], [2015, 2040], &rcgen::PKCS_ECDSA_P256_SHA256),
            ("blue-ed", &["blue.example.com"], [2015, 2041], &rcgen::PKCS_ED25519),
            ("wild", &["*.example.com", "example.com"], [2015, 2040], &rcgen::PKCS_ECDSA_P256_SHA256),
            ("early", &["early.example.com"], [2030, 2040], &rcgen::PKCS_ECDSA_P256_SHA256),
            ("old", &["old.example.com"], [2015, 2020], &rcgen::PKCS_ECDSA_P256_SHA256),
        ];
        let made = sites.map(|(name, hosts, [from, to], algorithm)| {
            let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
            let mut params = CertificateParams::new(hosts).expect("names");
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(to, 1, 1);
            let key = KeyPair::generate_for(algorithm).expect("key");
            let certificate = params.self_signed(&key).expect("signs");
            (name, (certificate.pem(), key.serialize_pem()))
        });
        made.into()
    });
    &SITES.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no site {name}")).1
}
