//! Who gets in by address, and how checks count together.

use std::sync::Arc;

use sluice::model::{BasicAuth, Password, Satisfy};

use crate::{from, get, nets, several, single};

#[test]
fn networks() {
    let (inside, office, none) = (&["10.0.0.0/8", "2001:db8::/32"][..], &["10.1.0.0/16"][..], &[][..]);
    for (allow, deny, client, status) in [
        (Some(inside), None, "10.1.2.3", 200),
        (Some(inside), None, "2001:db8::1", 200),
        (Some(inside), None, "2001:db9::1", 403),
        (Some(inside), None, "11.1.2.3", 403),
        (Some(inside), Some(office), "10.1.2.3", 403),
        (Some(inside), Some(office), "10.2.2.3", 200),
        (None, Some(office), "10.1.2.3", 403),
        (None, Some(office), "11.1.2.3", 200),
        (Some(none), None, "10.1.2.3", 403),
        (None, Some(none), "10.1.2.3", 200),
        (Some(inside), None, "::ffff:10.1.2.3", 200),
        (Some(inside), None, "nonsense", 403),
    ] {
        let proxy = single(|policy| {
            policy.access.allow = allow.map(nets);
            policy.access.deny = deny.map(nets);
        });
        let seen = get(proxy.http, "/", &from(client));
        assert_eq!(seen.status, status, "allow {allow:?}, deny {deny:?}: {client}: {}", seen.text());
    }
}

/// Who is no trusted proxy can't say that it is somebody else.
#[test]
fn only_trusted_proxies_name_the_client() {
    let describe = |rig: &mut crate::Rig| {
        rig.route_with("a.test", "/", "web", |draft| draft.policy.access.allow = Some(nets(&["10.0.0.0/8"])));
    };
    let mut untrusting = crate::Rig::new();
    untrusting.cluster("web", &[crate::endpoint(crate::echo)]);
    describe(&mut untrusting);
    let untrusting = untrusting.start(|_| ());
    let trusting = several(describe);
    for (proxy, headers, status) in [
        (&untrusting, "X-Forwarded-For: 10.0.0.1\r\n", 403),
        (&untrusting, "X-Real-IP: 10.0.0.1\r\n", 403),
        (&trusting, "X-Forwarded-For: 10.0.0.1\r\n", 200),
        (&trusting, "X-Real-IP: 10.0.0.1\r\n", 200),
        // Most load balancers write the chain, and pass on what the client says here.
        (&trusting, "X-Real-IP: 10.0.0.1\r\nX-Forwarded-For: 1.2.3.4\r\n", 403),
        (&trusting, "X-Forwarded-For: 10.0.0.1, 1.2.3.4\r\n", 403),
        (&trusting, "X-Forwarded-For: 10.0.0.1, 127.0.0.9\r\n", 200),
        (&trusting, "", 403),
    ] {
        assert_eq!(get(proxy.http, "/", headers).status, status, "{headers}");
    }
}

#[test]
fn all_or_any() {
    let (good, bad) = ("Authorization: Basic YTpi\r\n", "Authorization: Basic YTpj\r\n");
    for (satisfy, client, password, status) in [
        (Satisfy::All, "10.1.2.3", good, 200),
        (Satisfy::All, "10.1.2.3", bad, 401),
        (Satisfy::All, "11.1.2.3", good, 403),
        (Satisfy::All, "11.1.2.3", "", 403),
        (Satisfy::Any, "10.1.2.3", "", 200),
        (Satisfy::Any, "11.1.2.3", good, 200),
        (Satisfy::Any, "11.1.2.3", bad, 401),
        (Satisfy::Any, "11.1.2.3", "", 401),
    ] {
        let proxy = single(|policy| {
            policy.access.satisfy = satisfy;
            policy.access.allow = Some(nets(&["10.0.0.0/8"]));
            let users = Arc::new([("a".into(), Password("{PLAIN}b".into()))]);
            policy.access.basic = Some(Arc::new(BasicAuth { realm: "r".into(), users }));
        });
        let seen = get(proxy.http, "/", &format!("{}{password}", from(client)));
        assert_eq!(seen.status, status, "{satisfy:?} {client} {password:?}: {}", seen.text());
    }
}
