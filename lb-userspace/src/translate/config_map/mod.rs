//! The settings of a cluster: a ConfigMap with the keys of ingress-nginx's, as far as they mean
//! something here, and a few of our own. Read whenever it changes; a bad entry costs itself alone.

mod keys;

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Settings;
use super::annotations::reader::Reader;
use super::annotations::values::{self, Bad, Read};
use super::annotations::{Defaults, endpoint_header, headers};
use super::care;
use super::report::issue;
use crate::model::{
    BanRules, Care, ClusterKey, Compat, Issue, IssueReason, Listener, MAX_BAN_AFTER, MAX_BAN_FOR,
    MAX_BAN_WITHIN, MAX_BANS, ObjectKey, PortRef, Protocol, ProxyProtocol, Severity, SniMode,
};
use crate::objects::{Objects, is_name};

/// What the ConfigMap with a cluster's settings says. The default says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterSettings {
    /// `compat`: whose defaults Ingresses get, unless their IngressClass says so.
    pub compat: Option<Compat>,
    /// `default-backend`, `namespace/service:port`.
    pub default_backend: Option<ClusterKey>,
    /// `default-certificate` (or `default-ssl-certificate`), `namespace/secret`.
    pub default_certificate: Option<ObjectKey>,
    /// Whose `X-Forwarded-*` are believed: `proxy-real-ip-cidr` with `use-forwarded-headers`. Empty:
    /// nobody's.
    pub trusted_proxies: Option<Vec<IpNet>>,
    /// `ssl-reject-handshake`: TLS listeners refuse server names that nobody serves.
    pub refuse_unknown_names: Option<bool>,
    /// Whose connections begin with a PROXY header: those of `proxy-real-ip-cidr` with
    /// `use-proxy-protocol`.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Who is kept out for a time: `ban-after` with `ban-within`, `ban-for` and `ban-max`.
    pub ban: Option<BanRules>,
    /// `service-vips`: where VIPs of Services of type LoadBalancer may be.
    pub service_vips: Option<Vec<IpNet>>,
    /// What applies where an Ingress's annotations say nothing.
    pub defaults: ClassDefaults,
    /// `add-headers`, `namespace/configmap`: what all answers get.
    pub answer_headers: Option<ObjectKey>,
    /// `proxy-set-headers`, `namespace/configmap`: what all requests to endpoints get.
    pub request_headers: Option<ObjectKey>,
    /// How endpoints are watched and spared where their Service says nothing.
    pub care: Arc<Care>,
}

/// The defaults of classes of either behaviour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassDefaults {
    kubernetes: Defaults,
    ingress_nginx: Defaults,
}

impl ClassDefaults {
    /// Those of one behaviour.
    pub fn of(&self, compat: Compat) -> &Defaults {
        match compat {
            Compat::Kubernetes => &self.kubernetes,
            Compat::IngressNginx => &self.ingress_nginx,
        }
    }
}

impl Default for ClassDefaults {
    /// Without settings of a cluster.
    fn default() -> Self {
        Self {
            kubernetes: Defaults::new(Compat::Kubernetes),
            ingress_nginx: Defaults::new(Compat::IngressNginx),
        }
    }
}

