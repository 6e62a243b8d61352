//! `sluice top`.

use clap::Args;

use super::ClientArgs;
use crate::app::top::Sort;

/// `sluice top`.
#[derive(Debug, Args)]
#[command(after_help = "\
Keys: q quit, s sort by something else.

Examples:
  sluice top
  sluice top --once --sort latency
  sluice top -o json --interval 10                       a line every ten seconds")]
pub struct TopArgs {
    /// What routes are sorted by at first.
    #[arg(long, value_name = "WHAT", default_value = "requests")]
    pub sort: Sort,
    /// Seconds from one look to the next.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub interval: f64,
    /// Print once and end, as without a terminal.
    #[arg(long)]
    pub once: bool,
    #[command(flatten)]
    pub client: ClientArgs,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("not a number of seconds from 0.1 to 3600".to_owned()),
    }
}
