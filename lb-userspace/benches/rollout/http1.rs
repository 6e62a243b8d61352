//! An HTTP/1.1 server that closes connections when it suits it.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::pod::{Me, Style, reset, turns_deaf};

/// Idle connections of a fickle pod are closed after so long, in milliseconds, and up to twice that.
const FICKLE_IDLE: u64 = 1500;

/// Answers requests with what they sent.
pub async fn serve(mut stream: TcpStream, me: &Me) {
    match answer_all(&mut stream, me).await {
        Ok(End::Reset) => reset(stream),
        // Errors are the other side's end of the connection.
        Ok(End::Close) | Err(_) => {}
    }
}

enum End {
    Close,
    Reset,
}

async fn answer_all(stream: &mut TcpStream, me: &Me) -> io::Result<End> {
    let fickle = me.style == Style::Fickle;
    let mut answers_left = if fickle { fastrand::u32(5..60) } else { u32::MAX };
    let mut buffer = Vec::new();
    loop {
        if buffer.is_empty() {
            let idle = if fickle { fastrand::u64(FICKLE_IDLE..2 * FICKLE_IDLE) } else { 3_600_000 };
            let end = tokio::select! {
                biased;
                read = stream.read_buf(&mut buffer) => match read? {
                    0 => return Ok(End::Close),
                    _ => None,
                },
                () = me.ends() => Some(if me.style == Style::Hasty { End::Reset } else { End::Close }),
                () = tokio::time::sleep(Duration::from_millis(idle)) => Some(End::Close),
            };
            if let Some(end) = end
                && turns_deaf(stream)
            {
                return Ok(end);
            }
        }
        let Some(request) = read_request(stream, &mut buffer).await? else { return Ok(End::Close) };
        // Some work, so that requests are under way whenever something ends.
        if fastrand::u8(..4) == 0 {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(..30))).await;
        }
        answers_left = answers_left.saturating_sub(1);
        let ends = me.is_ending() || answers_left == 0;
        let announced = ends && if fickle { fastrand::bool() } else { me.style == Style::Polite };
        let head = format!(
            "HTTP/1.1 200 OK\r\nX-Pod: {}\r\nContent-Length: {}\r\n{}\r\n",
            me.address,
            request.len(),
            if announced { "Connection: close\r\n" } else { "" }
        );
        stream.write_all(&[head.as_bytes(), &request].concat()).await?;
        if ends && buffer.is_empty() && turns_deaf(stream) {
            return Ok(End::Close);
        }
    }
}

/// The body of the next request, or its path where it has none. Leaves what follows in `buffer`.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let (path, length, chunked, head) = loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(buffer).map_err(io::Error::other)? {
            httparse::Status::Complete(head) => {
                let value = |name: &str| {
                    let found = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
                    found.and_then(|header| std::str::from_utf8(header.value).ok())
                };
                let length = value("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
                let path = request.path.unwrap_or_default().as_bytes().to_vec();
                break (path, length, value("transfer-encoding").is_some(), head);
            }
            httparse::Status::Partial => {
                if stream.read_buf(buffer).await? == 0 {
                    return Ok(None);
                }
            }
        }
    };
    buffer.drain(..head);
    if chunked {
        return read_chunks(stream, buffer).await.map(Some);
    }
    while buffer.len() < length {
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
    let body: Vec<u8> = buffer.drain(..length).collect();
    Ok(Some(if length == 0 { path } else { body }))
}

async fn read_chunks(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        match httparse::parse_chunk_size(buffer).map_err(|_| io::Error::other("no chunk"))? {
            httparse::Status::Complete((line, size)) => {
                let (size, end) = (size as usize, line + size as usize + 2);
                while buffer.len() < end {
                    if stream.read_buf(buffer).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                body.extend_from_slice(&buffer[line..line + size]);
                buffer.drain(..end);
                if size == 0 {
                    return Ok(body);
                }
            }
            httparse::Status::Partial => {
                if stream.read_buf(buffer).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
    }
}
