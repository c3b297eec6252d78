//! What must be reached: the lines of the table, computed from one run.
//!
//! A ratio is the median over the rounds of the ratios within a round: both sides of it were measured a minute apart, and a machine that changes
//! its speed by the hour changes both.

use serde::Serialize;

use crate::figures::{Figures, median};
use crate::plugin::Kind;

/// Whether more or less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Better {
    More,
    Less,
}
use Better::{Less, More};

/// All rounds of one peer.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// Its name.
    pub(crate) name: String,
    /// What it is.
    pub(crate) kind: Kind,
    /// One entry per round, in order.
    pub(crate) rounds: Vec<Figures>,
}

/// One line: a ratio, or an absolute figure, and what it must be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Line {
    /// The ratio, or the figure where `against` is a unit; `null` if a side of it was not measured.
    pub(crate) value: Option<f64>,
    /// Whose figure is above the line.
    pub(crate) of: String,
    /// Whose figure is below; or the unit.
    pub(crate) against: Option<String>,
    /// The value must not be below this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) at_least: Option<f64>,
    /// The value must not be above this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) at_most: Option<f64>,
    /// What is aimed at.
    pub(crate) aim: Option<f64>,
    /// Whether the bounds hold; `null` without a value or bound.
    pub(crate) reached: Option<bool>,
}

impl Line {
    fn new(of: &str, against: Option<&str>, value: Option<f64>, better: Better, bound: Option<f64>, aim: Option<f64>) -> Self {
        let (at_least, at_most) = if better == More { (bound, None) } else { (None, bound) };
        Self { value, of: of.into(), against: against.map(Into::into), at_least, at_most, aim, reached: None }.judged()
    }

    fn judged(mut self) -> Self {
        let bounded = self.at_least.is_some() || self.at_most.is_some();
        self.reached = self
            .value
            .filter(|_| bounded)
            .map(|value| self.at_least.is_none_or(|bound| value >= bound) && self.at_most.is_none_or(|bound| value <= bound));
        self
    }
}

struct Run<'a>(&'a [Measured]);

impl Run<'_> {
    fn peer(&self, name: &str) -> Option<&Measured> {
        self.0.iter().find(|peer| peer.name == name)
    }

    /// The released peer whose median of the figure is best.
    fn best(&self, figure: &str, better: Better) -> Option<&Measured> {
        let of = |peer: &Measured| median(&values(peer, figure));
        let released = self.0.iter().filter(|peer| peer.kind == Kind::Released && of(peer).is_some());
        released.min_by(|a, b| {
            let order = of(a).unwrap_or(0.0).total_cmp(&of(b).unwrap_or(0.0));
            if better == Less { order } else { order.reverse() }
        })
    }
}

fn values(peer: &Measured, figure: &str) -> Vec<f64> {
    peer.rounds.iter().filter_map(|figures| figures.get(figure).copied()).collect()
}

/// The median of the ratios of all rounds in which both have the figure.
fn ratio(above: &Measured, below: &Measured, above_figure: &str, below_figure: &str) -> Option<f64> {
    let rounds = above.rounds.iter().zip(&below.rounds);
    let ratios: Vec<f64> = rounds
        .filter_map(|(above, below)| Some(above.get(above_figure)? / below.get(below_figure).filter(|value| **value > 0.0)?))
        .collect();
    median(&ratios)
}

/// Against the best released peer: key, figure, direction, bound, aim.
const AGAINST_BEST: [(&str, &str, Better, f64, f64); 5] = [
    ("tcp_x1_vs_best_peer", "tcp_x1_mbit_per_s", More, 2.4, 2.8),
    ("cpu_s_per_gb_vs_best_peer", "cpu_s_per_gb", Less, 0.34, 0.29),
    ("udp64_pps_vs_best_peer", "udp64_pps", More, 1.5, 2.1),
    ("rtt_idle_vs_best_peer", "rtt_idle_us", Less, 1.0, 0.7),
    ("rtt_loaded_p99_vs_best_peer", "rtt_loaded_p99_ms", Less, 1.0, 0.7),
];

