//! NICs that leave checksums and VLAN tags to nobody, by ethtool's generic netlink.
//!
//! Numbers and shapes: Linux, Documentation/networking/ethtool-netlink.rst and
//! include/uapi/linux/ethtool_netlink.h.

use futures::StreamExt as _;
use genetlink::GenetlinkHandle;
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};

const FEATURES_SET: u8 = 12;
const FEATURES_HEADER: u16 = 1;
const HEADER_DEV_NAME: u16 = 2;
const FEATURES_WANTED: u16 = 3;
const BITSET_BITS: u16 = 3;
const BITS_BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const NESTED: u16 = 1 << 15;

/// What leaves `interface` of this namespace has its checksums whole, as on a wire. Veths leave them to
/// whoever takes the frame, which is fine only as long as nobody changes it.
pub fn are_whole(interface: &str) {
    clear(interface, "tx-checksum-ip-generic");
}

/// What leaves `interface` of this namespace has its VLAN tags in the frame, as on a wire. Veths leave them
/// beside it, where no XDP program looks.
pub fn have_tags(interface: &str) {
    clear(interface, "tx-vlan-hw-insert");
    clear(interface, "tx-vlan-stag-hw-insert");
}

fn clear(interface: &str, feature: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (connection, handle, _) = genetlink::new_connection().expect("a netlink socket");
        tokio::spawn(connection);
        set(handle, interface, feature).await;
    });
}

/// A bit that is named without a value is one to clear.
async fn set(mut handle: GenetlinkHandle, interface: &str, clear: &str) {
    let request = Features(vec![
        nested(FEATURES_HEADER, &[text(HEADER_DEV_NAME, interface)]),
        nested(FEATURES_WANTED, &[nested(BITSET_BITS, &[nested(BITS_BIT, &[text(BIT_NAME, clear)])])]),
    ]);
    let mut message = NetlinkMessage::from(GenlMessage::from_payload(request));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut answers = handle.request(message).await.expect("ethtool's netlink");
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.expect("an answer").payload {
            assert_eq!(error.code, None, "{interface}: {}", error.to_io());
        }
    }
}

fn text(kind: u16, text: &str) -> DefaultNla {
    DefaultNla::new(kind, [text.as_bytes(), b"\0"].concat())
}

fn nested(kind: u16, inner: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; inner.buffer_len()];
    inner.emit(&mut bytes);
    DefaultNla::new(kind | NESTED, bytes)
}

/// `ETHTOOL_MSG_FEATURES_SET`; what comes back is not looked at.
#[derive(Debug)]
struct Features(Vec<DefaultNla>);

impl GenlFamily for Features {
    fn family_name() -> &'static str {
        "ethtool"
    }

    fn command(&self) -> u8 {
        FEATURES_SET
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Features {
    fn buffer_len(&self) -> usize {
        self.0.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.0.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Features {
    fn parse_with_param(_: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        Ok(Self(Vec::new()))
    }
}
