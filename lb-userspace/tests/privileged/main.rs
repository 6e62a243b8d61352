//! Tests that need root: network namespaces, XDP, bpffs. Without root each fails and says so.

mod app;
mod checksums;
mod e2e;
mod filter;
mod kernel;
mod kernel_direct;
mod kernel_fixtures;
mod kernel_forward;
mod kernel_forwarding;
mod kernel_jumbo;
mod kernel_modes;
mod kernel_node;
mod kernel_rare;
mod kernel_restart;
mod kernel_steering;
mod kernel_tagged;
mod quic;
mod rights;
mod services;
mod sni_rig;
mod steer;
mod tune;
mod watch;

/// Fails a test that was started without the rights it needs.
pub fn need_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes network namespaces and loads kernel programs: run it as root"
    );
}
