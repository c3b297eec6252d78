//! `annulus`: one command for the operator of a host and of a group.

#![forbid(unsafe_code)]

mod ca;
mod configuration;
mod control;
mod demo;
mod hosts;
mod output;
mod ping;
mod service;
mod status;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use annulus_daemon::exit::{Exit, Failure};
use annulus_daemon::settings::{Flags, Settings};
use clap::{Args, Parser, Subcommand};

use output::Output;

/// A self-hosted peer-to-peer VPN.
#[derive(Parser, Debug)]
#[command(
    name = "annulus",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong use, 3 timed out or not connected, 77 not possible here."
)]
struct Cli {
    /// Print one JSON object on standard output, everything else on standard error
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Start this host's daemon and wait until it is connected
    Up(up::Up),
    /// Say good-bye to the neighbours and end the daemon
    Down(up::Down),
    /// Show groups and peers
    Status(status::StatusArgs),
    /// Show peers and their paths
    Peers(status::StatusArgs),
    /// Measure the round trip to a member over the VPN
    Ping(ping::Ping),
    /// Show the nodes on the way to a member
    Trace(ping::Trace),
    /// Show names and addresses of members, or write them to /etc/hosts
    Hosts(hosts::Hosts),
    /// Found a group, issue and revoke certificates
    #[command(subcommand)]
    Ca(ca::Ca),
    /// Build a small internet with a VPN on it, in namespaces of this machine, and measure it
    Demo(demo::Demo),
    /// Run the daemon under systemd
    #[command(subcommand)]
    Service(service::Service),
    /// Print an example configuration, or check this host's
    #[command(subcommand)]
    Config(configuration::Config),
    /// Show the version
    Version,
}

/// Which daemon a verb talks to.
#[derive(Args, Clone, Debug, Default)]
struct Target {
    /// Configuration file of this host
    #[arg(long, env = "ANNULUS_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name of the daemon, when a host runs several
    #[arg(long, env = "ANNULUS_INSTANCE", value_name = "NAME")]
    instance: Option<String>,
    /// Socket on which the daemon is controlled
    #[arg(long, env = "ANNULUS_CONTROL_SOCKET", value_name = "PATH")]
    control_socket: Option<PathBuf>,
}

impl Target {
    fn settings(&self) -> Result<Settings, Failure> {
        let flags = Flags {
            config: self.config.clone(),
            instance: self.instance.clone(),
            control_socket: self.control_socket.clone(),
            ..Flags::default()
        };
        Settings::new(&flags).map_err(Failure::usage)
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn run() -> ExitCode {
    // Hosts of the demo start this program again.
    annulus_lab::child_main();
    // clap ends the process itself for --help, --version and wrong use (exit code 2).
    let cli = Cli::parse();
    let output = Output::new(cli.json);
    let result = match cli.verb {
        Verb::Up(verb) => verb.run(&output),
        Verb::Down(verb) => verb.run(&output),
        Verb::Status(verb) => verb.run(&output, false),
        Verb::Peers(verb) => verb.run(&output, true),
        Verb::Ping(verb) => verb.run(&output),
        Verb::Trace(verb) => verb.run(&output),
        Verb::Hosts(verb) => verb.run(&output),
        Verb::Ca(verb) => verb.run(&output),
        Verb::Demo(verb) => verb.run(&output),
        Verb::Service(verb) => verb.run(&output),
        Verb::Config(verb) => verb.run(&output),
        Verb::Version => version(&output),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.exit.into()
        }
    }
}

fn version(output: &Output) -> Result<Exit, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    output.json(&serde_json::json!({ "version": version, "runtimes": ["mio", "tokio"] }));
    output.text(format_args!("annulus {version} (runtimes: mio, tokio)"));
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_takes_json() {
        for line in
            ["up", "down", "status", "peers", "ping x", "trace x", "hosts", "demo --once", "service status", "config check", "version"]
        {
            assert!(parse(&format!("annulus {line} --json")).unwrap().json, "{line}");
            assert!(parse(&format!("annulus --json {line}")).unwrap().json, "{line}");
        }
    }

    #[test]
    fn wrong_use_ends_with_code_2() {
        for line in [
            "annulus dance",
            "annulus ping",
            "annulus up --runtime java",
            "annulus ping x -c 0",
            "annulus up --workers 17",
            "annulus up --offload perhaps",
            "annulus up --listen nowhere",
            "annulus up --wait soon",
            "annulus demo --hosts 2",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn a_misspelt_verb_gets_a_suggestion() {
        assert!(parse("annulus staus").unwrap_err().to_string().contains("status"));
    }
}
