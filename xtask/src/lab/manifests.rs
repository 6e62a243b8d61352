//! A directory of Kubernetes manifests that a test writes to while it is served.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::tls::Issued;
use super::{LabError, Result};

/// What the Services' only port is called; a slice repeats the name.
const PORT_NAME: &str = "http";

/// A manifest directory. Files appear and change as a whole, as `kubectl` and editors write them.
#[derive(Clone, Debug)]
pub struct ManifestDir {
    path: PathBuf,
}

impl ManifestDir {
    /// Makes the directory if it is not there.
    pub fn create(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).map_err(LabError::io(format!("make {}", path.display())))?;
        Ok(Self { path: path.to_owned() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the file `name` with `text`.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let (temporary, path) = (self.path.join(format!(".{name}.new")), self.path.join(name));
        fs::write(&temporary, text)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(LabError::io(format!("write {}", path.display())))
    }

    /// Writes the file `name` with `objects`, one document each. JSON is YAML.
    pub fn write_objects(&self, name: &str, objects: &[Value]) -> Result<()> {
        let documents: Vec<_> = objects.iter().map(|object| format!("{object:#}\n")).collect();
        self.write(name, &documents.join("---\n"))
    }

    /// Removes the file `name`.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.path.join(name);
        fs::remove_file(&path).map_err(LabError::io(format!("remove {}", path.display())))
    }

    /// Copies all YAML files of `from` and the directories below it; the names are kept.
    pub fn copy_from(&self, from: &Path) -> Result<()> {
        let what = || LabError::io(format!("copy {}", from.display()));
        for entry in fs::read_dir(from).map_err(what())? {
            let path = entry.map_err(what())?.path();
            if path.is_dir() {
                self.copy_from(&path)?;
            } else if path.extension().is_some_and(|e| e == "yaml") {
                let text = fs::read_to_string(&path).map_err(what())?;
                self.write(&path.file_name().unwrap_or_default().to_string_lossy(), &text)?;
            }
        }
        Ok(())
    }
}

/// A Service with one port.
pub fn service(namespace: &str, name: &str, port: u16, target_port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"selector": {"app": name}, "ports": [{"name": PORT_NAME, "port": port, "targetPort": target_port}]},
    })
}

/// The EndpointSlices of a Service: one for each address, since each may have a port of its own.
pub fn endpoint_slices(namespace: &str, service: &str, endpoints: &[SocketAddr]) -> Vec<Value> {
    let slice = |(index, endpoint): (usize, &SocketAddr)| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "namespace": namespace, "name": format!("{service}-{index}"),
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": if endpoint.is_ipv4() { "IPv4" } else { "IPv6" },
            "ports": [{"name": PORT_NAME, "protocol": "TCP", "port": endpoint.port()}],
            "endpoints": [{"addresses": [endpoint.ip()], "conditions": {"ready": true}}],
        })
    };
    endpoints.iter().enumerate().map(slice).collect()
}

/// A Secret of type `kubernetes.io/tls`.
pub fn tls_secret(namespace: &str, name: &str, issued: &Issued) -> Value {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"namespace": namespace, "name": name},
        "data": {
            "tls.crt": BASE64_STANDARD.encode(&issued.certificate),
            "tls.key": BASE64_STANDARD.encode(&issued.key),
        },
    })
}

/// An Ingress with one rule: `host` (empty: all) and `path` (Prefix) to `service` port 80.
pub fn ingress(namespace: &str, name: &str, host: &str, path: &str, service: &str) -> Value {
    let mut rule = json!({"http": {"paths": [{
        "path": path, "pathType": "Prefix",
        "backend": {"service": {"name": service, "port": {"number": 80}}},
    }]}});
    if !host.is_empty() {
        rule["host"] = host.into();
    }
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"ingressClassName": "sluice", "rules": [rule]},
    })
}