impl ClusterSettings {
    /// Reads the data of the ConfigMap of this name. What is wrong with an entry is said, and the entry
    /// ignored; unless ignoring it would let requests in that it keeps out: then all routes answer 503.
    pub fn read(key: &ObjectKey, data: &BTreeMap<String, String>, issues: &mut Vec<Issue>) -> Self {
        let mut reader = Reader::of_config_map(key, data, issues);
        reader.say_unknown_settings(keys::KNOWN, keys::NEEDLESS, keys::REFUSED);
        let ingress_nginx = Defaults::configured(Compat::IngressNginx, &mut reader);
        let certificate =
            if reader.has("default-certificate") { "default-certificate" } else { "default-ssl-certificate" };
        let compat = [("kubernetes", Compat::Kubernetes), ("ingress-nginx", Compat::IngressNginx)];
        let forwarded = reader.get("use-forwarded-headers", values::boolean);
        let peers = reader.get("proxy-real-ip-cidr", values::networks).map(|peers| peers.to_vec());
        let headers = reader.get("use-proxy-protocol", values::boolean);
        if peers.is_none() {
            say_believed(&mut reader, forwarded, headers);
        }
        let peers = peers.unwrap_or_else(|| vec![Ipv4Net::default().into(), Ipv6Net::default().into()]);
        let header_timeout = reader.get("proxy-protocol-header-timeout", values::timeout);
        let header_timeout = header_timeout.unwrap_or(ProxyProtocol::default().header_timeout);
        let settings = Self {
            compat: reader.get("compat", values::one_of(&compat)),
            default_backend: reader.get("default-backend", cluster_key),
            default_certificate: reader.get(certificate, object_key),
            proxy_protocol: headers.map(|sent| ProxyProtocol {
                from: if sent { peers.clone() } else { Vec::new() },
                header_timeout,
            }),
            trusted_proxies: forwarded.map(|believed| if believed { peers } else { Vec::new() }),
            ban: ban(&mut reader),
            refuse_unknown_names: reader.get("ssl-reject-handshake", values::boolean),
            service_vips: service_vips(&mut reader),
            defaults: ClassDefaults::default(),
            answer_headers: reader.get("add-headers", object_key),
            request_headers: reader.get("proxy-set-headers", object_key),
            care: Arc::new(care::read(&mut reader, &Care::default())),
        };
        // The same entries over the other behaviour's defaults; what is wrong was said above.
        let mut said = Vec::new();
        let mut again = Reader::of_config_map(key, data, &mut said);
        let kubernetes = Defaults::configured(Compat::Kubernetes, &mut again);
        Self { defaults: ClassDefaults { kubernetes, ingress_nginx }, ..settings }
    }

    /// Reads the ConfigMaps with headers that these settings name.
    fn add_headers(&mut self, objects: &Objects, issues: &mut Vec<Issue>) {
        let answers = named(&self.answer_headers, objects, headers::for_clients, issues);
        let requests = named(&self.request_headers, objects, endpoint_header, issues);
        for defaults in [&mut self.defaults.kubernetes, &mut self.defaults.ingress_nginx] {
            defaults.edit(&requests, &answers);
        }
    }
}

/// Without `proxy-real-ip-cidr`, as in ingress-nginx, everybody is believed: right where only load balancers can
/// reach a node, which Sluice's clients mostly do themselves.
fn say_believed(reader: &mut Reader<'_>, forwarded: Option<bool>, headers: Option<bool>) {
    for (name, believed) in [("use-forwarded-headers", forwarded), ("use-proxy-protocol", headers)] {
        if believed == Some(true) {
            reader.note(
                name,
                "believes everybody, so that clients that reach a node themselves choose their address. Name the \
                 load balancers before it in proxy-real-ip-cidr.",
            );
        }
    }
}

/// The networks of `service-vips`. One that can't be read allows nothing; the others still count, so that
/// a slip of the pen neither lets a Service take any address nor takes all Services theirs.
fn service_vips(reader: &mut Reader<'_>) -> Option<Vec<IpNet>> {
    let name = "service-vips";
    let (networks, bad): (Vec<_>, Vec<_>) =
        values::list(reader.text(name)?).map(values::network).partition(Result::is_ok);
    let networks: Vec<IpNet> = networks.into_iter().flatten().collect();
    let empty = networks
        .is_empty()
        .then(|| Bad::new("names no network", "write addresses and CIDRs, with commas between"));
    if let Some(bad) = bad.into_iter().find_map(Result::err).or(empty) {
        reader.close_part(name, &bad, "Services get no address that is not in the rest of the list");
    }
    Some(networks)
}

/// The rules of bans, if there are to be any.
fn ban(reader: &mut Reader<'_>) -> Option<BanRules> {
    let number = |least: u32, most: u32| {
        let read = values::number(least.into(), most.into());
        move |text: &str| read(text).map(|number| u32::try_from(number).unwrap_or(most))
    };
    let seconds = |most: u32| {
        move |text: &str| {
            let seconds = u32::try_from(values::duration(text)?.as_secs()).unwrap_or(u32::MAX);
            match (1..=most).contains(&seconds) {
                true => Ok(seconds),
                false => Err(Bad::new("is no time that fits", format!("write one from 1s to {most}s"))),
            }
        }
    };
    let default = BanRules::default();
    let after = reader.get("ban-after", number(0, MAX_BAN_AFTER));
    let within = reader.get("ban-within", seconds(MAX_BAN_WITHIN)).unwrap_or(default.within);
    let lasts = reader.get("ban-for", seconds(MAX_BAN_FOR)).unwrap_or(default.lasts);
    let most = reader.get("ban-max", number(1, MAX_BANS)).unwrap_or(default.most);
    after.map(|after| BanRules { after, within, lasts, most })
}

