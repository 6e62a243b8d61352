//! `--sni filter` with real TLS clients: names that nobody serves get the same alert from XDP and from
//! the proxy, and nobody else notices.

use std::process::Command;

use rustls::AlertDescription;
use serde_json::Value;
use xtask::lab::topology::VIP_V4;

use crate::sni_rig::{End, KEYS, Keys, Rig, VIPS, with_tls};

fn refused() -> End {
    End::Alert(AlertDescription::UnrecognisedName)
}

fn served() -> End {
    End::Served("HTTP/1.1 200".to_owned())
}

/// The same answers, whoever gives them.
fn answers(rig: &Rig) {
    for (to, keys) in VIPS.into_iter().flat_map(|to| KEYS.map(|keys| (to, keys))) {
        // Clients shuffle their extensions: sometimes the name is in the first segment, sometimes not.
        for _ in 0..6 {
            for (name, expect) in [
                ("web.example.com", served()),
                ("WEB.Example.Com", served()),
                ("a.wild.example.com", served()),
                ("nobody.test", refused()),
                ("a.b.wild.example.com", refused()),
                ("wild.example.com", refused()),
            ] {
                assert_eq!(rig.ask(to, name, keys), expect, "{name} at {to} with {keys:?}");
            }
        }
        // Without a name there is a certificate all the same.
        let nameless = rig.ask(to, "", keys);
        let right = matches!(&nameless, End::Other(text) if text.contains("certificate"));
        assert!(right, "{nameless:?} at {to} with {keys:?}");
    }
}

#[test]
fn unknown_names_get_an_alert_from_xdp() {
    let rig = Rig::new("filter", true, "--sni filter");
    answers(&rig);
    // All classic hellos fit in a segment.
    let least = (VIPS.len() * 6 * 3) as u64;
    assert!(rig.verdict("sni_refused") >= least, "{}", rig.daemon.status().expect("a status"));
    assert!(rig.verdict("hello_unknown") >= least && rig.verdict("hello_split") > 0);
    // The stack was told of each: no connection waits for its hello until it times out.
    let none_open = |status: &Value| status["proxy"]["total"]["active"].as_u64() == Some(0);
    let status = rig.daemon.wait_for("every connection ended", none_open).expect("they end");
    assert!(status["proxy"]["total"]["tls_refused"].as_u64() > Some(0), "split hellos: {status}");
    assert!(rig.verdict("sni_closing") >= least, "{status}");

    // Names come and go with their routes.
    let late = || rig.ask(VIP_V4, "late.wild2.example.com", Keys::Classic);
    assert_eq!(late(), refused());
    rig.manifests.write_objects("late.yaml", &[with_tls("late", "late.wild2.example.com")]).expect("a file");
    let named = |yes: bool| move |status: &Value| status["sni"].to_string().contains("late.wild2") == yes;
    rig.daemon.wait_for("the name is there", named(true)).expect("it comes");
    let end = late();
    assert!(matches!(&end, End::Other(text) if text.contains("certificate")), "{end:?}");
    rig.manifests.remove("late.yaml").expect("removed");
    rig.daemon.wait_for("the name is gone", named(false)).expect("it goes");
    assert_eq!(late(), refused());
    let verified = rig.daemon.cli(["maps", "verify"]).expect("runs");
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));

    let mut curl = Command::new("curl");
    curl.args([
        "-sSk",
        "--max-time",
        "20",
        "--resolve",
        "nobody.test:443:198.51.100.10",
        "https://nobody.test/",
    ]);
    let output = rig.topology.client().enter(|| curl.output()).expect("enter").expect("curl is installed");
    let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert!(said.contains("unrecognized name"), "{said}");
}

#[test]
fn unknown_names_get_the_same_alert_without_xdp() {
    let rig = Rig::new("filter-off", false, "--sni filter");
    // Nobody steers here: the VIPs are addresses of the node.
    for vip in ["198.51.100.10/32", "2001:db8:100::10/128"] {
        rig.topology.node.ip(&format!("addr add {vip} dev lo")).expect("an address");
    }
    answers(&rig);
    let status = rig.daemon.status().expect("a status");
    let refused = (VIPS.len() * KEYS.len() * 6 * 3) as u64;
    assert_eq!(status["proxy"]["total"]["tls_refused"].as_u64(), Some(refused), "{status}");
}
