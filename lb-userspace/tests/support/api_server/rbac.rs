//! Rights, as RBAC gives them: from the very Roles that a cluster installs. Who uses none that it
//! has, or asks for one that it has not, is found out.

use std::collections::{BTreeMap, BTreeSet};

use hyper::Response;
use serde_json::Value;

use super::ApiServer;
use super::answers::{Body, Target, status};
use super::store::Shared;

/// The rights of the only user that there is, and what it did with them.
#[derive(Clone, Debug, Default)]
pub struct Rights {
    granted: BTreeSet<Grant>,
    used: BTreeSet<Grant>,
    refused: Vec<Access>,
}

/// One verb on one resource. The smallest thing that can be granted in vain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Grant {
    /// `None`: in all of them.
    namespace: Option<String>,
    group: String,
    resource: String,
    verb: String,
    /// `None`: of every name.
    name: Option<String>,
}

/// What somebody wanted to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// As RBAC calls it.
    pub verb: &'static str,
    /// Empty for the core group.
    pub group: String,
    /// With the subresource: `ingresses/status`.
    pub resource: String,
    /// `None`: in all of them.
    pub namespace: Option<String>,
    /// `None`: a collection, but for one that is asked for by a name; or an object that is to be made.
    pub name: Option<String>,
}

impl Rights {
    /// The rules of every ClusterRole and Role in these YAML documents. Roles without a namespace are in `namespace`.
    pub fn read(documents: &str, namespace: &str) -> Self {
        let documents: Vec<Value> = serde_saphyr::from_multiple(documents).expect("YAML");
        let mut granted = BTreeSet::new();
        for role in &documents {
            let namespace = match role["kind"].as_str() {
                Some("ClusterRole") => None,
                Some("Role") => Some(role["metadata"]["namespace"].as_str().unwrap_or(namespace).to_owned()),
                _ => continue,
            };
            for rule in role["rules"].as_array().expect("rules") {
                let names = texts(&rule["resourceNames"]).into_iter().map(Some);
                let names: Vec<_> =
                    if rule["resourceNames"].is_null() { vec![None] } else { names.collect() };
                for group in texts(&rule["apiGroups"]) {
                    for resource in texts(&rule["resources"]) {
                        for verb in texts(&rule["verbs"]) {
                            assert!(
                                ![&group, &resource, &verb].contains(&&"*".to_owned()),
                                "{rule}: too much"
                            );
                            granted.extend(names.iter().map(|name| Grant {
                                namespace: namespace.clone(),
                                group: group.clone(),
                                resource: resource.clone(),
                                verb: verb.clone(),
                                name: name.clone(),
                            }));
                        }
                    }
                }
            }
        }
        assert!(!granted.is_empty(), "no rules");
        Self { granted, ..Self::default() }
    }

    fn allow(&mut self, access: &Access) -> bool {
        let fits = |grant: &&Grant| {
            grant.verb == access.verb
                && grant.group == access.group
                && grant.resource == access.resource
                && (grant.namespace.is_none() || grant.namespace == access.namespace)
                && (grant.name.is_none() || grant.name == access.name)
        };
        let grant = self.granted.iter().find(fits).cloned();
        let allowed = grant.is_some();
        self.used.extend(grant);
        if !allowed {
            self.refused.push(access.clone());
        }
        allowed
    }
}

impl ApiServer {
    /// From now on, only this is allowed.
    pub fn enforce(&self, rights: Rights) {
        self.shared.lock().rights = Some(rights);
    }

    /// What was asked for and refused for want of rights.
    pub fn refused(&self) -> Vec<Access> {
        self.shared.lock().rights.as_ref().map(|rights| rights.refused.clone()).unwrap_or_default()
    }

    /// What is granted and was not used so far, as `verb group/resource`.
    pub fn unused_rights(&self) -> Vec<String> {
        let state = self.shared.lock();
        let rights = state.rights.as_ref().expect("rights are enforced");
        let unused = rights.granted.difference(&rights.used);
        unused.map(|grant| format!("{} {}/{}", grant.verb, grant.group, grant.resource)).collect()
    }
}

/// The refusal, if it is not allowed.
pub(super) fn authorize(
    shared: &Shared,
    verb: &'static str,
    target: &Target,
    query: &BTreeMap<String, String>,
) -> Option<Response<Body>> {
    let mut state = shared.lock();
    let rights = state.rights.as_mut()?;
    // `/apis/networking.k8s.io/v1/ingresses`, `/api/v1/secrets`
    let group = target.collection.strip_prefix("/apis/").and_then(|rest| rest.split('/').next());
    let access = Access {
        verb,
        group: group.unwrap_or_default().to_owned(),
        resource: target.resource(),
        namespace: target.namespace.clone(),
        name: target.name.clone().or_else(|| selected(query)),
    };
    (!rights.allow(&access)).then(|| status(403, &format!("no right to {access:?}")))
}

/// A list or watch of one name is asked for by that name: `resourceNames` grants it.
fn selected(query: &BTreeMap<String, String>) -> Option<String> {
    let mut terms = query.get("fieldSelector")?.split(',');
    terms.find_map(|term| term.strip_prefix("metadata.name=")).map(str::to_owned)
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}