/// What the ConfigMap that `settings` name says now. One that isn't there says nothing.
pub(super) fn cluster_settings(
    objects: &Objects,
    settings: &Settings,
    issues: &mut Vec<Issue>,
) -> ClusterSettings {
    let Some(key) = &settings.config_map else { return ClusterSettings::default() };
    match objects.config_maps.get(key) {
        Some(map) => {
            let nothing = BTreeMap::new();
            let mut cluster = ClusterSettings::read(key, map.data.as_ref().unwrap_or(&nothing), issues);
            cluster.add_headers(objects, issues);
            cluster
        }
        None => {
            let message = "does not exist, so that the node's own settings hold; create it, or leave \
                           --config-map out.";
            let reason = IssueReason::ConfigMapNotFound;
            issues.push(issue(Severity::Warning, reason, "ConfigMap", key, "", message));
            ClusterSettings::default()
        }
    }
}

/// What the entries of a ConfigMap with headers come to.
fn named<T>(
    key: &Option<ObjectKey>,
    objects: &Objects,
    read: impl Fn(&str, &str) -> Read<T>,
    issues: &mut Vec<Issue>,
) -> Vec<T> {
    let Some(key) = key else { return Vec::new() };
    match objects.config_maps.get(key) {
        Some(map) => headers::of_config_map(key, map, read, issues),
        None => {
            let message = "does not exist, so that its headers are missing; create it.";
            let reason = IssueReason::ConfigMapNotFound;
            issues.push(issue(Severity::Warning, reason, "ConfigMap", key, "", message));
            Vec::new()
        }
    }
}

impl Settings {
    /// These settings with what the cluster's say over them.
    pub(super) fn with(&self, cluster: &ClusterSettings) -> Self {
        Self {
            compat: cluster.compat.unwrap_or(self.compat),
            default_backend: cluster.default_backend.clone().or_else(|| self.default_backend.clone()),
            default_certificate: cluster
                .default_certificate
                .clone()
                .or_else(|| self.default_certificate.clone()),
            defaults: cluster.defaults.clone(),
            listeners: self.listeners.iter().map(|one| listener(*one, cluster)).collect(),
            care: cluster.care.clone(),
            service_vips: cluster.service_vips.clone().or_else(|| self.service_vips.clone()),
            ..self.clone()
        }
    }
}

/// A listener of the node as the cluster wants it.
fn listener(listener: Listener, cluster: &ClusterSettings) -> Listener {
    match cluster.refuse_unknown_names {
        Some(true) if listener.protocol == Protocol::Https => {
            let sni = if listener.sni.steers() { SniMode::SteerFilter } else { SniMode::Filter };
            Listener { sni, ..listener }
        }
        _ => listener,
    }
}

/// `namespace/service:port`.
fn cluster_key(text: &str) -> Read<ClusterKey> {
    let bad = || Bad::new("names no Service port", "write namespace/service:port");
    let (service, port) = text.trim().rsplit_once(':').ok_or_else(bad)?;
    let port = match port.parse::<u16>() {
        Ok(0) => return Err(bad()),
        Ok(number) => PortRef::Number(number),
        Err(_) if is_name(port) => PortRef::Name(port.into()),
        Err(_) => return Err(bad()),
    };
    Ok(ClusterKey::new(object_key(service).map_err(|_| bad())?, port))
}

