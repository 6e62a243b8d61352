//! What the demo asks, and what must come of it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use xtask::lab::manifests::ingress;
use xtask::lab::websocket::WebSocket;
use xtask::lab::{Request, Scheme, Traffic};

use super::Interrupt;
use super::probe::Probe;
use super::row::{Expect, Row, shown};
use super::stage::{NAMESPACE, Stage};

/// A single request: note, URL's scheme, host, target, and what must answer.
struct Ask {
    note: &'static str,
    tls: Option<Tls>,
    host: &'static str,
    target: &'static str,
    expect: Expect,
}

/// What TLS adds: the protocols offered, and the name under which XDP counts the ClientHello.
#[derive(Clone, Copy)]
struct Tls {
    alpn: &'static str,
    counted_as: &'static str,
}

const fn http(note: &'static str, host: &'static str, target: &'static str, expect: Expect) -> Ask {
    Ask { note, tls: None, host, target, expect }
}

const ASKS: &[Ask] = &[
    http("fan-out", "example.com", "/blue", Expect::Backend("blue", "/blue")),
    http("fan-out", "example.com", "/green/x?y=1", Expect::Backend("green", "/green/x?y=1")),
    http("no rule", "example.com", "/purple", Expect::Status(404)),
    http("by name", "blue.example.com", "/", Expect::Backend("blue", "/")),
    http("by name", "green.example.com", "/a/b", Expect::Backend("green", "/a/b")),
    http("any host", "anything.test", "/api/v1", Expect::Backend("api", "/api/v1")),
    http("by element", "anything.test", "/apix", Expect::Status(404)),
    http("v1beta1, rewrite", "anything.test", "/testpath", Expect::Backend("legacy", "/")),
    Ask {
        note: "TLS by SNI, h2",
        tls: Some(Tls { alpn: "h2", counted_as: "shop.example.com" }),
        host: "shop.example.com",
        target: "/cart",
        expect: Expect::Backend("shop", "/cart"),
    },
    Ask {
        note: "TLS wildcard, h1",
        tls: Some(Tls { alpn: "http/1.1", counted_as: "*.tenants.example.com" }),
        host: "one.tenants.example.com",
        target: "/",
        expect: Expect::Backend("tenants", "/"),
    },
    http("one label only", "a.b.tenants.example.com", "/", Expect::Status(404)),
];

/// Runs everything over every VIP; one row for each thing asked.
pub fn play(stage: &mut Stage, interrupt: &Interrupt) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for vip in stage.vips().to_vec() {
        for ask in ASKS {
            interrupt.check()?;
            rows.push(request(stage, vip, ask)?);
        }
        interrupt.check()?;
        rows.push(endpoint_goes_away(stage, vip)?);
        interrupt.check()?;
        rows.push(websocket(stage, vip)?);
    }
    Ok(rows)
}

fn request(stage: &Stage, vip: IpAddr, ask: &Ask) -> Result<Row> {
    let to = SocketAddr::new(vip, if ask.tls.is_some() { stage.https() } else { stage.http() });
    let mut request = Request::get(to, ask.host, ask.target);
    let mut scheme = "http";
    if let Some(tls) = ask.tls {
        scheme = "https";
        request = request.over(Scheme::Tls(stage.authority().client(&[tls.alpn]), ask.host.to_owned()));
    }
    let before = stage.daemon().status()?;
    let answer = request.send_from(stage.client());
    let after = stage.daemon().status()?;
    let (answered, good) = match &answer {
        Ok(answer) => (shown(answer), ask.expect.holds(answer)),
        Err(error) => (error.to_string(), false),
    };
    let probe = Probe { before: &before, after: &after };
    let asked = format!("{scheme}://{}{} ({})", ask.host, ask.target, ask.note);
    Ok(row(stage, to, asked, ask.expect.to_string(), (answered, good), &probe, ask.tls.map(|t| t.counted_as)))
}

