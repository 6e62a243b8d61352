//! Options from environment variables. clap reads them, with rules of our own: an empty variable
//! is none, as in a ConfigMap that leaves a setting open; a false one is no flag; and what the
//! command line says overrules a variable that contradicts it.

use std::collections::BTreeSet;
use std::ffi::OsString;

use clap::builder::Resettable;
use clap::{Arg, ArgAction, Command, CommandFactory as _, FromArgMatches as _};

use super::cli::Cli;

/// The command line of this process. Prints and exits for help, version and wrong usage.
pub fn parse() -> Cli {
    let given: Vec<OsString> = std::env::args_os().collect();
    let matches = settle(Cli::command(), &given).get_matches_from(given);
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Takes the variables away that say nothing, or that the command line overrules.
fn settle(command: Command, given: &[OsString]) -> Command {
    let conflict = |a: &Arg, b: &Arg| {
        command.get_arg_conflicts_with(a).contains(&b) || command.get_arg_conflicts_with(b).contains(&a)
    };
    let overruled =
        |arg: &Arg| command.get_arguments().any(|other| is_given(other, given) && conflict(arg, other));
    let moot: BTreeSet<_> = command
        .get_arguments()
        .filter(|arg| says_nothing(arg) || overruled(arg))
        .map(|arg| arg.get_id().clone())
        .collect();
    command
        .mut_args(|arg| if moot.contains(arg.get_id()) { arg.env(Resettable::Reset) } else { arg })
        .mut_subcommands(|subcommand| settle(subcommand, given))
}

fn says_nothing(arg: &Arg) -> bool {
    let Some(value) = arg.get_env().and_then(std::env::var_os) else { return false };
    let falsehoods = ["0", "f", "false", "n", "no", "off"];
    let is_false = || falsehoods.iter().any(|word| value.eq_ignore_ascii_case(word));
    value.is_empty() || (matches!(arg.get_action(), ArgAction::SetTrue) && is_false())
}

fn is_given(arg: &Arg, given: &[OsString]) -> bool {
    let Some(long) = arg.get_long() else { return false };
    given
        .iter()
        .filter_map(|text| text.to_str()?.strip_prefix("--"))
        .any(|text| text.strip_prefix(long).is_some_and(|rest| rest.is_empty() || rest.starts_with('=')))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The DaemonSet hands its ConfigMap over as the environment: a name that no option has would
    /// change nothing, and nobody would be told.
    #[test]
    fn the_configmap_names_options_of_run() {
        let text = include_str!("../../../deploy/base/configmap.yaml");
        let map: serde_json::Value = serde_saphyr::from_str(text).expect("YAML");
        let command = Cli::command();
        let run = command.find_subcommand("run").expect("run");
        let known: BTreeSet<_> = run.get_arguments().filter_map(|arg| arg.get_env()?.to_str()).collect();
        for name in map["data"].as_object().expect("data").keys() {
            assert!(known.contains(name.as_str()), "{name} is none of {known:?}");
        }
    }

    #[test]
    fn every_option_of_run_has_a_variable_of_its_name() {
        let command = Cli::command();
        for arg in command.find_subcommand("run").expect("run").get_arguments() {
            let Some(long) = arg.get_long() else { continue };
            let name = format!("SLUICE_{}", long.replace('-', "_").to_uppercase());
            assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(name.as_str()), "--{long}");
        }
    }

    #[test]
    fn what_is_given() {
        let command = Cli::command();
        let run = command.find_subcommand("run").expect("run");
        let interface =
            run.get_arguments().find(|arg| arg.get_long() == Some("interface")).expect("--interface");
        for (text, expect) in
            [("--interface", true), ("--interface=a", true), ("--interfaces", false), ("interface", false)]
        {
            assert_eq!(is_given(interface, &[text.into()]), expect, "{text}");
        }
    }
}
