//! Frames to no VIP and to VIPs in proxy mode.

use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use lb_common::fixtures::{NAME, SUFFIX, VIP4, VIP6, client_hello, segment, vips};
use lb_common::maps::{MAX_VIPS, NameKey, VIP_FILTER_SNI, VIP_OBSERVE_SNI, VIP_STEER, VipKey, VipValue};
use lb_common::reason::Reason;
use lb_common::verdict::{mapped, words};
use sluice::dataplane::kernel::{VipTable, load};

use crate::report::{Report, Samples};
use crate::rig::{Result, link, program, reasons, run};

/// Rounds over all cases; each gives one number per case. Many short ones: the least is then a round in
/// which nothing else ran.
const ROUNDS: u32 = 41;
/// Packets of one measurement: some milliseconds.
const PACKETS: u32 = 40_000;

/// The port of VIPs that steer.
const STEERED: u16 = 9443;

struct Case {
    name: &'static str,
    program: &'static str,
    frame: Vec<u8>,
    /// What every frame of it has to be counted as, or it took another way than its name says.
    reason: Option<Reason>,
    must: Option<f64>,
}

/// Measures all cases, with one VIP of each kind and among as many as there can be.
pub fn measure(report: &mut Report, log: bool) -> Result<()> {
    for others in [0, MAX_VIPS - 16] {
        let mut programs = load(None, log)?;
        // Before the maps are taken: afterwards the programs hold them.
        for name in ["empty", "calls", "sluice", "admit", "look", "forgetful", "traced", "rehearsal"] {
            program(&mut programs, name)?;
        }
        fill(&mut programs, others)?;
        let _next = link(&mut programs)?;
        let all = cases();
        let cases: Vec<_> = all.into_iter().filter(|case| others == 0 || case.must.is_some()).collect();
        let mut empty = Samples::default();
        let mut samples = vec![Samples::default(); cases.len()];
        for _ in 0..ROUNDS {
            // Interleaved, so that a slow moment of the machine hits every case alike.
            empty.add(run(&mut programs, "empty", &cases[0].frame, PACKETS)?);
            for (case, samples) in cases.iter().zip(&mut samples) {
                samples.add(run(&mut programs, case.program, &case.frame, PACKETS)?);
            }
        }
        check(&programs, &cases)?;
        Report::head(&format!("{} VIPs, ns", others as usize + kinds().len()));
        report.cost("empty program", &empty, &empty, &empty, None);
        for (case, samples) in cases.iter().zip(&samples) {
            report.cost(case.name, samples, &empty, &empty, case.must);
        }
        if others == 0 {
            sizes(&mut programs)?;
        }
    }
    Ok(())
}

fn sizes(programs: &mut Ebpf) -> Result<()> {
    println!();
    for name in ["empty", "sluice", "admit", "look", "traced", "rehearsal"] {
        let info = program(programs, name)?.info()?;
        println!(
            "{name}: {} instructions, {} bytes of machine code, {} instructions verified",
            info.size_translated().unwrap_or(0) / 8,
            info.size_jitted(),
            info.verified_instruction_count().unwrap_or(0),
        );
    }
    Ok(())
}

fn check(programs: &Ebpf, cases: &[Case]) -> Result<()> {
    let counted = reasons(programs)?;
    for (at, case) in cases.iter().enumerate() {
        let Some(reason) = case.reason else { continue };
        let rows = cases[..=at].iter().filter(|other| other.reason == case.reason).count() as u64;
        let count = counted.iter().find(|(other, _)| *other == reason).map_or(0, |(_, count)| *count);
        if count < rows * u64::from(ROUNDS * PACKETS) {
            return Err(format!("{}: {} counted {count} times", case.name, reason.name()).into());
        }
    }
    Ok(())
}

fn cases() -> Vec<Case> {
    use Reason::{HelloExact, HelloUnknown, HelloWildcard, NotVip, Vip};
    let case = |name, program, frame, reason, must: f64| Case {
        name,
        program,
        frame,
        reason: Some(reason),
        must: (must > 0.0).then_some(must),
    };
    let hello = |port, name: &str| segment(false, port, 443, false, &client_hello(Some(name), 40));
    let data = [b'x'; 1000];
    let sent = |v6, port| segment(v6, 7, port, false, &data);
    vec![
        case("no VIP", "sluice", sent(false, 81), NotVip, 10.0),
        case("no VIP, IPv6", "sluice", sent(true, 81), NotVip, 10.0),
        case("no VIP, to a port of replies", "sluice", sent(false, 20_000), NotVip, 0.0),
        case("VIP, data", "sluice", sent(false, 80), Vip, 25.0),
        case("VIP, data, IPv6", "sluice", sent(true, 80), Vip, 25.0),
        case("TLS VIP, data of a connection", "sluice", sent(false, 443), Vip, 25.0),
        case("TLS VIP, bare ACK", "sluice", segment(false, 7, 443, false, b""), Vip, 0.0),
        case("TLS VIP, SYN", "sluice", segment(false, 7, 443, true, b""), Vip, 0.0),
        case("filtering VIP, data of a connection", "sluice", sent(false, 8443), Vip, 0.0),
        case("filtering VIP, bare ACK", "sluice", segment(false, 7, 8443, false, b""), Vip, 0.0),
        case(
            "steering VIP, data that nobody knows",
            "sluice",
            sent(false, STEERED),
            Reason::CookieStray,
            0.0,
        ),
        Case {
            name: "ten calls of a trivial helper",
            program: "calls",
            frame: sent(false, 80),
            reason: None,
            must: None,
        },
        // A hello is parsed once in a connection. These run a program that forgets it at once.
        case("ClientHello, exact name", "forgetful", hello(8, NAME), HelloExact, 0.0),
        case("ClientHello, wildcard", "forgetful", hello(8, "any.wild.example.com"), HelloWildcard, 0.0),
        case("ClientHello, unknown name", "forgetful", hello(8, "nobody.test.example"), HelloUnknown, 0.0),
    ]
}

/// The VIPs that frames go to.
fn kinds() -> Vec<(VipKey, VipValue)> {
    let steered = [mapped(VIP4), words(VIP6)].into_iter().zip(20..).map(|(address, slot)| {
        let flags = VIP_OBSERVE_SNI | VIP_FILTER_SNI | VIP_STEER;
        (VipKey { address, port: STEERED.to_be(), protocol: 6, zero: 0 }, VipValue { slot, flags })
    });
    vips().into_iter().chain(steered).collect()
}

/// Those VIPs among others, and names among 1,000.
fn fill(programs: &mut Ebpf, others: u32) -> Result<()> {
    let mut table = VipTable::take(programs)?;
    let other = |slot: u32| {
        let [_, _, high, low] = slot.to_be_bytes();
        let key = VipKey { address: mapped([203, 0, high, low]), port: 80u16.to_be(), protocol: 6, zero: 0 };
        (key, VipValue { slot: 30 + slot % (MAX_VIPS - 30), flags: 0 })
    };
    for (key, value) in (0..others).map(other).chain(kinds()) {
        table.insert(&key, value)?;
    }
    for (map, name) in [("NAMES", NAME), ("WILDCARDS", SUFFIX)] {
        let mut names: HashMap<&mut MapData, NameKey, u32> =
            programs.map_mut(map).ok_or("no such map")?.try_into()?;
        names.insert(NameKey::new(name.as_bytes()).ok_or("too long")?, 0, 0)?;
        for other in 1..1000 {
            let other_name = format!("host{other}.example.org");
            names.insert(NameKey::new(other_name.as_bytes()).ok_or("too long")?, other, 0)?;
        }
    }
    Ok(())
}
