//! The binary's entry: parse, do, print, exit.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tracing_subscriber::EnvFilter;

use super::admin::client::{self, ClientError};
use super::admin::views;
use super::cli::{
    Asked, ClientArgs, Command, DoctorArgs, ExplainArgs, LogFormat, MapsCommand, Output, ProbeArgs, Question,
    RunArgs, TuneArgs,
};
use super::explain::Explanation;
use super::{check, daemon, doctor, environment, flow, render, rest, steering, top, trace};

/// The answer is there, and it is no.
const NEGATIVE: u8 = 1;
/// Wrong usage, or it could not be done.
const FAILED: u8 = 2;

/// Runs the command line of this process. Exit status: 0 fine, 1 a negative answer, 2 wrong usage
/// or it could not be done.
pub fn main() -> ExitCode {
    // clap prints and exits by itself: 0 for help and version, 2 for wrong usage.
    let cli = environment::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(dispatch(cli.command)),
        Err(error) => Err(format!("can't start: {error}")),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            let _ = writeln!(io::stderr(), "sluice: {message}");
            ExitCode::from(FAILED)
        }
    }
}

async fn dispatch(command: Command) -> Result<u8, String> {
    match command {
        Command::Run(args) => run(*args).await,
        Command::Status(args) => {
            let status: views::Status = ask(&args, "/status", render::status).await?;
            Ok(if status.ready { 0 } else { NEGATIVE })
        }
        Command::Routes(args) => {
            ask(&args, "/routes", |routes: &Vec<views::Host>| render::routes(routes)).await?;
            Ok(0)
        }
        Command::Backends(args) => {
            ask(&args, "/backends", |all: &Vec<views::Backend>| render::backends(all)).await?;
            Ok(0)
        }
        Command::Explain(args) => explain(&args).await,
        Command::Top(args) => top::client::run(&args).await.map(|()| 0),
        Command::Trace(args) => trace::client::run(&args).await.map(|()| 0),
        Command::Maps(args) => maps(args.command).await,
        Command::Tune(args) => tune(&args).await,
        Command::Drain(args) => rest::run(&args).await,
        Command::Probe(args) => probe(&args).await,
        Command::Doctor(args) => run_doctor(&args).await,
        Command::Check(args) => {
            if let Some(file) = &args.replay {
                let fine = check::replay(&args, file)?;
                return Ok(if fine { 0 } else { NEGATIVE });
            }
            let report = check::check(&args).map_err(text)?;
            print(args.output, &report, render::report(&report) + &check::migration_text(&report))?;
            Ok(if report.passes(args.strict) { 0 } else { NEGATIVE })
        }
    }
}

