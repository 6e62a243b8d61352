//! Replays tests/corpus: hellos of a real client and odd frames, each at every prefix.
//!
//! What a fuzzer or a user ever finds goes there as a file with a row below.

extern crate std;

use std::path::Path;
use std::vec::Vec;

use crate::fixtures::Host;
use crate::hello::server_name;
use crate::packet::{shape, walk};
use crate::reason::Reason;
use crate::verdict::judge;

const HELLOS: &[(&str, Result<&str, Reason>)] = &[
    ("classic", Ok("www.example.com")),
    ("tls12", Ok("any.wild.example.com")),
    ("post-quantum", Ok("www.example.com")),
    ("post-quantum-again", Ok("www.example.com")),
    ("no-name", Err(Reason::HelloNoName)),
];

const FRAMES: &[(&str, Reason)] = &[
    ("arp-padded", Reason::NotIp),
    ("qinq-ipv6-hop-by-hop", Reason::Vip),
    ("ipv4-options-ended", Reason::Vip),
    ("ipv4-padded-ack", Reason::Vip),
    ("ipv4-length-of-zero", Reason::Malformed),
    ("ipv6-no-next-header", Reason::OtherProtocol),
    ("ipv6-authentication-header", Reason::Vip),
    ("ipv6-extension-past-the-end", Reason::Truncated),
    ("tcp-offset-past-the-end", Reason::Vip),
    ("tcp-offset-below-five", Reason::Vip),
];

fn read(kind: &str, name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(kind).join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn files(kind: &str) -> usize {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(kind);
    std::fs::read_dir(path).expect("corpus").count()
}

#[test]
fn hellos_at_every_prefix() {
    for (file, expect) in HELLOS {
        let hello = read("hellos", file);
        let name = |bytes: &[u8]| server_name(bytes).map(|name| bytes[name.offset..][..name.length].to_vec());
        assert_eq!(name(&hello), expect.map(|name| name.as_bytes().to_vec()), "{file}");
        for length in 0..hello.len() {
            let part = name(&hello[..length]);
            assert!(part == Err(Reason::HelloSplit) || part == name(&hello), "{file} at {length}: {part:?}");
        }
    }
    assert_eq!(files("hellos"), HELLOS.len(), "every file has a row");
}

#[test]
fn frames_at_every_prefix() {
    for (file, expect) in FRAMES {
        let frame = read("frames", file);
        let mut host = Host::new();
        host.frame = frame.clone().into();
        assert_eq!(judge(&host).reason, *expect, "{file}");
        for length in 0..frame.len() {
            host.frame.borrow_mut().truncate(frame.len() - length);
            let reason = judge(&host).reason;
            let cut = [*expect, Reason::Truncated, Reason::Malformed];
            assert!(cut.contains(&reason), "{file}, {length} bytes short: {reason:?}");
            if let Some(packet) = shape(&host) {
                assert_eq!(walk(&host), Ok(packet), "{file}, {length} bytes short");
            }
        }
    }
    assert_eq!(files("frames"), FRAMES.len(), "every file has a row");
}
