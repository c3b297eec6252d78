//! The figures: their names, how they are shown, and medians over rounds.

use std::collections::BTreeMap;

/// What was measured of one peer in one round, by name.
pub(crate) type Figures = BTreeMap<&'static str, f64>;

/// A column of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    /// Its heading.
    pub(crate) heading: &'static str,
    /// The figures in it, divided by `/` where there are several.
    pub(crate) names: &'static [&'static str],
    /// What a figure is multiplied by to be shown.
    pub(crate) scale: f64,
    /// Digits behind the point.
    pub(crate) digits: usize,
}

const fn column(heading: &'static str, names: &'static [&'static str], scale: f64, digits: usize) -> Column {
    Column { heading, names, scale, digits }
}

/// The table's columns. Every figure of the bench is in one of them.
pub(crate) const COLUMNS: [Column; 13] = [
    column("TCP x1 a>b / b>a Mbit/s", &["tcp_x1_ab_mbit_per_s", "tcp_x1_ba_mbit_per_s"], 1.0, 0),
    column("TCP x4 a>b / b>a Mbit/s", &["tcp_x4_ab_mbit_per_s", "tcp_x4_ba_mbit_per_s"], 1.0, 0),
    column("UDP 64 B kpps", &["udp64_pps"], 1e-3, 1),
    column("UDP 1200 B Mbit/s", &["udp1200_mbit_per_s"], 1.0, 0),
    column("RTT idle med / p99 us", &["rtt_idle_us", "rtt_idle_p99_us"], 1.0, 0),
    column("RTT loaded med / p99 ms", &["rtt_loaded_ms", "rtt_loaded_p99_ms"], 1.0, 2),
    column("CPU s/GB", &["cpu_s_per_gb"], 1.0, 2),
    column("RSS idle / loaded MB", &["rss_kb_idle", "rss_kb_loaded"], 1.0 / 1024.0, 1),
    column("private idle / loaded MB", &["private_kb_idle", "private_kb_loaded"], 1.0 / 1024.0, 1),
    column("syscalls per MB", &["syscalls_per_mb"], 1.0, 1),
    column("wire bytes per packet", &["wire_overhead_bytes"], 1.0, 0),
    column("first ping ms", &["first_ping_ms"], 1.0, 0),
    column("others' CPU", &["others_cpu"], 1.0, 2),
];

/// Figures that are in no column but in the JSON: means of both directions, and what ratios need.
pub(crate) const UNSHOWN: [&str; 5] =
    ["tcp_x1_mbit_per_s", "tcp_x4_mbit_per_s", "udp64_loss", "udp1200_plain_mbit_per_s", "rtt_loaded_mbit_per_s"];

/// Names of all figures.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    COLUMNS.iter().flat_map(|column| column.names.iter().copied()).chain(UNSHOWN)
}

/// The median; between two values their mean. `None` of nothing.
#[must_use]
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    Some(if sorted.len() % 2 == 1 { upper } else { f64::midpoint(sorted[sorted.len() / 2 - 1], upper) })
}

/// The median of each figure over the rounds in which it was measured.
#[must_use]
pub(crate) fn medians(rounds: &[Figures]) -> Figures {
    let of = |name| median(&rounds.iter().filter_map(|figures| figures.get(name).copied()).collect::<Vec<_>>());
    names().filter_map(|name| Some((name, of(name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_both() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[5.0]), Some(5.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[9.0, 1.0, 5.0, 7.0]), Some(6.0));
    }

    #[test]
    fn a_figure_that_failed_in_one_round_has_the_median_of_the_others() {
        let rounds = [Figures::from([("udp64_pps", 1.0), ("first_ping_ms", 4.0)]), Figures::from([("udp64_pps", 3.0)])];
        assert_eq!(medians(&rounds), Figures::from([("udp64_pps", 2.0), ("first_ping_ms", 4.0)]));
    }

    #[test]
    fn no_figure_has_two_places() {
        let all: Vec<_> = names().collect();
        let mut unique = all.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), all.len());
    }
}
