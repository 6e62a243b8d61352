//! Requests and what has to become of them, as text. A line for each:
//!
//! ```text
//! ? [N x] [https | https:NAME] [hold] METHOD PATH [BODY | *LENGTH]     a request; over TLS (as NAME)
//! + name: value       a header of it; `+ jar` is the cookies that were set so far
//! = 404               the status of each answer;   some 503   of at least one
//! < name: value       a line of the answer's head; < !name    has no such header
//! : text              stands in the answer's body
//! > line              a line of the request as the endpoint got it;   > !name
//! @ web               the endpoint that answered; `same`: always the same one; `2 of them`
//! auth> line          a line that another endpoint got of a request;  auth> !name;  auth x 2: so many
//! ```
//!
//! `*` stands for any text; case does not matter.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::endpoints::LOG;
use super::world::{World, pki};
use crate::rig::{Seen, connect, read_response, tls_builder};

/// A request of a script, to be sent once or more often.
#[derive(Default)]
struct Request<'a> {
    times: usize,
    tls: Option<Option<&'a str>>,
    hold: bool,
    method: &'a str,
    path: &'a str,
    body: String,
    headers: Vec<&'a str>,
}

impl<'a> Request<'a> {
    fn parse(text: &'a str) -> Self {
        let mut request = Self { times: 1, ..Self::default() };
        let mut rest = text;
        loop {
            let (word, after) = rest.split_once(' ').expect("a method and a path");
            match word {
                "https" => request.tls = Some(None),
                "hold" => request.hold = true,
                "x" => {}
                _ if word.starts_with("https:") => request.tls = Some(Some(&word[6..])),
                _ if word.parse::<usize>().is_ok() => request.times = word.parse().expect("digits"),
                method => {
                    let (path, body) = after.split_once(' ').unwrap_or((after, ""));
                    let length = body.strip_prefix('*').map(|length| length.parse().expect("digits"));
                    request.body = length.map_or_else(|| body.to_owned(), |length| "x".repeat(length));
                    (request.method, request.path) = (method, path);
                    return request;
                }
            }
            rest = after;
        }
    }

    fn text(&self, world: &World) -> String {
        let mut head = format!("{} {} HTTP/1.1\r\nX-Row: {}\r\n", self.method, self.path, world.id);
        if !self.headers.iter().any(|line| line.starts_with("host:")) {
            head += "Host: a.test\r\n";
        }
        for line in &self.headers {
            match *line {
                "jar" => head += &world.cookies(),
                line => head += &format!("{line}\r\n"),
            }
        }
        if !self.body.is_empty() {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        format!("{head}\r\n{}", self.body)
    }
}

/// Plays a script. Says which line is not so.
pub fn play(world: &World, script: &str) -> Result<(), String> {
    let mut lines = script.lines().map(str::trim).filter(|line| !line.is_empty()).peekable();
    while let Some(line) = lines.next() {
        let mut request = Request::parse(line.strip_prefix("? ").expect("a request comes first"));
        while let Some(header) = lines.peek().and_then(|line| line.strip_prefix("+ ")) {
            request.headers.push(header);
            lines.next();
        }
        let answers = send(world, &request)?;
        while let Some(expect) = lines.next_if(|line| !line.starts_with("? ")) {
            check(world, &answers, expect).map_err(|why| {
                let shown: String = answers.last().map(Seen::text).unwrap_or_default();
                format!("`{line}`: `{expect}`: {why}; the last answer: {shown}")
            })?;
        }
    }
    Ok(())
}

fn send(world: &World, request: &Request<'_>) -> Result<Vec<Seen>, String> {
    let mut answers = Vec::new();
    for _ in 0..request.times {
        let text = request.text(world);
        let before = LOG.seen(&world.id, "").len();
        let is_head = request.method == "HEAD";
        let seen = match request.tls {
            Some(who) => {
                let mut stream = tls(world, who);
                let _ = stream.write_all(text.as_bytes());
                read_response(&mut stream, is_head)
            }
            None => {
                let mut stream = connect(world.http);
                stream.set_read_timeout(Some(world.patience())).expect("a timeout");
                // A body that nobody takes must not keep the answer from being read.
                let mut writer = stream.try_clone().expect("a clone");
                std::thread::spawn(move || writer.write_all(text.as_bytes()));
                if request.hold {
                    world.hold(stream);
                    if !LOG.wait(world.patience(), || LOG.seen(&world.id, "").len() > before) {
                        return Err("the request that is held reached no endpoint".to_owned());
                    }
                    continue;
                }
                read_response(&mut stream, is_head)
            }
        };
        let seen = seen.ok_or_else(|| format!("no answer to {} {}", request.method, request.path))?;
        world.keep_cookies(&seen);
        answers.push(seen);
    }
    Ok(answers)
}

/// A connection for `a.test` that takes any certificate, and shows that of `who`.
fn tls(world: &World, who: Option<&str>) -> StreamOwned<ClientConnection, TcpStream> {
    let builder = tls_builder(|_| true);
    let config = match who {
        Some(who) => {
            let (chain, key) = crate::pki::parts(pki().of(who));
            builder.with_client_auth_cert(chain, key).expect("a certificate")
        }
        None => builder.with_no_client_auth(),
    };
    let name = ServerName::try_from("a.test").expect("a name");
    let stream = connect(world.https);
    stream.set_read_timeout(Some(world.patience())).expect("a timeout");
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).expect("a client"), stream)
}

