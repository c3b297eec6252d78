//! `annulus ping` and `annulus trace`.

use std::thread::sleep;
use std::time::Duration;

use annulus_daemon::control::Request;
use annulus_daemon::exit::{Exit, Failure};
use annulus_daemon::status::{PingAnswer, TraceAnswer};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::output::{Mood, Output, list, millis, table};
use crate::{Target, control};

#[derive(Args, Debug)]
pub(crate) struct Ping {
    /// Node name, virtual address or node ID
    node: String,
    /// How many
    #[arg(short, long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// Seconds between two
    #[arg(short, long, default_value_t = 1.0, value_parser = seconds)]
    interval: f64,
    #[command(flatten)]
    target: Target,
    /// The group, if there are several
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|seconds| (0.0..=3600.0).contains(seconds))
        .ok_or_else(|| format!("`{text}` is no number of seconds from 0 to 3600"))
}

/// What `ping --json` prints.
#[derive(Debug, Default, Serialize, Deserialize)]
struct PingReport {
    node: String,
    node_id: String,
    group: String,
    sent: u32,
    received: u32,
    rtt_min_ms: Option<f64>,
    rtt_mean_ms: Option<f64>,
    rtt_max_ms: Option<f64>,
    replies: Vec<PingAnswer>,
}

impl PingReport {
    fn new(node: &str, replies: Vec<PingAnswer>) -> Self {
        let times: Vec<f64> = replies.iter().filter_map(|reply| reply.rtt_ms).collect();
        let mean = (!times.is_empty()).then(|| times.iter().sum::<f64>() / times.len() as f64);
        Self {
            node: node.to_owned(),
            node_id: replies.first().map(|reply| reply.node_id.clone()).unwrap_or_default(),
            group: replies.first().map(|reply| reply.group.clone()).unwrap_or_default(),
            sent: replies.len() as u32,
            received: times.len() as u32,
            rtt_min_ms: times.iter().copied().reduce(f64::min),
            rtt_mean_ms: mean,
            rtt_max_ms: times.iter().copied().reduce(f64::max),
            replies,
        }
    }
}

impl Ping {
    /// Ends with 3 when nothing was answered.
    pub(crate) fn run(&self, output: &Output) -> Result<Exit, Failure> {
        let mut client = control::connect(&self.target.settings()?)?;
        let mut replies: Vec<PingAnswer> = Vec::new();
        for number in 0..self.count {
            if number > 0 {
                sleep(Duration::from_secs_f64(self.interval));
            }
            let reply: PingAnswer = control::ask(&mut client, &Request::Ping { group: self.group.clone(), node: self.node.clone() })?;
            if number == 0 {
                output.text(format_args!("{} is node {} of group {}, {}", self.node, reply.node_id, reply.group, list(&reply.addresses)));
            }
            output.text(line(output, number + 1, &reply));
            replies.push(reply);
        }
        let report = PingReport::new(&self.node, replies);
        output.json(&report);
        if let (Some(min), Some(mean), Some(max)) = (report.rtt_min_ms, report.rtt_mean_ms, report.rtt_max_ms) {
            output.text(format_args!(
                "{} of {} answered; round trip {} least, {} mean, {} most",
                report.received,
                report.sent,
                millis(min),
                millis(mean),
                millis(max)
            ));
            return Ok(Exit::Done);
        }
        output.text(format_args!("none of {} answered", report.sent));
        Ok(Exit::NotConnected)
    }
}

fn line(output: &Output, number: u32, reply: &PingAnswer) -> String {
    let Some(rtt) = reply.rtt_ms else { return format!("{number}: {}", output.paint(Mood::Bad, "no answer")) };
    let remote = reply.remote.map(|remote| format!(" {remote}")).unwrap_or_default();
    format!("{number}: {} {}{remote}", millis(rtt), reply.path.as_deref().unwrap_or("by an unknown path"))
}

#[derive(Args, Debug)]
pub(crate) struct Trace {
    /// Node name, virtual address or node ID
    node: String,
    #[command(flatten)]
    target: Target,
    /// The group, if there are several
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
}

impl Trace {
    /// Ends with 3 when the node was not reached.
    pub(crate) fn run(&self, output: &Output) -> Result<Exit, Failure> {
        let mut client = control::connect(&self.target.settings()?)?;
        let answer: TraceAnswer = control::ask(&mut client, &Request::Trace { group: self.group.clone(), node: self.node.clone() })?;
        output.json(&answer);
        let rows = answer
            .hops
            .iter()
            .enumerate()
            .map(|(index, hop)| [(index + 1).to_string(), hop.name.clone(), hop.node_id.clone(), millis(hop.rtt_ms)]);
        output.text(table(["HOP", "NODE", "NODE ID", "RTT"], &[0, 3], rows.collect()));
        if answer.reached {
            return Ok(Exit::Done);
        }
        output.note(format_args!("{} was not reached", self.node));
        Ok(Exit::NotConnected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_examples_are_what_the_program_writes() {
        let example: serde_json::Value = serde_json::from_str(include_str!("../../docs/json/ping.json")).unwrap();
        let report: PingReport = serde_json::from_value(example.clone()).unwrap();
        let again = PingReport::new(&report.node, report.replies);
        assert_eq!(serde_json::to_value(again).unwrap(), example);
        let example: serde_json::Value = serde_json::from_str(include_str!("../../docs/json/trace.json")).unwrap();
        let answer: TraceAnswer = serde_json::from_value(example.clone()).unwrap();
        assert_eq!(serde_json::to_value(answer).unwrap(), example);
    }

    #[test]
    fn without_an_answer_there_are_no_times() {
        let report = PingReport::new("b", vec![PingAnswer::default(); 2]);
        assert_eq!((report.sent, report.received, report.rtt_mean_ms), (2, 0, None));
    }
}
