//! How large bodies may be, and who waits for whom.

use super::defaults::Buffers;
use super::reader::Reader;
use super::values::{self, Bad, Read};
use crate::model::RoutePolicy;

/// Reads `proxy-body-size` and `proxy-*buffer*`, of annotations as of settings.
pub(super) fn read(reader: &mut Reader<'_>, buffers: &mut Buffers, policy: &mut RoutePolicy) {
    if let Some(most) = reader.get("proxy-body-size", body_size) {
        policy.body.max_request = most;
    }
    if let Some(on) = reader.get("proxy-request-buffering", values::on_off) {
        policy.body.buffer_request = on;
    }
    if let Some(size) = reader.get("proxy-buffer-size", head_size) {
        policy.body.max_response_head = Some(size);
        buffers.size = size.into();
    }
    if let Some(number) = reader.get("proxy-buffers-number", values::number(1, 4096)) {
        buffers.number = number;
    }
    let ahead = match reader.get("proxy-buffering", values::on_off) {
        Some(on) => on,
        None => policy.body.buffer_response.is_some(),
    };
    policy.body.buffer_response = ahead.then(|| buffers.number.saturating_mul(buffers.size));
}

/// Zero is any size.
pub(super) fn body_size(text: &str) -> Read<Option<u64>> {
    Ok(Some(values::size(text)?).filter(|most| *most > 0))
}

/// From a line to what nobody sends as a head.
pub(super) fn head_size(text: &str) -> Read<u32> {
    match u32::try_from(values::size(text)?) {
        Ok(size @ 256..=0x100_0000) => Ok(size),
        _ => Err(Bad::new("is no size of a response's head", "write 256 bytes to 16m")),
    }
}
