//! A URL taken apart.

use std::net::IpAddr;

use crate::model::{Listener, Protocol, Template, TemplatePart, Variable};
use crate::route::{self, Target};

use super::super::admin::views::word;

/// Why a text can't be explained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// Neither http nor https.
    #[error("{0:?} is no http or https URL, like https://blue.example.com/x")]
    Scheme(String),
    /// A name or password before the host, which clients don't send there.
    #[error("{0:?} has a user before its host, which clients send in another place: leave that out")]
    User(String),
    /// The host can't be one.
    #[error("{url:?} has no usable host: {why}")]
    Host {
        /// As given.
        url: String,
        /// What is wrong.
        why: route::BadHost,
    },
    /// The proxy answers 400.
    #[error("the proxy answers 400 to {url:?}: {why}")]
    Target {
        /// As given.
        url: String,
        /// What is wrong.
        why: route::BadTarget,
    },
}

/// A URL taken apart.
pub(super) struct Asked {
    pub protocol: Protocol,
    pub host: String,
    pub port: Option<u16>,
    pub target: Target,
}

impl Asked {
    pub fn parse(url: &str) -> Result<Self, BadUrl> {
        let (protocol, rest) = match url.split_once("://") {
            // A WebSocket begins as a request like any other.
            Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
                "http" | "ws" => (Protocol::Http, rest),
                "https" | "wss" => (Protocol::Https, rest),
                _ => return Err(BadUrl::Scheme(url.to_owned())),
            },
            None => (Protocol::Http, url),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err(BadUrl::User(url.to_owned()));
        }
        let host =
            route::normalise_host(authority).map_err(|why| BadUrl::Host { url: url.to_owned(), why })?;
        // A client never sends the fragment, so it is not the proxy's to refuse.
        let path = path.split('#').next().unwrap_or_default();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let target = Target::parse(&path).map_err(|why| BadUrl::Target { url: url.to_owned(), why })?;
        let port = authority.rsplit_once(':').and_then(|(_, port)| port.trim_end_matches(']').parse().ok());
        let port = port.filter(|_| !authority.ends_with(']'));
        Ok(Self { protocol, host: host.into_owned(), port, target })
    }

    /// Whether a client that follows the URL can get to the listener: the port fits, and the
    /// address too if the host is one. Without a port in the URL, every listener of the protocol.
    pub fn reaches(&self, listener: &Listener) -> bool {
        let address = self.host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let vip = listener.vip.address;
        listener.protocol == self.protocol
            && self.port.is_none_or(|port| port == listener.vip.port)
            && address.map_or(true, |a| a == vip || (vip.is_unspecified() && vip.is_ipv4() == a.is_ipv4()))
    }

    /// What a URL tells of a request; other variables by their names.
    pub fn value(&self, variable: &Variable) -> String {
        match variable {
            Variable::Scheme => word(&self.protocol),
            Variable::Host => self.host.clone(),
            Variable::RequestUri => self.target.path_and_query().to_owned(),
            Variable::Path => self.target.path().to_owned(),
            Variable::Query => self.target.query().unwrap_or_default().to_owned(),
            Variable::IsArgs => {
                if self.target.query().unwrap_or_default().is_empty() { "" } else { "?" }.to_owned()
            }
            other => format!("${{{other}}}"),
        }
    }

    pub fn fill(&self, template: &Template) -> String {
        let parts = template.0.iter().map(|part| match part {
            TemplatePart::Text(text) => text.to_string(),
            TemplatePart::Variable(variable) => self.value(variable),
        });
        parts.collect()
    }

    /// Addresses are never sent as a server name (RFC 6066, section 3).
    pub fn sni(&self) -> Option<&str> {
        let is_address = self.host.starts_with('[') || self.host.parse::<IpAddr>().is_ok();
        (!is_address).then_some(self.host.as_str())
    }
}
