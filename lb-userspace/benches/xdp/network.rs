//! A network namespace for the benchmark: one node with a road in and one out.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::forward::BACKENDS;
use crate::rig::Result;

/// Clients' packets come in by it.
pub const IN: &str = "in";
/// Endpoints are behind it.
pub const OUT: &str = "out";
/// The other ends.
pub const FAR_IN: &str = "far-in";
/// See [`FAR_IN`].
pub const FAR_OUT: &str = "far-out";

/// Puts this process into a namespace with two veths, through which the kernel forwards. All endpoints
/// are behind one next hop, whose MAC is known, or in the segment itself.
pub fn enter() -> Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
    for (setting, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv6/conf/default/disable_ipv6", "1"),
    ] {
        std::fs::write(format!("/proc/sys/net/{setting}"), value)?;
    }
    let commands = format!(
        "link set lo up\n\
         link add {IN} address 02:00:00:00:00:01 type veth peer name {FAR_IN}\n\
         link add {OUT} address 02:00:00:00:00:02 type veth peer name {FAR_OUT} address 02:00:00:00:00:09\n\
         link set {IN} up\nlink set {FAR_IN} up\nlink set {OUT} up\nlink set {FAR_OUT} up\n\
         addr add 10.8.0.1/24 dev {IN}\naddr add 10.9.0.1/24 dev {OUT}\n\
         route add 10.10.0.0/16 via 10.9.0.2\nroute add 10.11.0.0/16 dev {OUT}\nroute add 10.64.0.0/10 via 10.8.0.2\n\
         neigh add 10.9.0.2 lladdr 02:00:00:00:00:09 dev {OUT} nud permanent\n\
         neigh add 10.8.0.2 lladdr 02:00:00:00:00:08 dev {IN} nud permanent\n"
    );
    feed("ip", &["-batch", "-"], &commands)?;
    let neighbour =
        |n: u16| format!("neigh add 10.11.0.{n} lladdr 02:00:00:00:00:09 dev {OUT} nud permanent\n");
    feed("ip", &["-batch", "-"], &(0..BACKENDS).map(neighbour).collect::<String>())
}

/// Runs a command with this input.
pub fn feed(program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    child.stdin.take().ok_or("no stdin")?.write_all(input.as_bytes())?;
    if child.wait()?.success() { Ok(()) } else { Err(format!("{program} failed").into()) }
}
