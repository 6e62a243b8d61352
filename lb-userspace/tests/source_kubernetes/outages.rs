//! What goes wrong on the way to the API server.

use std::time::{Duration, Instant};

use sluice::source::{Health, Update};

use crate::api_server::{ApiServer, Fault};
use crate::common::*;

/// What goes wrong; whether the source must say so; whether it must list Ingresses again.
struct Row {
    what: &'static str,
    break_it: fn(&ApiServer),
    told: Option<&'static str>,
    mend: fn(&ApiServer),
    lists_again: bool,
}

#[tokio::test]
async fn outages_keep_the_last_good_state() {
    let rows = [
        Row { what: "410 event", break_it: ApiServer::gone, told: None, mend: |_| {}, lists_again: true },
        Row {
            what: "410 status",
            break_it: ApiServer::gone_by_status,
            told: None,
            mend: |_| {},
            lists_again: true,
        },
        Row {
            what: "410 and expired tokens",
            break_it: |s| {
                s.expire_tokens(3);
                s.gone();
            },
            told: None,
            mend: |_| {},
            lists_again: true,
        },
        Row {
            what: "restored from a backup",
            break_it: ApiServer::rewind,
            told: None,
            mend: |_| {},
            lists_again: true,
        },
        Row {
            what: "cut",
            break_it: ApiServer::disconnect_all,
            told: None,
            mend: |_| {},
            lists_again: false,
        },
        Row { what: "end", break_it: ApiServer::end_watches, told: None, mend: |_| {}, lists_again: false },
        Row {
            what: "500",
            break_it: |s| {
                s.outage(Some(500));
                s.disconnect_all();
            },
            told: Some("500"),
            mend: |s| s.outage(None),
            lists_again: false,
        },
        Row {
            what: "429",
            break_it: |s| {
                s.outage(Some(429));
                s.end_watches();
            },
            told: Some("429"),
            mend: |s| s.outage(None),
            lists_again: false,
        },
        Row {
            what: "403 after 410",
            break_it: |s| {
                s.outage(Some(403));
                s.gone();
            },
            told: Some("403"),
            mend: |s| s.outage(None),
            lists_again: true,
        },
        Row {
            what: "401, an expired token",
            break_it: |s| {
                s.outage(Some(401));
                s.disconnect_all();
            },
            told: Some("401"),
            mend: |s| s.outage(None),
            lists_again: false,
        },
        Row {
            what: "dead, and nobody says so",
            break_it: ApiServer::stall,
            told: None,
            mend: |_| {},
            lists_again: false,
        },
        Row {
            what: "half an event",
            break_it: |s| s.send("ingresses", "{\"type\":\"ADDED\",\"object\":{\"meta"),
            told: None,
            mend: |_| {},
            lists_again: false,
        },
        Row {
            what: "garbage",
            break_it: |s| s.send("ingresses", "<html>\n"),
            told: None,
            mend: |_| {},
            lists_again: true,
        },
        Row {
            what: "an event of no known type",
            break_it: |s| s.send("ingresses", "{\"type\":\"ODD\",\"object\":{}}\n"),
            told: None,
            mend: |_| {},
            lists_again: true,
        },
        Row {
            what: "somebody else's page",
            break_it: |s| {
                for _ in 0..3 {
                    s.fail_next("list", "ingresses", Fault::Body("<html>".into()));
                    s.fail_next("watch", "ingresses", Fault::Body("<html>\n".into()));
                }
                s.gone();
            },
            told: None,
            mend: |_| {},
            lists_again: true,
        },
        Row {
            what: "slow",
            break_it: |s| {
                for _ in 0..1000 {
                    s.fail_next("list", "ingresses", Fault::Slow(Duration::from_secs(30)));
                    s.fail_next("watch", "ingresses", Fault::Slow(Duration::from_secs(30)));
                }
                s.gone();
            },
            told: Some("no answer"),
            mend: ApiServer::clear_faults,
            lists_again: true,
        },
    ];
    for (Row { what, break_it, told, mend, lists_again }, streams) in
        rows.iter().flat_map(|row| [(row, false), (row, true)])
    {
        let what = &format!("{what}, streams: {streams}");
        let server = server(streams).await;
        let mut updates = started(&server).await;
        let lists = listings(&server, "ingresses");
        let watches = server.count("watch", "ingresses");
        break_it(&server);
        if let Some(told) = told {
            let says = |u: &Update| matches!(&u.health, Health::Degraded { reason, since } if reason.contains(told) && *since > 0);
            let degraded = until(&mut updates, what, says).await;
            assert!(degraded.synced, "{what}");
            assert_eq!(names(&degraded).len(), START.len(), "{what}: {:?}", names(&degraded));
        }
        server.apply(ingress("two", None));
        server.delete(&service("a"));
        mend(&server);
        let expect: Vec<&str> =
            start_and(&["ingress two"]).into_iter().filter(|n| *n != "service a").collect();
        until_names(&mut updates, what, &expect).await;
        until_asked(&server, "watch", "ingresses", watches + 1).await;
        assert_eq!(listings(&server, "ingresses") > lists, *lists_again, "{what}");
    }
}

#[tokio::test]
async fn a_dead_server_that_comes_back() {
    let mut server = ApiServer::start().await;
    let mut updates = started(&server).await;
    server.stop().await;
    let degraded = until(&mut updates, "degraded", |u| !u.health.is_ok()).await;
    assert_eq!(names(&degraded).len(), START.len());
    server.apply(ingress("two", None));
    server.restart().await;
    until_names(&mut updates, "back again", &start_and(&["ingress two"])).await;
}

#[tokio::test]
async fn waits_as_long_as_the_server_says() {
    let server = server(true).await;
    let mut updates = started(&server).await;
    server.fail_next("watch", "ingresses", Fault::RetryAfter(2));
    let began = Instant::now();
    server.end_watches();
    until(&mut updates, "told", |u| !u.health.is_ok()).await;
    server.apply(ingress("two", None));
    until_names(&mut updates, "after the wait", &start_and(&["ingress two"])).await;
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
}
