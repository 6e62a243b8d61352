//! The counters while traffic goes on, until Ctrl-C.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use xtask::lab::{Request, Traffic};

use super::Interrupt;
use super::report::counters;
use super::stage::Stage;

/// Shows the counters every second (every ten where the output is no terminal).
pub fn show(stage: &Stage, interrupt: &Interrupt) -> Result<()> {
    let mut traffic = Vec::new();
    for &vip in stage.vips() {
        let request = Request::get(SocketAddr::new(vip, stage.http()), "blue.example.com", "/");
        traffic.push(Traffic::start(stage.client(), request, Duration::from_millis(100))?);
    }
    let terminal = std::io::stdout().is_terminal();
    while !interrupt.came() {
        if terminal {
            // Clear the screen and go to its top.
            print!("\x1b[2J\x1b[H");
        }
        println!("{}", counters(&stage.daemon().status()?));
        println!("Ten requests each second go to http://blue.example.com/ on every VIP. Ctrl-C ends.");
        println!("Look for yourself: sluice status --socket {}", stage.daemon().socket().display());
        for _ in 0..if terminal { 10 } else { 100 } {
            if !interrupt.came() {
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
    Ok(())
}