/// One of two endpoints leaves the slice and then ends, while requests go on.
fn endpoint_goes_away(stage: &mut Stage, vip: IpAddr) -> Result<Row> {
    const LEAVES: &str = "blue-1";
    const STAYS: &str = "blue-2";
    let to = SocketAddr::new(vip, stage.http());
    let request = Request::get(to, "blue.example.com", "/");
    let before = stage.daemon().status()?;
    let traffic = Traffic::start(stage.client(), request.clone(), Duration::from_millis(2))?;
    std::thread::sleep(Duration::from_millis(300));
    stage.publish_without(Some(LEAVES))?;
    let changed = stage.wait_newer(&before)?;
    // Requests that chose it a moment ago may still be under way, as with a pod that terminates.
    std::thread::sleep(Duration::from_millis(300));
    stage.end_backend(LEAVES)?;
    std::thread::sleep(Duration::from_millis(300));
    let tally = traffic.stop();
    let alone = (0..8)
        .all(|_| request.send_from(stage.client()).is_ok_and(|a| a.endpoint().as_deref() == Some(STAYS)));
    let after = stage.daemon().status()?;
    stage.restart_backend(LEAVES)?;
    stage.publish_without(None)?;
    stage.wait_newer(&changed)?;

    let shares: Vec<_> = tally.endpoints.iter().map(|(name, count)| format!("{name} {count}")).collect();
    let mut answered = format!("{} good, {} bad ({})", tally.good, tally.bad.len(), shares.join(", "));
    if let Some(first) = tally.bad.first() {
        answered.push_str(&format!("; first: {first}"));
    }
    if !alone {
        answered.push_str(&format!("; then not only {STAYS}"));
    }
    let good = tally.bad.is_empty() && tally.endpoints.len() == 2 && alone;
    let probe = Probe { before: &before, after: &after };
    let asked = format!("http://blue.example.com/ while {LEAVES} goes away");
    Ok(row(stage, to, asked, "none fails".into(), (answered, good), &probe, None))
}

/// A WebSocket that is open while the configuration changes.
fn websocket(stage: &Stage, vip: IpAddr) -> Result<Row> {
    const FILE: &str = "added-later.yaml";
    let to = SocketAddr::new(vip, stage.http());
    let before = stage.daemon().status()?;
    let talk = stage.client().block_on(|| async {
        let mut socket = WebSocket::open(to, "green.example.com", "/socket").await?;
        socket.echo("before").await?;
        let added = [ingress(NAMESPACE, "added-later", "later.example.com", "/", "green")];
        stage.manifests().write_objects(FILE, &added)?;
        stage.wait_newer(&before)?;
        let new = Request::get(to, "later.example.com", "/").send().await?;
        socket.echo("after").await?;
        anyhow::Ok(format!("{} echoes, the new host: {}", socket.endpoint().unwrap_or("?"), shown(&new)))
    })?;
    let after = stage.daemon().status()?;
    stage.manifests().remove(FILE)?;
    stage.wait_newer(&after)?;
    let (answered, good) = match talk {
        Ok(text) => {
            let good = text == "green-3 echoes, the new host: 200 green-3 as /";
            (text, good)
        }
        Err(error) => (format!("{error:#}"), false),
    };
    let probe = Probe { before: &before, after: &after };
    let asked = "ws://green.example.com/socket, open while an Ingress is added".to_owned();
    Ok(row(stage, to, asked, "echo before and after".into(), (answered, good), &probe, None))
}

fn row(
    stage: &Stage,
    to: SocketAddr,
    asked: String,
    expected: String,
    (answered, good): (String, bool),
    probe: &Probe<'_>,
    sni: Option<&str>,
) -> Row {
    let (path, path_good) =
        if stage.xdp() { probe.path(to, sni) } else { ("no XDP: a bound socket".to_owned(), true) };
    Row {
        family: if to.is_ipv4() { '4' } else { '6' },
        asked,
        expected,
        answered,
        path,
        good: good && path_good,
    }
}
