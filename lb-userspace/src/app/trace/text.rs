//! Events as lines for people.

use jiff::tz::TimeZone;

use super::event::{Event, Shown};

/// The line of an event, with the time of day in a zone.
pub fn line(event: &Event, zone: &TimeZone) -> String {
    let time = event.time.to_zoned(zone.clone()).strftime("%H:%M:%S%.6f").to_string();
    let Event { interface, verdict, reason, .. } = event;
    let head = format!("{time} {interface} {verdict:<8} {reason:<16} {}", frame(&event.came));
    match &event.went {
        Some(went) => format!("{head} => {}", frame(went)),
        None => head,
    }
}

fn frame(frame: &Shown) -> String {
    let Shown { length, protocol, flags, from, to, .. } = frame;
    let flags = if flags.is_empty() { String::new() } else { format!(" [{flags}]") };
    format!("{protocol} {from} > {to}{flags} {length} B")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::trace::event::tests::some;

    #[test]
    fn lines() {
        let lines: Vec<_> = some().iter().map(|event| line(event, &TimeZone::UTC)).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        01:00:00.000000 eth0 send     forwarded        tcp 192.0.2.1:1234 > 198.51.100.10:443 [S] 54 B => tcp 192.0.2.1:1234 > 10.9.1.2:443 [S] 54 B
        01:00:00.000000 eth0 drop     no_backend       tcp 192.0.2.1:1234 > 198.51.100.10:443 [S] 54 B
        01:00:00.000000 eth0 pass     not_ip           0x0806 02:02:02:02:02:02 > ff:ff:ff:ff:ff:ff 42 B
        ");
    }
}
