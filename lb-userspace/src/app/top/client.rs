//! `sluice top`, the subcommand: asks again and again, and shows what happened in between.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::time::Duration;

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use crossterm::{execute, queue};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::text::text;
use super::view::View;
use super::{Sample, Sort};
use crate::app::admin::client;
use crate::app::cli::{Output, TopArgs};

/// Lines of a screen that are not routes: titles, workers, names, XDP's reasons.
const REST: usize = 28;
/// Routes are shown at least, whatever room there is.
const LEAST: usize = 5;
/// Routes where nobody's screen is to be filled.
const PLAIN: usize = 50;

/// Shows until `q`, Ctrl-C or the daemon's end; once without a terminal, or if asked so.
pub async fn run(args: &TopArgs) -> Result<(), String> {
    let live = !args.once && args.client.output == Output::Table && io::stdout().is_terminal();
    if !live {
        return plain(args).await;
    }
    let screen = Screen::enter().map_err(|error| format!("can't use the terminal: {error}"))?;
    let shown = show(args).await;
    drop(screen);
    shown
}

/// A table once, or a line of JSON each time.
async fn plain(args: &TopArgs) -> Result<(), String> {
    let mut before = sample(args).await?;
    loop {
        let since = Instant::now();
        tokio::select! {
            () = tokio::time::sleep(period(args)) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
        let after = sample(args).await?;
        let mut view = View::between(&before, &after, since.elapsed().as_secs_f64());
        view.sort(args.sort);
        let out = match args.client.output {
            Output::Table => text(&view, args.sort, PLAIN),
            Output::Json => serde_json::to_string(&view).map_err(|error| error.to_string())? + "\n",
        };
        let mut stdout = io::stdout().lock();
        match stdout.write_all(out.as_bytes()).and_then(|()| stdout.flush()) {
            // Whoever reads may leave early (`| head`): that is no failure.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(format!("can't write: {error}")),
            Ok(()) => {}
        }
        if args.once || args.client.output == Output::Table {
            return Ok(());
        }
        before = after;
    }
}

async fn show(args: &TopArgs) -> Result<(), String> {
    let mut keys = keys();
    let mut sort = args.sort;
    let mut before = sample(args).await?;
    let mut since = Instant::now();
    let mut view = View::between(&before, &before, 1.0);
    let mut timer = interval(period(args));
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is at once.
    timer.tick().await;
    loop {
        view.sort(sort);
        draw(&view, sort).map_err(|error| format!("can't write: {error}"))?;
        tokio::select! {
            key = keys.recv() => match key {
                // In raw mode Ctrl-C is a key like others.
                None | Some(b'q' | b'Q' | 0x03 | 0x04 | 0x1b) => return Ok(()),
                Some(b's' | b'S' | b' ') => sort = sort.next(),
                Some(_) => {}
            },
            _ = timer.tick() => {
                let after = sample(args).await?;
                view = View::between(&before, &after, since.elapsed().as_secs_f64());
                since = Instant::now();
                before = after;
            }
        }
    }
}

async fn sample(args: &TopArgs) -> Result<Sample, String> {
    let json = client::get(&args.client.socket, "/top").await.map_err(|error| error.to_string())?;
    serde_json::from_value(json).map_err(|error| {
        format!("the daemon is of another version and answers what this one can't read: {error}")
    })
}

fn period(args: &TopArgs) -> Duration {
    Duration::from_secs_f64(args.interval)
}

/// Keys as they are pressed, read by a thread: it waits in a system call that can't be ended, so the
/// process's end is its end.
fn keys() -> mpsc::Receiver<u8> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        for key in io::stdin().lock().bytes() {
            let Ok(key) = key else { return };
            if sender.blocking_send(key).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Everything at once, so that nothing flickers.
fn draw(view: &View, sort: Sort) -> io::Result<()> {
    let (width, height) = size().unwrap_or((80, 40));
    let routes = usize::from(height).saturating_sub(REST).max(LEAST);
    let mut out = Vec::new();
    queue!(out, MoveTo(0, 0))?;
    let text = text(view, sort, routes) + "\nq quit   s sort by something else\n";
    for line in text.lines().take(usize::from(height)) {
        let line: String = line.chars().take(width.into()).collect();
        queue!(out, Clear(ClearType::CurrentLine))?;
        out.extend(line.as_bytes());
        out.extend(b"\r\n");
    }
    // The last line's end would move everything up.
    out.truncate(out.len() - 2);
    queue!(out, Clear(ClearType::FromCursorDown))?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(&out)?;
    stdout.flush()
}

/// The terminal in our hands; given back when this is dropped.
struct Screen;

impl Screen {
    fn enter() -> io::Result<Self> {
        enable_raw_mode()?;
        // Made first: what follows may fail half-way.
        let screen = Self;
        execute!(io::stdout(), EnterAlternateScreen, Hide, Clear(ClearType::All))?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = execute!(io::stdout(), Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}
