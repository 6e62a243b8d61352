//! Native and generic XDP, and which refusals lead from one to the other.

use sluice::dataplane::kernel::{self, Dataplane, KernelError, Settings, XdpMode};

use crate::kernel_node::{Node, ip, ip_output};

#[test]
fn modes() {
    let node = Node::new();
    ip(&["link", "add", "jumbo", "mtu", "9000", "type", "veth", "peer", "name", "far9000", "mtu", "9000"]);

    // Loopback has no native XDP.
    for (interface, asked, expect) in [
        ("nic", XdpMode::Auto, Ok(XdpMode::Native)),
        ("nic", XdpMode::Native, Ok(XdpMode::Native)),
        ("nic", XdpMode::Generic, Ok(XdpMode::Generic)),
        ("jumbo", XdpMode::Auto, Ok(XdpMode::Native)),
        ("lo", XdpMode::Auto, Ok(XdpMode::Generic)),
        ("lo", XdpMode::Native, Err("lo takes no XDP program in native mode")),
    ] {
        let what = format!("{interface} as {}", asked.name());
        let interface = vec![interface.to_owned()];
        let settings = Settings { interface: interface.clone(), xdp_mode: asked, ..node.settings() };
        match (Dataplane::open(settings), expect) {
            (Ok(dataplane), Ok(mode)) => {
                assert_eq!(dataplane.info().interfaces[0].mode, mode, "{what}");
                let shown = ip_output(&["link", "show", &interface[0]]);
                assert_eq!(shown.contains("xdpgeneric"), mode == XdpMode::Generic, "{what}: {shown}");
                assert!(shown.contains("xdp"), "{what}: {shown}");
                drop(dataplane);
                // Rows shall not take over each other's links.
                kernel::remove(&node.pin_dir).expect("remove");
            }
            (Err(error @ KernelError::Attach { .. }), Err(part)) => {
                let text = error.to_string();
                assert!(text.contains(part) && text.contains("os error"), "{what}: {text}");
            }
            (got, expect) => panic!("{what}: {:?}, not {expect:?}", got.map(|d| d.info().clone())),
        }
    }
}