async fn run(args: RunArgs) -> Result<u8, String> {
    let filter = EnvFilter::try_new(&args.log).map_err(|error| {
        format!("--log {:?} is no log filter ({error}); try info or sluice=debug", args.log)
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    match args.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    daemon::run(args).await.map_err(text)?;
    Ok(0)
}

async fn explain(args: &ExplainArgs) -> Result<u8, String> {
    match args.asked()? {
        Asked::Url(url) => {
            let mut target = format!("/explain?all={}&url={}", args.all, escape(&url));
            if let Some(vip) = args.vip {
                target = format!("{target}&vip={}", escape(&vip.to_string()));
            }
            ask(&args.client, &target, |e: &Explanation| render::explanation(e)).await?;
        }
        Asked::Flow(question) => {
            let question = serde_json::to_string(&question).map_err(text)?;
            let json = client::post(&args.client.socket, "/explain", question).await.map_err(text)?;
            show(&args.client, &json, |e: &flow::Explanation| render::flow(e))?;
        }
    }
    Ok(0)
}

async fn maps(command: MapsCommand) -> Result<u8, String> {
    match command {
        MapsCommand::Dump(args) => {
            ask(&args, "/maps", |image: &views::Maps| render::maps(image)).await?;
            Ok(0)
        }
        MapsCommand::Verify(args) => {
            let got: views::Verification = ask(&args, "/maps/verify", render::verification).await?;
            Ok(if got.differences.is_empty() { 0 } else { NEGATIVE })
        }
        MapsCommand::Purge { pin_dir, client } => purge(&pin_dir, &client).await,
    }
}

async fn tune(args: &TuneArgs) -> Result<u8, String> {
    let client = &args.client;
    let json = if args.settings.is_empty() {
        client::get(&client.socket, "/tune").await
    } else {
        let settings =
            args.settings.iter().map(|setting| with_file(setting)).collect::<Result<Vec<_>, _>>()?;
        client::post(&client.socket, "/tune", settings.join("\n")).await
    };
    let json = json.map_err(text)?;
    show(client, &json, render::tuning)?;
    Ok(0)
}

/// A setting with what is in its file, if it names one: a network or several in each line, behind `#`
/// what a reader should know.
fn with_file(setting: &str) -> Result<String, String> {
    let Some((key, file)) = setting.split_once("=@") else { return Ok(setting.to_owned()) };
    let content = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let lines = content.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    Ok(format!("{key}={}", lines.join(",")))
}

async fn purge(pin_dir: &Path, client: &ClientArgs) -> Result<u8, String> {
    match client::get(&client.socket, "/status").await {
        Err(ClientError::NotRunning(_)) => {}
        Err(error) => return Err(error.to_string()),
        Ok(_) => {
            return Err(format!(
                "a daemon answers on {}: stop it first, or it loses the maps it writes to",
                client.socket.display()
            ));
        }
    }
    let removed = steering::purge(pin_dir).await?;
    let sentence = match removed {
        true => format!("detached, and removed {}\n", pin_dir.display()),
        false => format!("nothing is pinned in {}\n", pin_dir.display()),
    };
    #[derive(Serialize)]
    struct Purged<'a> {
        pin_dir: &'a Path,
        removed: bool,
    }
    print(client.output, &Purged { pin_dir, removed }, sentence)?;
    Ok(0)
}

async fn probe(args: &ProbeArgs) -> Result<u8, String> {
    let status = client::get(&args.socket, "/status").await.map_err(text)?;
    let status: views::Status = serde_json::from_value(status).map_err(text)?;
    let (word, code) = match args.question {
        Question::Live => ("alive", 0),
        Question::Ready if status.ready => ("ready", 0),
        Question::Ready if status.standby => ("standing by", 0),
        Question::Ready => ("not ready", NEGATIVE),
    };
    let why = status.unready.filter(|_| code == NEGATIVE);
    let why = why.unwrap_or_else(|| format!("source {}", status.source.health));
    print(Output::Table, &(), format!("{word}: {why}\n"))?;
    Ok(code)
}

async fn run_doctor(args: &DoctorArgs) -> Result<u8, String> {
    let findings = doctor::examine(&args.interface, !args.no_xdp).await;
    let text = if args.brief { doctor::brief(&findings) } else { render::findings(&findings) };
    print(args.output, &findings, text)?;
    let failed = findings.iter().any(|finding| finding.level == doctor::Level::Fail);
    Ok(if failed { NEGATIVE } else { 0 })
}

/// Asks the daemon, prints its answer, and hands it back.
async fn ask<T: DeserializeOwned>(
    args: &ClientArgs,
    target: &str,
    render: impl Fn(&T) -> String,
) -> Result<T, String> {
    let json = client::get(&args.socket, target).await.map_err(text)?;
    show(args, &json, render)
}

/// Prints an answer of the daemon's, and hands it back.
fn show<T: DeserializeOwned>(
    args: &ClientArgs,
    json: &Value,
    render: impl Fn(&T) -> String,
) -> Result<T, String> {
    let value: T = serde_json::from_value(json.clone()).map_err(|error| {
        format!("the daemon is of another version and answers what this one can't read: {error}")
    })?;
    // What the daemon said goes out as it is: a newer one may say more than this version knows.
    print(args.output, json, render(&value))?;
    Ok(value)
}

/// Whoever reads may leave early (`| head`): that is no failure.
pub(super) fn print(output: Output, value: &impl Serialize, table: String) -> Result<(), String> {
    let out = match output {
        Output::Table => table,
        Output::Json => serde_json::to_string_pretty(value).map_err(text)? + "\n",
    };
    let mut stdout = io::stdout().lock();
    match stdout.write_all(out.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("can't write: {error}")),
        _ => Ok(()),
    }
}

/// A query value: everything but letters and digits escaped.
fn escape(text: &str) -> String {
    let byte = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' => char::from(b).to_string(),
        _ => format!("%{b:02X}"),
    };
    text.bytes().map(byte).collect()
}

fn text(error: impl Display) -> String {
    error.to_string()
}
