//! `sluice explain`.

use std::net::SocketAddr;

use clap::Args;

use super::{ClientArgs, VipAddress, vip_address};
use crate::app::flow;
use crate::model::Transport;

/// `sluice explain`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice explain https://blue.example.com/x
  sluice explain http://198.51.100.10:8080/ -o json
  sluice explain tcp 192.0.2.1:1234 198.51.100.10:443 --sni blue.example.com

A connection's first packets are made up and judged by the program in the kernel, over its tables as
they are now; nothing of that is counted or remembered.")]
pub struct ExplainArgs {
    /// The URL a client would ask for; http:// may be left out. Or a connection: tcp or udp, who
    /// connects, and to where.
    #[arg(value_names = ["URL | tcp|udp", "FROM", "TO"], num_args = 1..=3, required = true)]
    pub what: Vec<String>,
    /// For a URL: also list the rules of hosts that the URL's host is not.
    #[arg(long)]
    pub all: bool,
    /// For a URL: only for connections to this address, or to this one and port.
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = vip_address)]
    pub vip: Option<VipAddress>,
    /// For a connection: the server name in its ClientHello.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["all", "vip"])]
    pub sni: Option<String>,
    #[command(flatten)]
    pub client: ClientArgs,
}

/// What is asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// A request.
    Url(String),
    /// A connection.
    Flow(flow::Question),
}

impl ExplainArgs {
    /// Which of the two it is. An error is a sentence.
    pub fn asked(&self) -> Result<Asked, String> {
        match &self.what[..] {
            [_] if self.sni.is_some() => {
                Err("--sni is for connections: sluice explain tcp FROM TO --sni NAME".to_owned())
            }
            [url] if !url.eq_ignore_ascii_case("tcp") && !url.eq_ignore_ascii_case("udp") => {
                Ok(Asked::Url(url.clone()))
            }
            [transport, from, to] => {
                let transport = match &*transport.to_ascii_lowercase() {
                    "tcp" => Transport::Tcp,
                    "udp" => Transport::Udp,
                    _ => return Err(format!("{transport:?} is neither tcp nor udp")),
                };
                let sni = self.sni.clone();
                Ok(Asked::Flow(flow::Question { transport, from: socket(from)?, to: socket(to)?, sni }))
            }
            _ => Err("a connection is tcp or udp, who connects, and to where: \
                      tcp 192.0.2.1:1234 198.51.100.10:443"
                .to_owned()),
        }
    }
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not like 192.0.2.1:1234 or [2001:db8::1]:443"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::app::cli::{Cli, Command};

    #[test]
    fn what_is_asked() {
        for (line, expect) in [
            ("http://a/", Ok("url")),
            ("tcp.example", Ok("url")),
            ("tcp 192.0.2.1:1 192.0.2.2:443", Ok("flow")),
            ("UDP [2001:db8::1]:1 [2001:db8::2]:53", Ok("flow")),
            ("tcp 192.0.2.1:1 192.0.2.2:443 --sni a", Ok("flow")),
            ("tcp", Err("a connection is")),
            ("tcp 192.0.2.1:1", Err("a connection is")),
            ("sctp 192.0.2.1:1 192.0.2.2:443", Err("neither tcp nor udp")),
            ("tcp 192.0.2.1 192.0.2.2:443", Err("\"192.0.2.1\" is not like")),
            ("http://a/ --sni a", Err("--sni is for connections")),
        ] {
            let cli = Cli::try_parse_from(format!("sluice explain {line}").split(' ')).expect(line);
            let Command::Explain(args) = cli.command else { panic!("{line}") };
            match (args.asked(), expect) {
                (Ok(Asked::Url(_)), Ok("url")) | (Ok(Asked::Flow(_)), Ok("flow")) => {}
                (Err(error), Err(part)) if error.contains(part) => {}
                (got, _) => panic!("{line}: {got:?}"),
            }
        }
    }
}
