//! The server name of a TLS ClientHello (RFC 8446 §4.1.2, RFC 6066 §3).

use crate::env::Bytes;
use crate::reason::Reason;

/// Extensions that are looked through. Clients send 10 to 20; the random ones that GREASE adds
/// are two.
pub const MAX_EXTENSIONS: usize = 32;

/// Where the server name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerName {
    /// From the first byte of the record on.
    pub offset: usize,
    /// In bytes, at least 1.
    pub length: usize,
}

/// Whether a segment begins like a ClientHello: a handshake record of SSL 3 or TLS whose first
/// message is of type 1. Six bytes are enough to tell it from nearly all other segments.
#[inline(always)]
pub fn begins(start: &[u8; 6]) -> bool {
    start[0] == 22 && start[1] == 3 && start[5] == 1
}

/// Finds the server name in the first bytes of a connection.
///
/// The name is taken as it stands: it may hold upper case and bytes that no DNS name has.
///
/// # Errors
/// [`Reason::HelloSplit`] if the bytes end (or the record does) before the name does;
/// [`Reason::HelloNoName`] if all extensions are here and none is `server_name`;
/// [`Reason::HelloMalformed`] if lengths contradict each other or it is no ClientHello.
#[inline(always)]
pub fn server_name<B: Bytes + ?Sized>(bytes: &B) -> Result<ServerName, Reason> {
    const SPLIT: Reason = Reason::HelloSplit;
    const BAD: Reason = Reason::HelloMalformed;

    if bytes.byte(0).ok_or(SPLIT)? != 22 || bytes.byte(1).ok_or(SPLIT)? != 3 {
        return Err(BAD);
    }
    let record_end = 5 + bytes.word(3).ok_or(SPLIT)? as usize;
    if bytes.byte(5).ok_or(SPLIT)? != 1 {
        return Err(BAD);
    }
    // No ClientHello of 64 KiB or more is honest.
    if bytes.byte(6).ok_or(SPLIT)? != 0 {
        return Err(BAD);
    }
    let hello_end = 9 + bytes.word(7).ok_or(SPLIT)? as usize;
    // Message head 4, version 2, random 32.
    let mut at = 5 + 4 + 2 + 32;
    let session = bytes.byte(at).ok_or(SPLIT)? as usize;
    if session > 32 {
        return Err(BAD);
    }
    at += 1 + session;
    let ciphers = bytes.word(at).ok_or(SPLIT)? as usize;
    if ciphers & 1 != 0 {
        return Err(BAD);
    }
    at += 2 + ciphers;
    if at >= hello_end {
        return Err(BAD);
    }
    at += 1 + bytes.byte(at).ok_or(SPLIT)? as usize;
    if at == hello_end {
        // TLS 1.2 and older may end here.
        return Err(Reason::HelloNoName);
    }
    let end = at + 2 + bytes.word(at).ok_or(SPLIT)? as usize;
    at += 2;
    if end != hello_end {
        return Err(BAD);
    }

    for _ in 0..MAX_EXTENSIONS {
        if at == end {
            return Err(Reason::HelloNoName);
        }
        if at + 4 > end {
            return Err(BAD);
        }
        let kind = bytes.word(at).ok_or(SPLIT)?;
        let length = bytes.word(at + 2).ok_or(SPLIT)? as usize;
        at += 4;
        if at + length > end {
            return Err(BAD);
        }
        if kind == 0 {
            return name(bytes, at, length, record_end);
        }
        at += length;
    }
    // More extensions than anyone needs: served, not named.
    Err(Reason::HelloNoName)
}

/// The only entry that RFC 6066 allows in the list: a host name.
#[inline(always)]
fn name<B: Bytes + ?Sized>(
    bytes: &B,
    at: usize,
    extension: usize,
    record_end: usize,
) -> Result<ServerName, Reason> {
    let list = bytes.word(at).ok_or(Reason::HelloSplit)? as usize;
    let kind = bytes.byte(at + 2).ok_or(Reason::HelloSplit)?;
    let length = bytes.word(at + 3).ok_or(Reason::HelloSplit)? as usize;
    if extension < 6 || list + 2 != extension || kind != 0 || length == 0 || length + 3 > list {
        return Err(Reason::HelloMalformed);
    }
    let offset = at + 5;
    // A message may span records; the next record's head would then stand inside the name.
    if offset + length > bytes.len() || offset + length > record_end {
        return Err(Reason::HelloSplit);
    }
    Ok(ServerName { offset, length })
}
