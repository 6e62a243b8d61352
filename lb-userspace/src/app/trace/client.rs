//! `sluice trace`, the subcommand: asks, and writes what comes.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write};

use jiff::tz::TimeZone;

use super::Asked;
use super::event::{Event, Line};
use super::pcap::Capture;
use super::text::line;
use crate::app::admin::client::{self, Lines};
use crate::app::cli::{TraceArgs, TraceOutput};

/// Where events go, and how they look.
enum Sink {
    Text(Box<dyn Write>, TimeZone),
    Json(Box<dyn Write>),
    Pcap(Box<Capture<Box<dyn Write>>>),
}

/// Writes frames until there are enough, the daemon ends, or Ctrl-C.
pub async fn run(args: &TraceArgs) -> Result<(), String> {
    let asked = asked(args);
    asked.rule()?;
    // Opened before the daemon is asked: no trace for a file that can't be written.
    let mut sink = Sink::open(args)?;
    let text = serde_json::to_string(&asked).map_err(|error| error.to_string())?;
    let mut lines = client::stream(&args.socket, "/trace", text).await.map_err(|error| error.to_string())?;
    let mut written = 0u64;
    let ended = tokio::select! {
        ended = follow(&mut lines, &mut sink, &mut written) => ended?,
        _ = tokio::signal::ctrl_c() => "stopped".to_owned(),
    };
    // On standard error: the events on standard output may go to another program.
    let _ = writeln!(io::stderr(), "{written} frames; {ended}");
    Ok(())
}

async fn follow(lines: &mut Lines, sink: &mut Sink, written: &mut u64) -> Result<String, String> {
    while let Some(line) = lines.next().await.map_err(|error| error.to_string())? {
        let line: Line = serde_json::from_slice(&line).map_err(|error| {
            format!("the daemon is of another version and answers what this one can't read: {error}")
        })?;
        match line {
            Line::Event(event) => {
                match sink.write(&event) {
                    // Whoever reads may leave early (`| head`): that is no failure.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                        return Ok("nobody reads on".to_owned());
                    }
                    Err(error) => return Err(format!("can't write: {error}")),
                    Ok(()) => *written += 1,
                }
            }
            Line::End(end) if end.lost > 0 => {
                return Ok(format!(
                    "{}; {} more were LOST, since they came faster than they were read: ask for fewer, or \
                     for one of many with --sample",
                    end.why, end.lost
                ));
            }
            Line::End(end) => return Ok(end.why),
        }
    }
    Ok("the daemon ended".to_owned())
}

fn asked(args: &TraceArgs) -> Asked {
    Asked {
        address: args.address,
        port: args.port,
        vip: args.vip.map(|vip| vip.to_string()),
        reasons: args.reason.clone(),
        verdicts: args.verdict.clone(),
        direction: args.direction,
        sample: args.sample,
        count: args.count,
        seconds: args.seconds,
    }
}

impl Sink {
    fn open(args: &TraceArgs) -> Result<Self, String> {
        let out: Box<dyn Write> = match &args.write {
            Some(path) => {
                Box::new(File::create(path).map_err(|error| format!("{}: {error}", path.display()))?)
            }
            None => Box::new(io::stdout()),
        };
        Ok(match args.output {
            TraceOutput::Text => Self::Text(out, TimeZone::system()),
            TraceOutput::Json => Self::Json(out),
            TraceOutput::Pcap if args.write.is_none() && io::stdout().is_terminal() => {
                return Err(
                    "a capture is nothing for a terminal: --write FILE, or `| wireshark -k -i -`".into()
                );
            }
            TraceOutput::Pcap => {
                Self::Pcap(Box::new(Capture::new(out).map_err(|error| format!("can't write: {error}"))?))
            }
        })
    }

    fn write(&mut self, event: &Event) -> io::Result<()> {
        match self {
            Self::Text(out, zone) => writeln!(out, "{}", line(event, zone)).and_then(|()| out.flush()),
            Self::Json(out) => writeln!(out, "{}", serde_json::to_string(event)?).and_then(|()| out.flush()),
            Self::Pcap(capture) => capture.add(event).map_err(|error| match error {
                pcap_file::PcapError::IoError(error) => error,
                other => io::Error::other(other),
            }),
        }
    }
}