/// `namespace/name`.
fn object_key(text: &str) -> Read<ObjectKey> {
    match text.contains('/') {
        true => values::reference("", text),
        false => Err(Bad::new("names no object", "write namespace/name")),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::model::{RoutePolicy, Severity, Transport, Vip};

    /// What an entry comes to, and how many issues it has.
    fn read(entries: &[(&str, &str)]) -> (ClusterSettings, Vec<Issue>) {
        let data = entries.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let mut issues = Vec::new();
        let settings = ClusterSettings::read(&ObjectKey::new("sluice", "settings"), &data, &mut issues);
        (settings, issues)
    }

    #[test]
    fn nothing_said_is_the_default() {
        assert_eq!(read(&[]), (ClusterSettings::default(), vec![]));
        let settings = Settings::default();
        assert_eq!(settings.with(&ClusterSettings::default()), settings);
    }

    #[test]
    fn every_known_entry_is_read() {
        for name in keys::KNOWN {
            let (settings, issues) = read(&[(name, "\u{1}")]);
            assert_eq!(issues.len(), 1, "{name}: {issues:?}");
            assert!(issues[0].field.contains(name) && issues[0].object.kind == "ConfigMap", "{issues:?}");
            let closes = issues[0].severity == Severity::Error;
            assert!(closes || settings == ClusterSettings::default(), "{name}");
        }
        assert!(keys::KNOWN.is_sorted() && keys::NEEDLESS.is_sorted() && keys::REFUSED.is_sorted());
    }

    #[test]
    fn a_bad_entry_costs_itself_alone() {
        let (settings, issues) = read(&[
            ("compat", "ingress-nginx"),
            ("proxy-body-size", "8x"),
            ("proxy-read-timeout", "90"),
            ("ssl-redirects", "false"),
            ("worker-processes", "8"),
        ]);
        assert_eq!(settings.compat, Some(Compat::IngressNginx));
        let defaults = settings.defaults.of(Compat::IngressNginx);
        assert_eq!(defaults.policy.body.max_request, Some(1 << 20));
        assert_eq!(defaults.policy.upstream.read_timeout.map(|time| time.as_secs()), Some(90));
        let said: Vec<_> =
            issues.iter().map(|one| (one.severity, one.field.as_str(), one.message.as_str())).collect();
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(said.iter().any(|(_, _, message)| message.contains("ssl-redirect?")), "{said:?}");
        assert!(said.iter().any(|(severity, field, _)| {
            *severity == Severity::Note && *field == "data[worker-processes]"
        }));
    }

    #[test]
    fn what_restricts_access_closes_when_it_is_bad() {
        for (name, value) in [("whitelist-source-range", "10.0.0.0/99"), ("global-auth-url", "auth")] {
            let (settings, issues) = read(&[(name, value)]);
            assert_eq!(issues.len(), 1, "{issues:?}");
            for compat in [Compat::Kubernetes, Compat::IngressNginx] {
                let closed_by = settings.defaults.of(compat).closed_by.as_deref();
                assert_eq!(closed_by, Some(name));
            }
        }
    }

    #[test]
    fn values_of_entries() {
        let nginx = |entries: &[(&str, &str)]| {
            let (settings, issues) = read(entries);
            let everybody = !entries.iter().any(|(name, _)| *name == "proxy-real-ip-cidr");
            let believed = |(name, value): &&(&str, &str)| name.starts_with("use-") && *value == "true";
            let notes = entries.iter().filter(believed).count() * usize::from(everybody);
            assert_eq!(issues.len(), notes, "{issues:?}");
            assert!(issues.iter().all(|issue| issue.severity == Severity::Note), "{issues:?}");
            let defaults = settings.defaults.of(Compat::IngressNginx);
            (RoutePolicy::clone(&defaults.policy), defaults.clone(), settings)
        };
        assert_eq!(nginx(&[("hsts", "false")]).0.hsts, None);
        let hsts = nginx(&[("hsts-max-age", "60"), ("hsts-preload", "true")]).0.hsts.expect("on");
        assert_eq!((hsts.max_age, hsts.include_subdomains, hsts.preload), (60, true, true));
        assert_eq!(nginx(&[("proxy-body-size", "0")]).0.body.max_request, None);
        assert_eq!(nginx(&[("limit-req-status-code", "429")]).0.limits.status, 429);
        assert_eq!(nginx(&[("whitelist-source-range", "10.0.0.0/8")]).0.access.allow.expect("one").len(), 1);
        assert_eq!(nginx(&[("custom-http-errors", "503,404")]).1.error_statuses, [404, 503]);
        assert!(!nginx(&[("allow-snippet-annotations", "false")]).1.snippets);
        assert!(nginx(&[("global-auth-url", "https://a/b")]).1.external_auth.is_some());
        for (entries, expect) in [
            (vec![("use-forwarded-headers", "false")], Some(0)),
            (vec![("use-forwarded-headers", "true")], Some(2)),
            (vec![("use-forwarded-headers", "true"), ("proxy-real-ip-cidr", "10.0.0.0/8")], Some(1)),
            (vec![("proxy-real-ip-cidr", "10.0.0.0/8")], None),
        ] {
            let trusted = nginx(&entries).2.trusted_proxies;
            assert_eq!(trusted.map(|all| all.len()), expect, "{entries:?}");
        }
        for (value, expect) in [("true", [SniMode::Off, SniMode::Filter]), ("false", [SniMode::Off; 2])] {
            let cluster = nginx(&[("ssl-reject-handshake", value)]).2;
            let listener = |protocol| Listener {
                vip: Vip { address: Ipv4Addr::LOCALHOST.into(), port: 443, transport: Transport::Tcp },
                protocol,
                sni: SniMode::Off,
            };
            let listeners = vec![listener(Protocol::Http), listener(Protocol::Https)];
            let with = Settings { listeners, ..Settings::default() }.with(&cluster);
            assert_eq!(with.listeners.iter().map(|one| one.sni).collect::<Vec<_>>(), expect, "{value}");
        }
        for (entries, expect) in [
            (vec![("use-proxy-protocol", "false")], Some((0, 5))),
            (vec![("use-proxy-protocol", "true")], Some((2, 5))),
            (
                vec![
                    ("use-proxy-protocol", "true"),
                    ("proxy-real-ip-cidr", "10.0.0.0/8"),
                    ("proxy-protocol-header-timeout", "2s"),
                ],
                Some((1, 2)),
            ),
            (vec![("use-forwarded-headers", "true")], None),
        ] {
            let rules = nginx(&entries).2.proxy_protocol;
            let rules = rules.map(|rules| (rules.from.len(), rules.header_timeout.as_secs()));
            assert_eq!(rules, expect, "{entries:?}");
        }
        for (value, expect, issues) in [
            ("192.0.2.0/24, 2001:db8::1", &["192.0.2.0/24", "2001:db8::1/128"][..], 0),
            ("192.0.2.0/33, 198.51.100.0/24, x", &["198.51.100.0/24"], 1),
            ("192.0.2.0/33", &[], 1),
            (",", &[], 1),
        ] {
            let (settings, said) = read(&[("service-vips", value)]);
            let networks = settings.service_vips.clone().expect("closed rather than open");
            assert_eq!(networks.iter().map(ToString::to_string).collect::<Vec<_>>(), expect, "{value}");
            assert_eq!(said.len(), issues, "{value}: {said:?}");
            assert!(said.iter().all(|issue| issue.severity == Severity::Error), "{said:?}");
            assert!(settings.defaults == ClassDefaults::default(), "routes stay open: {value}");
            let node = Settings { service_vips: Some(Vec::new()), ..Settings::default() };
            assert_eq!(node.with(&settings).service_vips, Some(networks));
            assert_eq!(node.with(&ClusterSettings::default()).service_vips, Some(Vec::new()));
        }
        for (entries, expect) in [
            (vec![("ban-within", "10s")], None),
            (vec![("ban-after", "20")], Some((20, 60, 600, 10_000))),
            (
                vec![("ban-after", "5"), ("ban-within", "10s"), ("ban-for", "1h"), ("ban-max", "7")],
                Some((5, 10, 3600, 7)),
            ),
        ] {
            let rules = nginx(&entries).2.ban.map(|ban| (ban.after, ban.within, ban.lasts, ban.most));
            assert_eq!(rules, expect, "{entries:?}");
        }
        for (name, value) in [
            ("ban-after", "101"),
            ("ban-within", "0"),
            ("ban-within", "2h"),
            ("ban-for", "8d"),
            ("ban-max", "0"),
        ] {
            assert_eq!(read(&[(name, value)]).1.len(), 1, "{name}: {value}");
        }
        let settings = nginx(&[("default-backend", "web/errors:http"), ("default-ssl-certificate", "a/b")]).2;
        assert_eq!(settings.default_backend.map(|key| key.to_string()).as_deref(), Some("web/errors:http"));
        assert_eq!(settings.default_certificate, Some(ObjectKey::new("a", "b")));
        for (name, value) in
            [("default-backend", "web:80"), ("default-backend", "a/b:0"), ("default-certificate", "a")]
        {
            assert_eq!(read(&[(name, value)]).1.len(), 1, "{name}: {value}");
        }
    }
}