/// The lines in the order in which they are shown. Without `offload` those that the issue states for that case take the place of the others.
#[must_use]
pub(crate) fn lines(peers: &[Measured], offload: bool) -> Vec<(String, Line)> {
    let run = Run(peers);
    let Some(ours) = run.peer("annulus-mio").or_else(|| peers.iter().find(|peer| peer.kind == Kind::Ours)) else { return Vec::new() };
    let mut lines = Vec::new();
    let mut add = |key: &str, line: Line| lines.push((key.to_owned(), line));
    let to_ceiling = |figure: &str, better, bound, aim| {
        let ceiling = run.peer("ceiling");
        let value = ceiling.and_then(|ceiling| ratio(ours, ceiling, figure, figure));
        Line::new(&ours.name, ceiling.map(|_| "ceiling"), value, better, bound, aim)
    };
    let stated = |value: f64| offload.then_some(value);
    add("tcp_x1_vs_ceiling", to_ceiling("tcp_x1_mbit_per_s", More, stated(0.9), stated(1.0)));
    add("tcp_x4_vs_ceiling", to_ceiling("tcp_x4_mbit_per_s", More, None, None));
    add("cpu_s_per_gb_vs_ceiling", to_ceiling("cpu_s_per_gb", Less, None, None));
    for (key, figure, better, bound, aim) in AGAINST_BEST {
        let (key, bound, aim) =
            if key == "tcp_x1_vs_best_peer" && !offload { ("tcp_x1_no_offload_vs_best_peer", 3.0, 3.5) } else { (key, bound, aim) };
        let best = run.best(figure, better);
        let value = best.and_then(|best| ratio(ours, best, figure, figure));
        add(key, Line::new(&ours.name, best.map(|best| best.name.as_str()), value, better, Some(bound), Some(aim)));
    }
    let plain = ratio(ours, ours, "udp1200_mbit_per_s", "udp1200_plain_mbit_per_s");
    add(
        "udp1200_vs_one_packet_per_read",
        Line::new(&ours.name, Some("annulus-mio with --tun-backend tun-tap"), plain, More, Some(1.5), Some(2.0)),
    );
    if let (Some(mio), Some(tokio)) = (run.peer("annulus-mio"), run.peer("annulus-tokio")) {
        for (key, figure) in [("tcp_x1_mio_vs_tokio", "tcp_x1_mbit_per_s"), ("udp64_pps_mio_vs_tokio", "udp64_pps")] {
            let line = Line::new("annulus-mio", Some("annulus-tokio"), ratio(mio, tokio, figure, figure), More, Some(0.9), Some(1.0));
            add(key, Line { at_most: Some(1.1), ..line }.judged());
        }
    }
    if let (Some(one), Some(two)) = (run.peer("annulus-mio"), run.peer("annulus-mio-w2")) {
        for (key, figure) in [("tcp_x1_w2_vs_w1", "tcp_x1_mbit_per_s"), ("tcp_x4_w2_vs_w1", "tcp_x4_mbit_per_s")] {
            add(key, Line::new("annulus-mio-w2", Some("annulus-mio"), ratio(two, one, figure, figure), More, Some(1.0), None));
        }
        let more = |figure| Some(median(&values(two, figure))? - median(&values(one, figure))?);
        add("rss_kb_per_further_worker", Line::new("annulus-mio-w2", Some("kB"), more("rss_kb_loaded"), Less, Some(6.0 * 1024.0), None));
    }
    for (key, figure, bound, aim) in [("rss_kb_idle", "rss_kb_idle", 8.0, 4.0), ("rss_kb_loaded", "rss_kb_loaded", 16.0, 10.0)] {
        add(key, Line::new(&ours.name, Some("kB"), median(&values(ours, figure)), Less, Some(bound * 1024.0), Some(aim * 1024.0)));
    }
    add("wire_overhead_bytes", Line::new(&ours.name, Some("bytes"), median(&values(ours, "wire_overhead_bytes")), Less, Some(52.0), None));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str, kind: Kind, figure: &'static str, rounds: &[f64]) -> Measured {
        Measured { name: name.into(), kind, rounds: rounds.iter().map(|value| Figures::from([(figure, *value)])).collect() }
    }

    fn line(peers: &[Measured], offload: bool, key: &str) -> Line {
        lines(peers, offload).into_iter().find(|(name, _)| name == key).unwrap_or_else(|| panic!("no line {key}")).1
    }

    #[test]
    fn a_ratio_is_the_median_of_the_ratios_within_rounds() {
        const X1: &str = "tcp_x1_mbit_per_s";
        let peers = [peer("annulus-mio", Kind::Ours, X1, &[90.0, 50.0, 80.0]), peer("ceiling", Kind::Limit, X1, &[100.0, 50.0, 100.0])];
        let line = line(&peers, true, "tcp_x1_vs_ceiling");
        assert_eq!((line.value, line.at_least, line.aim, line.reached), (Some(0.9), Some(0.9), Some(1.0), Some(true)));
    }

    #[test]
    fn the_best_released_peer_is_taken_and_neither_the_bound_nor_no_vpn() {
        const CPU: &str = "cpu_s_per_gb";
        let peers = [
            peer("none", Kind::None, CPU, &[0.1]),
            peer("ceiling", Kind::Limit, CPU, &[1.0]),
            peer("annulus-mio", Kind::Ours, CPU, &[2.0]),
            peer("slow", Kind::Released, CPU, &[9.0]),
            peer("quick", Kind::Released, CPU, &[4.0]),
        ];
        let line = line(&peers, true, "cpu_s_per_gb_vs_best_peer");
        assert_eq!((line.value, line.against.as_deref(), line.at_most, line.reached), (Some(0.5), Some("quick"), Some(0.34), Some(false)));
    }

    #[test]
    fn without_offload_the_bound_is_another_one() {
        const X1: &str = "tcp_x1_mbit_per_s";
        let peers = [peer("annulus-mio", Kind::Ours, X1, &[3.2]), peer("wireguard-go", Kind::Released, X1, &[1.0])];
        assert_eq!(line(&peers, false, "tcp_x1_no_offload_vs_best_peer").reached, Some(true));
        assert!(lines(&peers, false).iter().all(|(key, _)| key != "tcp_x1_vs_best_peer"));
        assert_eq!(line(&peers, true, "tcp_x1_vs_best_peer").reached, Some(true));
    }

    #[test]
    fn runtimes_must_be_near_each_other_on_both_sides() {
        const X1: &str = "tcp_x1_mbit_per_s";
        let near = |mio| {
            let peers = [peer("annulus-mio", Kind::Ours, X1, &[mio]), peer("annulus-tokio", Kind::Ours, X1, &[100.0])];
            line(&peers, true, "tcp_x1_mio_vs_tokio").reached
        };
        assert_eq!([near(89.0), near(95.0), near(111.0)], [Some(false), Some(true), Some(false)]);
    }

    #[test]
    fn what_was_not_measured_is_null_and_neither_reached_nor_missed() {
        let peers = [peer("annulus-mio", Kind::Ours, "udp64_pps", &[1.0])];
        let line = line(&peers, true, "tcp_x1_vs_ceiling");
        assert_eq!((line.value, line.against, line.reached), (None, None, None));
        assert!(lines(&[], true).is_empty());
    }
}
