//! The daemon and its command line.
//!
//! `sluice run` is the daemon ([`daemon`]): it turns arguments into [`settings`], follows a source,
//! publishes snapshots to the proxy and the kernel, and what became of them to the cluster
//! ([`publisher`]), hands over to a newer daemon ([`handover`], [`stop`]), keeps out clients that misbehave
//! ([`bans`]), and answers on a unix socket ([`admin`]), for probes and scrapes ([`health`], [`metrics`]) and
//! for load balancers ([`health_ports`]). The other subcommands ask that socket, except [`check`] and [`doctor`], which need
//! no daemon. What they say is plain data first ([`admin::views`], [`explain`]) and text last
//! ([`render`]).

mod admin;
mod bans;
mod check;
mod cli;
mod daemon;
mod doctor;
mod environment;
mod explain;
mod flow;
mod handover;
mod health;
mod health_ports;
mod memory;
mod metrics;
mod publisher;
mod render;
mod rest;
mod run;
mod settings;
mod state;
mod steering;
mod stop;
mod top;
mod trace;

pub use run::main;
