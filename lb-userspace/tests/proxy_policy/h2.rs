//! Policies over HTTP/2: many requests on one connection, each decided by itself.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sluice::model::{BasicAuth, Cors, HeaderEdit, Origin, Password, Redirect};

use crate::{Running, nets, several, template};

fn proxy() -> Running {
    several(|rig| {
        rig.route_with("redirect.test", "/", "web", |draft| {
            draft.policy.redirect =
                Some(Redirect { status: 308, to: template("$scheme://new.$host$request_uri") });
        });
        rig.route_with("closed.test", "/", "web", |draft| draft.policy.access.allow = Some(nets(&[])));
        rig.route_with("basic.test", "/", "web", |draft| {
            let users = Arc::new([("a".into(), Password("{PLAIN}b".into()))]);
            draft.policy.access.basic = Some(Arc::new(BasicAuth { realm: "r".into(), users }));
            draft.policy.request_headers = vec![HeaderEdit::Set {
                name: "x-user".into(),
                value: template("$remote_user-$cookie_two"),
                statuses: vec![],
            }];
        });
        rig.route_with("cors.test", "/", "web", |draft| {
            draft.policy.cors = Some(Arc::new(Cors {
                origins: vec![Origin::Any],
                methods: "GET".into(),
                headers: "x".into(),
                expose: None,
                credentials: false,
                max_age: 1,
            }));
        });
        rig.route_with("limited.test", "/", "web", |draft| draft.policy.limits.per_minute = Some(1));
    })
}

#[test]
fn each_request_by_itself() {
    let proxy = proxy();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(proxy.http).await.expect("connected");
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .expect("h2");
        tokio::spawn(connection);
        let good = ("authorization", "Basic YTpi");
        let cookies = [good, ("cookie", "one=1"), ("cookie", "two=2")];
        for (method, host, headers, status, says) in [
            ("GET", "redirect.test", &[][..], 308, "http://new.redirect.test/p?q"),
            ("GET", "closed.test", &[], 403, "not open to your address"),
            ("GET", "basic.test", &[], 401, "Basic realm"),
            ("GET", "basic.test", &cookies, 200, "x-user: a-2"),
            ("GET", "basic.test", &[("authorization", "Basic YTpj")], 401, "Basic realm"),
            ("OPTIONS", "cors.test", &[("origin", "https://x.test")], 204, "access-control-allow-origin"),
            ("GET", "limited.test", &[], 200, "GET /p?q"),
            ("GET", "limited.test", &[], 200, "GET /p?q"),
            ("GET", "limited.test", &[], 503, "too many requests"),
        ] {
            let mut request = hyper::Request::builder().method(method).uri(format!("http://{host}/p?q"));
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.body(Empty::<Bytes>::new()).expect("a request");
            let response = sender.send_request(request).await.expect("an answer");
            let (head, body) = response.into_parts();
            let body = body.collect().await.expect("a body").to_bytes();
            let all = format!("{:?} {}", head.headers, String::from_utf8_lossy(&body));
            assert_eq!(head.status.as_u16(), status, "{method} {host} {headers:?}: {all}");
            assert!(all.contains(says), "{method} {host}: {says} in {all}");
        }
    });
}
