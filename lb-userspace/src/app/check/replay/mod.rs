//! `sluice check --replay`: which route each request of a file takes.
//!
//! The file is read as a stream: neither its length nor a line's matters. `-o json` writes one object a
//! line, each with one field that says what it is: `request`, `bad_line`, and last `summary`.

mod answer;
mod line;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read as _, Write};
use std::path::Path;

use serde::Serialize;

use crate::model::Compat;
use crate::route::RouteTable;

use super::super::cli::{CheckArgs, Output, Scheme};
use super::{Loaded, now_unix};
use answer::{Answer, Routes};
use line::{BadLine, Request};

/// No request is longer; what is, is reported and passed over.
const LONGEST_LINE: usize = 64 * 1024;

/// A request and what it gets.
#[derive(Serialize)]
struct Replayed<'a> {
    /// Counted from 1.
    line: u64,
    method: &'a str,
    scheme: &'static str,
    host: &'a str,
    path: &'a str,
    /// Where ingress-nginx sent it, if the line says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'a str>,
    /// One for each of the defaults asked for.
    answers: &'a [Answer],
}

/// A line that holds no request.
#[derive(Serialize)]
struct Bad {
    /// Counted from 1.
    line: u64,
    why: String,
}

/// What was read, and who took it.
#[derive(Default, Serialize)]
struct Summary {
    lines: u64,
    requests: u64,
    bad_lines: u64,
    /// Requests whose answers differ by whose defaults apply.
    differing: u64,
    /// Requests that ingress-nginx sent to another Service port.
    elsewhere: u64,
    /// How many requests each route took, by whose defaults apply.
    routes: BTreeMap<&'static str, BTreeMap<String, u64>>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Line<'a> {
    Request(Replayed<'a>),
    #[serde(rename = "bad_line")]
    Unread(Bad),
    Summary(&'a Summary),
}

/// Replays a file (`-`: standard input) and prints what comes of it. False: with `--strict`, a line was
/// bad, or an answer differs.
///
/// # Errors
/// When the directory or the file can't be read, in words.
pub fn replay(args: &CheckArgs, file: &Path) -> Result<bool, String> {
    let loaded = Loaded::read(args).map_err(|error| error.to_string())?;
    let now = now_unix();
    let routes = loaded.compat.each().iter().map(|compat| {
        let snapshot = loaded.snapshot(*compat, now);
        let table = RouteTable::build(&snapshot.routing);
        let compat = match compat {
            Compat::Kubernetes => "kubernetes",
            Compat::IngressNginx => "ingress-nginx",
        };
        Routes { compat, snapshot, table }
    });
    let input: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let opened = File::open(file).map_err(|error| format!("can't read {}: {error}", file.display()))?;
        Box::new(BufReader::with_capacity(LONGEST_LINE, opened))
    };
    let mut replay = Replay {
        args,
        routes: routes.collect(),
        out: BufWriter::new(io::stdout().lock()),
        summary: Summary::default(),
    };
    match replay.run(input) {
        Ok(()) => {}
        // Whoever reads may leave early.
        Err(Failed::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(Failed::Write(error)) => return Err(format!("can't write: {error}")),
        Err(Failed::Read(error)) => return Err(format!("can't read {}: {error}", file.display())),
    }
    let Summary { bad_lines, differing, elsewhere, .. } = replay.summary;
    Ok(!args.strict || bad_lines + differing + elsewhere == 0)
}

enum Failed {
    Read(io::Error),
    Write(io::Error),
}

struct Replay<'a, W: Write> {
    args: &'a CheckArgs,
    routes: Vec<Routes>,
    out: W,
    summary: Summary,
}

impl<W: Write> Replay<'_, W> {
    fn run(&mut self, mut input: impl BufRead) -> Result<(), Failed> {
        let mut line = Vec::new();
        while let Some(whole) = next_line(&mut input, &mut line).map_err(Failed::Read)? {
            self.summary.lines += 1;
            let parsed = if whole { Request::parse(&line) } else { Err(BadLine::TooLong) };
            match parsed {
                Ok(None) => {}
                Ok(Some(request)) => self.request(&request).map_err(Failed::Write)?,
                Err(error) => self.bad(error.to_string()).map_err(Failed::Write)?,
            }
        }
        self.finish().map_err(Failed::Write)
    }

    fn request(&mut self, request: &Request) -> io::Result<()> {
        let host = request.host.clone().or_else(|| authority(&request.target));
        let Some(host) = host.or_else(|| self.args.replay_host.clone()) else {
            return self.bad("names no host; give one with --replay-host".to_owned());
        };
        let tls = request.tls.unwrap_or(self.args.replay_scheme == Scheme::Https);
        let answers: Vec<_> = self.routes.iter().map(|one| one.answer(request, &host, tls)).collect();
        self.summary.requests += 1;
        for answer in &answers {
            let counted = self.summary.routes.entry(answer.compat).or_default();
            *counted.entry(answer.route()).or_default() += 1;
        }
        let differs = answers.iter().any(|answer| answer.taken_by() != answers[0].taken_by());
        let elsewhere = request.upstream.as_deref().is_some_and(|name| {
            answers.iter().any(|answer| answer.backend.as_deref().map(upstream_name).as_deref() != Some(name))
        });
        self.summary.differing += u64::from(differs);
        self.summary.elsewhere += u64::from(elsewhere);
        if answers.len() > 1 && !differs && !elsewhere {
            return Ok(());
        }
        let replayed = Replayed {
            line: self.summary.lines,
            method: &request.method,
            scheme: if tls { "https" } else { "http" },
            host: &host,
            path: &request.target,
            upstream: request.upstream.as_deref(),
            answers: &answers,
        };
        if self.args.output == Output::Json {
            return self.json(&Line::Request(replayed));
        }
        let Replayed { line, method, scheme, .. } = replayed;
        writeln!(self.out, "{line:>6}  {method} {scheme}://{host}{}", request.target)?;
        for answer in &answers {
            writeln!(self.out, "        {}", in_words(answer, answers.len() > 1))?;
        }
        if elsewhere {
            let upstream = request.upstream.as_deref().unwrap_or_default();
            writeln!(self.out, "        ingress-nginx sent it to {upstream}")?;
        }
        Ok(())
    }

    fn bad(&mut self, why: String) -> io::Result<()> {
        self.summary.bad_lines += 1;
        let line = self.summary.lines;
        match self.args.output {
            Output::Json => self.json(&Line::Unread(Bad { line, why })),
            Output::Table => writeln!(self.out, "{line:>6}  not replayed: {why}"),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        let summary = std::mem::take(&mut self.summary);
        if self.args.output == Output::Json {
            self.json(&Line::Summary(&summary))?;
        } else {
            self.summary_text(&summary)?;
        }
        self.summary = summary;
        self.out.flush()
    }

    fn summary_text(&mut self, summary: &Summary) -> io::Result<()> {
        for (compat, routes) in &summary.routes {
            writeln!(self.out, "\nREQUESTS  ROUTE (compat {compat})")?;
            let mut by_count: Vec<_> = routes.iter().collect();
            by_count.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
            for (route, count) in by_count {
                writeln!(self.out, "{count:>8}  {route}")?;
            }
        }
        let Summary { lines, requests, bad_lines, differing, elsewhere, .. } = summary;
        write!(self.out, "\n{requests} requests in {lines} lines, {bad_lines} not replayed")?;
        if self.routes.len() > 1 {
            write!(self.out, "; {differing} differ between the two defaults")?;
        }
        if *elsewhere > 0 {
            write!(self.out, "; {elsewhere} go elsewhere than ingress-nginx sent them")?;
        }
        writeln!(self.out)
    }

    fn json(&mut self, line: &Line<'_>) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, line)?;
        self.out.write_all(b"\n")
    }
}

/// Reads a line without its end into `line`. `None`: there are no more. False: it was too long, and is
/// passed over.
fn next_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
    line.clear();
    let most = LONGEST_LINE as u64 + 1;
    if input.by_ref().take(most).read_until(b'\n', line)? == 0 {
        return Ok(None);
    }
    if line.ends_with(b"\n") || (line.len() as u64) < most {
        return Ok(Some(true));
    }
    loop {
        let buffer = input.fill_buf()?;
        let (used, ended) = match memchr::memchr(b'\n', buffer) {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        input.consume(used);
        if ended {
            return Ok(Some(false));
        }
    }
}

/// The authority of a target in absolute form, which goes before the Host header (RFC 9112).
fn authority(target: &str) -> Option<String> {
    let (_, rest) = target.split_once("://").filter(|_| !target.starts_with('/'))?;
    Some(rest.split(['/', '?']).next().unwrap_or_default().to_owned())
}

/// ingress-nginx's name for `namespace/service:port`.
fn upstream_name(cluster: &str) -> String {
    cluster.replace(['/', ':'], "-")
}

fn in_words(answer: &Answer, with_compat: bool) -> String {
    let mut text = String::new();
    if with_compat {
        text = format!("{}: ", answer.compat);
    }
    if let (Some(ingress), Some(rule), Some(path)) = (&answer.ingress, &answer.rule, &answer.path) {
        let path_type = answer.path_type.as_deref().unwrap_or_default();
        text.push_str(&format!("{ingress} {rule} {path} ({path_type}) → "));
    }
    match (&answer.backend, answer.status) {
        (Some(backend), _) => {
            text.push_str(backend);
            if let Some(target) = &answer.target {
                text.push_str(&format!(" as {target}"));
            }
        }
        (None, Some(status)) => text.push_str(&format!("{status} {}", answer.why)),
        (None, None) => {}
    }
    if !answer.policy.is_empty() {
        text.push_str(&format!(" [{}]", answer.policy.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_passed_over() {
        let mut text = b"one\n".to_vec();
        text.extend(vec![b'x'; LONGEST_LINE]);
        text.extend_from_slice(b"\n");
        text.extend(vec![b'y'; 3 * LONGEST_LINE]);
        text.extend_from_slice(b"\nlast");
        for capacity in [16, 4096, LONGEST_LINE] {
            let mut input = BufReader::with_capacity(capacity, &*text);
            let (mut line, mut read) = (Vec::new(), Vec::new());
            while let Some(whole) = next_line(&mut input, &mut line).expect("memory") {
                read.push((whole, line.len()));
            }
            let expect = [(true, 4), (true, LONGEST_LINE + 1), (false, LONGEST_LINE + 1), (true, 4)];
            assert_eq!(read, expect, "{capacity}");
        }
    }

    #[test]
    fn names() {
        for (target, expect) in [
            ("/a", None),
            ("http://a.test:80/x?y", Some("a.test:80")),
            ("http://a.test", Some("a.test")),
            ("/http://x/", None),
            ("*", None),
        ] {
            assert_eq!(authority(target).as_deref(), expect, "{target}");
        }
        assert_eq!(upstream_name("shop/web:80"), "shop-web-80");
    }
}
