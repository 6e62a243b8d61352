//! From annotations to policies: with the Secrets and ConfigMaps that they name.

use std::fmt::Display;
use std::sync::Arc;

use super::super::report::issue;
use super::super::secrets::{self, BadSecret};
use super::access::BasicRef;
use super::upstream::TlsRef;
use super::{Annotations, headers, passwords};
use crate::model::{
    BasicAuth, ClientAuth, HeaderEdit, Issue, IssueReason, ObjectKey, RoutePolicy, Severity, UpstreamTls,
};
use crate::objects::{Objects, excerpt};

/// What happens while something that restricts access is missing.
const CLOSED: &str = "the routes of this Ingress answer 503 rather than let everyone in";

impl Annotations {
    /// The policy of the Ingress's routes, without what depends on their hosts: redirects to https,
    /// and whether the host has TLS, without which `hsts` does not count. What is wrong with the Secrets
    /// and ConfigMaps that annotations name is said in `issues`.
    ///
    /// # Errors
    /// The annotation, where what it names is missing or bad and routes would be open without it: they
    /// have to answer 503.
    pub(in crate::translate) fn policy(
        &self,
        key: &ObjectKey,
        objects: &Objects,
        issues: &mut Vec<Issue>,
    ) -> Result<Arc<RoutePolicy>, Arc<str>> {
        let mut shared = Arc::clone(&self.policy);
        if !self.names_objects() {
            return Ok(shared);
        }
        let policy = Arc::make_mut(&mut shared);
        let mut looking = Looking { key, objects, issues };
        if let Some(basic) = &self.basic {
            policy.access.basic = Some(looking.users(basic)?);
        }
        if let (Some((name, annotation)), Some(external)) = (&self.auth_headers, &mut policy.access.external)
        {
            let edits = looking.headers(name, annotation, CLOSED).ok_or_else(|| annotation.clone())?;
            let set = edits.into_iter().filter_map(|edit| match edit {
                HeaderEdit::Set { name, value, .. } => Some((name, value)),
                _ => None,
            });
            Arc::make_mut(external).request_headers.extend(set);
        }
        if let (Some(named), Some(tls)) = (&self.upstream_tls, &mut policy.upstream.tls) {
            looking.upstream_tls(named, Arc::make_mut(tls))?;
        }
        if self.client_auth.is_some() {
            self.client_auth(key, objects, looking.issues)?;
        }
        if let Some((name, annotation)) = &self.custom_headers {
            let edits = looking.headers(name, annotation, "its headers are missing").unwrap_or_default();
            policy.response_headers.splice(0..0, edits);
        }
        Ok(shared)
    }

    fn names_objects(&self) -> bool {
        self.basic.is_some()
            || self.auth_headers.is_some()
            || self.upstream_tls.is_some()
            || self.client_auth.is_some()
            || self.custom_headers.is_some()
    }

    /// What the handshake for the Ingress's hosts has to ask for, if anything.
    ///
    /// # Errors
    /// The annotation, where its Secret is missing or bad: nobody may get in.
    pub(in crate::translate) fn client_auth(
        &self,
        key: &ObjectKey,
        objects: &Objects,
        issues: &mut Vec<Issue>,
    ) -> Result<Option<Arc<ClientAuth>>, Arc<str>> {
        let Some(asked) = &self.client_auth else { return Ok(None) };
        let mut looking = Looking { key, objects, issues };
        let found = looking.secret(&asked.secret, &asked.annotation, |secret| {
            let authorities = secrets::authorities(secret)?;
            Ok(ClientAuth {
                secret: asked.secret.clone(),
                roots: authorities.roots,
                revocations: authorities.revocations,
                depth: asked.depth,
                any_authority: asked.any_authority,
            })
        });
        found.map(|found| Some(Arc::new(found))).ok_or_else(|| asked.annotation.clone())
    }
}

/// Looks up what an Ingress's annotations name.
struct Looking<'a> {
    key: &'a ObjectKey,
    objects: &'a Objects,
    issues: &'a mut Vec<Issue>,
}

impl Looking<'_> {
    fn users(&mut self, basic: &BasicRef) -> Result<Arc<BasicAuth>, Arc<str>> {
        let found =
            self.secret(&basic.secret, &basic.annotation, |secret| passwords::users(secret, basic.form));
        let found = found.ok_or_else(|| basic.annotation.clone())?;
        if found.unusable > 0 {
            self.issues.push(issue(
                Severity::Warning,
                IssueReason::InvalidField,
                "Secret",
                &basic.secret,
                "data",
                format!(
                    "entries without a name or without a password that can be checked: {}; nobody gets in by \
                     them. Make entries with `htpasswd -B`.",
                    found.unusable
                ),
            ));
        }
        Ok(Arc::new(BasicAuth { realm: basic.realm.clone(), users: found.users.into() }))
    }

    fn upstream_tls(&mut self, named: &TlsRef, tls: &mut UpstreamTls) -> Result<(), Arc<str>> {
        let verify = tls.verify;
        let found = self.secret(&named.secret, &named.annotation, |secret| {
            let has = |name| secrets::value(secret, name).is_some();
            let roots = match has("ca.crt") {
                true => secrets::authorities(secret)?.roots,
                false if verify => return Err(secrets::no_authorities()),
                false => Vec::new(),
            };
            let pair = has("tls.crt") || has("tls.key");
            let certificate = pair.then(|| secrets::read(&named.secret, secret, None)).transpose()?;
            Ok((roots, certificate))
        });
        let (roots, certificate) = found.ok_or_else(|| named.annotation.clone())?;
        (tls.roots, tls.certificate) = (roots, certificate);
        Ok(())
    }

    /// The Secret as `read` understands it.
    fn secret<T>(
        &mut self,
        name: &ObjectKey,
        annotation: &str,
        read: impl FnOnce(&k8s_openapi::api::core::v1::Secret) -> Result<T, BadSecret>,
    ) -> Option<T> {
        let Some(secret) = self.objects.secrets.get(name) else {
            let message = format!("Secret {name} does not exist; {CLOSED}. Create it.");
            self.say(Severity::Error, IssueReason::SecretNotFound, annotation, message);
            return None;
        };
        match read(secret) {
            Ok(found) => Some(found),
            Err(BadSecret { field, cause, remedy }) => {
                let message = format!("{}; routes that need it answer 503. {remedy}", excerpt(&cause));
                let (severity, reason) = (Severity::Error, IssueReason::InvalidField);
                self.issues.push(issue(severity, reason, "Secret", name, field, message));
                None
            }
        }
    }

    /// The headers of a ConfigMap; those that can't be used are said and left out.
    fn headers(&mut self, name: &ObjectKey, annotation: &str, without: &str) -> Option<Vec<HeaderEdit>> {
        let Some(map) = self.objects.config_maps.get(name) else {
            let message = format!("ConfigMap {name} does not exist; {without}. Create it.");
            self.say(Severity::Error, IssueReason::InvalidAnnotation, annotation, message);
            return None;
        };
        Some(headers::of_config_map(name, map, headers::for_clients, self.issues))
    }

    fn say(&mut self, severity: Severity, reason: IssueReason, annotation: impl Display, message: String) {
        let field = format!("metadata.annotations[{annotation}]");
        self.issues.push(issue(severity, reason, "Ingress", self.key, field, message));
    }
}
