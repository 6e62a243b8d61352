//! How each proxy is told the same routes.
//!
//! Host `n` leads, under `/a/`, to a Service (upstream, cluster) of its own, each with the same two
//! endpoints. All have one worker, no access log, keep-alive to clients and endpoints without a
//! limit that matters here, session tickets on, and tell the endpoint the client's address, scheme
//! and host.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::peers::{Kind, Plan, host_name};

/// Writes the files of one proxy.
pub struct Files<'a> {
    pub plan: &'a Plan<'a>,
    pub http: u16,
    pub https: u16,
    pub at: &'a Path,
}

impl Files<'_> {
    /// The configuration; returns the arguments that name it.
    pub fn write(&self, kind: Kind) -> std::io::Result<Vec<String>> {
        let certificate = self.put("cert.pem", self.plan.certificate)?;
        let key = self.put("key.pem", self.plan.key)?;
        let both = self.put("both.pem", &format!("{}{}", self.plan.certificate, self.plan.key))?;
        let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Ok(match kind {
            Kind::Nginx => {
                let file = self.put("nginx.conf", &self.nginx(&certificate, &key))?;
                text(&["-c", &file, "-p", &self.at.to_string_lossy()])
            }
            Kind::Haproxy => {
                let file = self.put("haproxy.cfg", &self.haproxy(&both)?)?;
                text(&["-f", &file])
            }
            Kind::Sluice | Kind::Before => {
                let manifests = self.at.join("manifests");
                fs::create_dir(&manifests)?;
                fs::write(manifests.join("all.json"), self.manifests())?;
                let (http, https) = (self.http.to_string(), self.https.to_string());
                let socket = self.at.join("socket");
                let health = format!("127.0.0.1:{}", self.http + 2);
                text(&[
                    "run",
                    "--no-xdp",
                    "--workers",
                    "1",
                    "--vip",
                    "127.0.0.1",
                    "--manifests",
                    &manifests.to_string_lossy(),
                    "--http-port",
                    &http,
                    "--https-port",
                    &https,
                    "--socket",
                    &socket.to_string_lossy(),
                    "--health",
                    &health,
                ])
            }
            Kind::Envoy => {
                let file = self.put("envoy.json", &self.envoy(&certificate, &key).to_string())?;
                text(&["-c", &file, "--concurrency", "1", "--disable-hot-restart", "-l", "critical"])
            }
            Kind::Traefik => {
                self.put("dynamic.yml", &self.traefik_routes(&certificate, &key).to_string())?;
                let file = self.put("traefik.yml", &self.traefik().to_string())?;
                text(&[&format!("--configFile={file}")])
            }
            Kind::Pingora => {
                let routes: String = self.hosts().map(|(_, name)| format!("{name} /a/\n")).collect();
                let routes = self.put("routes", &routes)?;
                let ports = [self.http.to_string(), self.https.to_string()];
                let endpoints = self.plan.endpoints.map(|port| format!("127.0.0.1:{port}"));
                text(&[&ports[0], &ports[1], &certificate, &key, &routes, &endpoints[0], &endpoints[1]])
            }
            Kind::Caddy => {
                let file = self.put("caddy.json", &self.caddy(&certificate, &key).to_string())?;
                text(&["run", "--config", &file])
            }
        })
    }

    fn put(&self, name: &str, text: &str) -> std::io::Result<String> {
        let path = self.at.join(name);
        fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    }

    fn hosts(&self) -> impl Iterator<Item = (usize, String)> {
        (0..self.plan.hosts).map(|host| (host, host_name(host)))
    }

    fn nginx(&self, certificate: &str, key: &str) -> String {
        let Self { plan, http, https, at } = self;
        let [one, two] = plan.endpoints;
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("  {name}_temp_path {}/{name};\n", at.display()))
            .collect();
        let mut out = format!(
            "daemon off; worker_processes 1; worker_rlimit_nofile 30000; pid {at}/pid; error_log {at}/error crit;\n\
             user root;\n\
             events {{ worker_connections 25000; multi_accept on; }}\n\
             http {{\n  access_log off; server_tokens off; sendfile on; tcp_nopush on; tcp_nodelay on;\n{temp}  \
             keepalive_timeout 600s; keepalive_requests 1000000000; client_max_body_size 0;\n  \
             server_names_hash_max_size 65536; server_names_hash_bucket_size 128; variables_hash_max_size 4096;\n  \
             ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;\n  \
             ssl_session_tickets on; ssl_ecdh_curve X25519:P-256;\n  \
             proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $http_host;\n  \
             proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n  \
             proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Forwarded-Proto $scheme;\n  \
             proxy_set_header X-Forwarded-Port $server_port; proxy_set_header X-Request-ID $request_id;\n  \
             proxy_max_temp_file_size 0; proxy_buffers 8 16k; proxy_buffer_size 8k;\n",
            at = at.display()
        );
        for (host, name) in self.hosts() {
            let _ = writeln!(
                out,
                "  upstream u{host} {{ server 127.0.0.1:{one}; server 127.0.0.1:{two}; keepalive 512; \
                 keepalive_requests 1000000000; keepalive_timeout 600s; }}\n  \
                 server {{ listen 127.0.0.1:{http}; listen 127.0.0.1:{https} ssl http2; server_name {name};\n    \
                 location /a/ {{ proxy_pass http://u{host}; }} }}"
            );
        }
        out.push_str("}\n");
        out
    }

    fn haproxy(&self, both: &str) -> std::io::Result<String> {
        let Self { plan, http, https, .. } = self;
        let [one, two] = plan.endpoints;
        let map: String = self.hosts().map(|(host, name)| format!("{name}/a/ b{host}\n")).collect();
        let map = self.put("hosts.map", &map)?;
        let mut out = format!(
            "global\n  nbthread 1\n  maxconn 25000\n  no strict-limits\n  tune.ssl.default-dh-param 2048\n  \
             ssl-default-bind-options ssl-min-ver TLSv1.2\n  ssl-default-bind-curves X25519:P-256\n\
             defaults\n  mode http\n  timeout client 600s\n  timeout server 600s\n  timeout connect 5s\n  \
             timeout http-keep-alive 600s\n  timeout http-request 60s\n  http-reuse always\n  \
             option http-keep-alive\n  option splice-auto\n  maxconn 25000\n\
             frontend clients\n  bind 127.0.0.1:{http}\n  bind 127.0.0.1:{https} ssl crt {both} alpn h2,http/1.1\n  \
             option forwardfor\n  unique-id-format %{{+X}}o%ci%cp%rt%pid\n  unique-id-header X-Request-ID\n  \
             http-request set-header X-Real-IP %[src]\n  \
             http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]\n  \
             http-request set-header X-Forwarded-Host %[req.hdr(host)]\n  \
             http-request set-header X-Forwarded-Port %[dst_port]\n  \
             use_backend %[base,map_beg({map})]\n"
        );
        for (host, _) in self.hosts() {
            let _ = writeln!(
                out,
                "backend b{host}\n  server a 127.0.0.1:{one} pool-max-conn 512\n  \
                 server b 127.0.0.1:{two} pool-max-conn 512"
            );
        }
        Ok(out)
    }

    /// As `kubectl get -o json` writes them, one object on a line.
    fn manifests(&self) -> String {
        use base64::Engine;
        let code = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let Self { plan, .. } = self;
        let mut out = String::new();
        let mut put = |api: &str, kind: &str, name: &str, mut object: Value| {
            object["apiVersion"] = api.into();
            object["kind"] = kind.into();
            object["metadata"]["name"] = name.into();
            object["metadata"]["namespace"] = "default".into();
            let _ = writeln!(out, "{object}");
        };
        let pair = json!({"tls.crt": code(plan.certificate), "tls.key": code(plan.key)});
        put("v1", "Secret", "tls", json!({"type": "kubernetes.io/tls", "data": pair}));
        for (host, name) in self.hosts() {
            let service = format!("s{host}");
            put("v1", "Service", &service, json!({"spec": {"ports": [{"name": "http", "port": 80}]}}));
            let backend = json!({"service": {"name": service, "port": {"number": 80}}});
            let path = json!({"path": "/a/", "pathType": "Prefix", "backend": backend});
            let ingress = json!({
                "metadata": {"annotations": {"nginx.ingress.kubernetes.io/ssl-redirect": "false"}},
                "spec": {"tls": [{"hosts": [name], "secretName": "tls"}],
                    "rules": [{"host": name, "http": {"paths": [path]}}]}});
            put("networking.k8s.io/v1", "Ingress", &format!("i{host}"), ingress);
            for (index, port) in plan.endpoints.into_iter().enumerate() {
                let slice = json!({
                    "metadata": {"labels": {"kubernetes.io/service-name": service}},
                    "addressType": "IPv4",
                    "ports": [{"name": "http", "port": port}],
                    "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}]});
                put("discovery.k8s.io/v1", "EndpointSlice", &format!("s{host}-{index}"), slice);
            }
        }
        out
    }

    fn envoy(&self, certificate: &str, key: &str) -> Value {
        let manager = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
        let hosts: Vec<_> = self
            .hosts()
            .map(|(host, name)| {
                json!({"name": format!("v{host}"), "domains": [name, format!("{name}:*")],
                    "routes": [{"match": {"prefix": "/a/"},
                        "route": {"cluster": format!("c{host}"), "timeout": "0s"}}]})
            })
            .collect();
        let listener = |name: &str, port: u16, tls: Option<Value>| {
            let filter = json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": {
                "@type": manager, "stat_prefix": name, "codec_type": "AUTO", "use_remote_address": true,
                "generate_request_id": true, "stream_idle_timeout": "0s",
                "common_http_protocol_options": {"idle_timeout": "600s"},
                "http_filters": [{"name": "envoy.filters.http.router", "typed_config":
                    {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
                "route_config": {"name": "routes", "virtual_hosts": hosts}}});
            let mut chain = json!({"filters": [filter]});
            if let Some(tls) = tls {
                chain["transport_socket"] = tls;
            }
            json!({"name": name, "filter_chains": [chain],
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}})
        };
        let tls = json!({"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {"alpn_protocols": ["h2", "http/1.1"],
                "tls_certificates": [{"certificate_chain": {"filename": certificate},
                    "private_key": {"filename": key}}]}}});
        let endpoints: Vec<_> = self
            .plan
            .endpoints
            .iter()
            .map(|port| {
                json!({"endpoint": {"address": {"socket_address":
                {"address": "127.0.0.1", "port_value": port}}}})
            })
            .collect();
        let clusters: Vec<_> = self
            .hosts()
            .map(|(host, _)| {
                let name = format!("c{host}");
                json!({"name": name, "type": "STATIC", "connect_timeout": "5s",
                    "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}})
            })
            .collect();
        let listeners = [listener("http", self.http, None), listener("https", self.https, Some(tls))];
        json!({"static_resources": {"listeners": listeners, "clusters": clusters}})
    }

    fn traefik(&self) -> Value {
        let entry = |port: u16| {
            json!({"address": format!("127.0.0.1:{port}"), "transport":
                {"respondingTimeouts": {"idleTimeout": "600s"}}})
        };
        json!({"global": {"checkNewVersion": false, "sendAnonymousUsage": false}, "log": {"level": "ERROR"},
            "entryPoints": {"web": entry(self.http), "websecure": entry(self.https)},
            "serversTransport": {"maxIdleConnsPerHost": 512},
            "providers": {"file": {"filename": self.at.join("dynamic.yml"), "watch": false}}})
    }

    fn traefik_routes(&self, certificate: &str, key: &str) -> Value {
        let (mut routers, mut services) = (serde_json::Map::new(), serde_json::Map::new());
        let servers: Vec<_> =
            self.plan.endpoints.iter().map(|p| json!({"url": format!("http://127.0.0.1:{p}")})).collect();
        for (host, name) in self.hosts() {
            let rule = format!("Host(`{name}`) && PathPrefix(`/a/`)");
            let service = format!("s{host}");
            routers.insert(
                format!("p{host}"),
                json!({"entryPoints": ["web"], "rule": rule, "service": service}),
            );
            routers.insert(
                format!("t{host}"),
                json!({"entryPoints": ["websecure"], "rule": rule, "service": service, "tls": {}}),
            );
            services.insert(service, json!({"loadBalancer": {"servers": servers}}));
        }
        json!({"http": {"routers": routers, "services": services},
            "tls": {"certificates": [{"certFile": certificate, "keyFile": key}]}})
    }

    fn caddy(&self, certificate: &str, key: &str) -> Value {
        let upstreams: Vec<_> =
            self.plan.endpoints.iter().map(|port| json!({"dial": format!("127.0.0.1:{port}")})).collect();
        let routes: Vec<_> = self
            .hosts()
            .map(|(_, name)| {
                json!({"match": [{"host": [name], "path": ["/a/*"]}], "terminal": true, "handle": [{
                    "handler": "reverse_proxy", "upstreams": upstreams,
                    "load_balancing": {"selection_policy": {"policy": "round_robin"}},
                    "headers": {"request": {"set": {"X-Real-Ip": ["{http.request.remote.host}"]}}},
                    "transport": {"protocol": "http", "compression": false,
                        "keep_alive": {"max_idle_conns_per_host": 512}}}]})
            })
            .collect();
        let server = |port: u16, tls: bool| {
            let mut server = json!({"listen": [format!("127.0.0.1:{port}")], "routes": routes,
                "automatic_https": {"disable": true}, "idle_timeout": "600s",
                "protocols": ["h1", "h2"]});
            if tls {
                server["tls_connection_policies"] = json!([{"alpn": ["h2", "http/1.1"]}]);
            }
            server
        };
        json!({"admin": {"disabled": true}, "logging": {"logs": {"default": {"level": "ERROR"}}},
            "apps": {"http": {"http_port": self.http, "https_port": self.https, "servers":
                {"plain": server(self.http, false), "secure": server(self.https, true)}},
            "tls": {"certificates": {"load_files": [{"certificate": certificate, "key": key}]}}}})
    }
}