fn check(world: &World, answers: &[Seen], expect: &str) -> Result<(), String> {
    let (kind, rest) = expect.split_once(' ').expect("a kind and what is expected");
    let body = |seen: &Seen| String::from_utf8_lossy(&seen.body).into_owned();
    let name = |seen: &Seen| body(seen).lines().next().unwrap_or_default().to_owned();
    let is = |holds: bool| if holds { Ok(()) } else { Err("is not so".to_owned()) };
    match kind {
        "=" => is(answers.iter().all(|seen| seen.status.to_string() == rest)),
        "some" => is(answers.iter().any(|seen| seen.status.to_string() == rest)),
        "<" => is(answers.iter().all(|seen| has_line(&seen.head, rest))),
        ":" => is(answers.iter().all(|seen| body(seen).contains(rest))),
        ">" => is(answers.iter().all(|seen| has_line(&body(seen), rest))),
        "@" => {
            let names: BTreeSet<_> = answers.iter().map(name).collect();
            match rest.split_once(' ') {
                None if rest == "same" => is(names.len() == 1),
                Some((count, "of them")) => is(names.len().to_string() == count),
                _ => is(names.iter().all(|name| name == rest)),
            }
        }
        _ => match (kind.strip_suffix('>'), rest.strip_prefix("x ")) {
            (Some(other), _) => {
                let told = || LOG.seen(&world.id, other);
                let came = LOG.wait(world.patience(), || told().iter().any(|seen| has_line(seen, rest)));
                if came { Ok(()) } else { Err(format!("it got {:#?}", told())) }
            }
            (None, Some(count)) => {
                let have = LOG.seen(&world.id, kind).len();
                if have.to_string() == count { Ok(()) } else { Err(format!("it got {have}")) }
            }
            _ => panic!("{expect:?} is no line of a script"),
        },
    }
}

/// Whether one of the lines fits; `!name`: whether none is a header of that name.
fn has_line(text: &str, expect: &str) -> bool {
    match expect.strip_prefix('!') {
        Some(name) => !text.lines().any(|line| fits(line, &format!("{name}: *"))),
        None => text.lines().any(|line| fits(line, expect)),
    }
}

/// Whether a line is what is expected, `*` being any text.
fn fits(line: &str, expect: &str) -> bool {
    let (line, expect) = (line.to_ascii_lowercase(), expect.to_ascii_lowercase());
    let mut parts = expect.split('*');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<_> = parts.collect();
    let Some((last, between)) = parts.split_last() else { return rest.is_empty() };
    for part in between {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn lines_that_fit() {
    for (line, expect, holds) in [
        ("location: https://a", "Location: https://a", true),
        ("location: https://ab", "location: https://a", false),
        ("location: https://ab", "location: *a*", true),
        ("abc", "a*c", true),
        ("abc", "a*b", false),
        ("ab", "ab*b", false),
    ] {
        assert_eq!(fits(line, expect), holds, "{line} {expect}");
    }
}
