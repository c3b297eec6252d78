//! What a run says: JSON, and a table for terminals or in Markdown.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Map, Value, json};

use crate::figures::{COLUMNS, Column, Figures, medians, names};
use crate::ratios::{Line, Measured, lines};

/// A peer with what it said about itself.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Its figures.
    pub(crate) measured: Measured,
    /// Its version.
    pub(crate) version: String,
    /// How it was configured.
    pub(crate) about: String,
    /// What could not be measured.
    pub(crate) errors: Vec<String>,
}

/// All that a run found.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// Rounds that are complete.
    pub(crate) rounds: usize,
    /// The machine.
    pub(crate) machine: Value,
    /// Whether the cable cuts and merges.
    pub(crate) offload: bool,
    /// s of each load.
    pub(crate) seconds: u64,
    /// The peers in the order of measurement.
    pub(crate) entries: Vec<Entry>,
    /// Peers that did not take part, and why.
    pub(crate) left_out: Vec<(String, String)>,
}

/// Figures that are counted whole in the JSON.
fn rounded(value: f64) -> Value {
    // Three digits behind the point; more would be noise.
    json!((value * 1e3).round() / 1e3)
}

impl Report {
    fn ratios(&self) -> Vec<(String, Line)> {
        let measured: Vec<Measured> = self.entries.iter().map(|entry| entry.measured.clone()).collect();
        lines(&measured, self.offload)
    }

    /// As JSON. Every peer has every figure; what was not measured is `null`.
    #[must_use]
    pub(crate) fn json(&self) -> Value {
        let peer = |entry: &Entry| {
            let medians = medians(&entry.measured.rounds);
            let mut object = Map::new();
            object.insert("name".into(), json!(entry.measured.name));
            object.insert("version".into(), json!(entry.version));
            for name in names() {
                object.insert(name.into(), medians.get(name).map_or(Value::Null, |value| rounded(*value)));
            }
            object.insert("about".into(), json!(entry.about));
            object.insert("errors".into(), json!(entry.errors));
            let rounds: Vec<Value> = entry.measured.rounds.iter().map(one_round).collect();
            object.insert("rounds".into(), Value::Array(rounds));
            Value::Object(object)
        };
        let ratios: Map<String, Value> = self
            .ratios()
            .into_iter()
            .map(|(key, mut line)| {
                line.value = line.value.map(|value| (value * 1e3).round() / 1e3);
                (key, json!(line))
            })
            .collect();
        let left_out: Map<String, Value> = self.left_out.iter().map(|(name, why)| (name.clone(), json!(why))).collect();
        json!({
            "rounds": self.rounds,
            "machine": self.machine,
            "offload": self.offload,
            "seconds_per_load": self.seconds,
            "peers": self.entries.iter().map(peer).collect::<Vec<_>>(),
            "ratios": ratios,
            "left_out": left_out,
        })
    }

    /// As tables, followed by versions and what is missing.
    #[must_use]
    pub(crate) fn text(&self, markdown: bool) -> String {
        let mut text = String::new();
        let mut peers: Vec<Vec<String>> =
            vec![["peer"].into_iter().chain(COLUMNS.iter().map(|column| column.heading)).map(Into::into).collect()];
        for entry in &self.entries {
            let medians = medians(&entry.measured.rounds);
            peers.push([entry.measured.name.clone()].into_iter().chain(COLUMNS.iter().map(|column| cell(&medians, column))).collect());
        }
        text += &table(&peers, markdown);
        let ratios = self.ratios();
        if !ratios.is_empty() {
            let mut rows: Vec<Vec<String>> = vec![["ratio", "of", "against", "value", "must be", "aim", ""].map(Into::into).to_vec()];
            rows.extend(ratios.iter().map(|(key, line)| ratio_row(key, line)));
            text += "\n\n";
            text += &table(&rows, markdown);
        }
        text += &self.remarks();
        text
    }

    fn remarks(&self) -> String {
        let machine = |key: &str| self.machine[key].as_str().unwrap_or_default().to_owned();
        let mut text = format!(
            "\n\nMedians of {} rounds, {} s per load, veth offloads {}. {} processors ({}), Linux {}.",
            self.rounds,
            self.seconds,
            if self.offload { "on" } else { "off" },
            self.machine["cpus"],
            machine("model"),
            machine("kernel"),
        );
        let versions: Vec<String> = self
            .entries
            .iter()
            .filter(|entry| !entry.version.is_empty())
            .map(|entry| format!("{}: {} ({})", entry.measured.name, entry.version, entry.about))
            .collect();
        text += &format!("\n\nVersions: {}", versions.join("; "));
        for (name, why) in &self.left_out {
            text += &format!("\nLeft out: {name}, {why}");
        }
        for entry in &self.entries {
            for error in &entry.errors {
                text += &format!("\nNot measured: {}: {error}", entry.measured.name);
            }
        }
        text
    }
}

fn one_round(figures: &Figures) -> Value {
    Value::Object(figures.iter().map(|(name, value)| ((*name).to_owned(), rounded(*value))).collect())
}

fn cell(medians: &Figures, column: &Column) -> String {
    let one = |name: &&str| medians.get(name).map_or_else(|| "-".to_owned(), |value| format!("{:.*}", column.digits, value * column.scale));
    column.names.iter().map(one).collect::<Vec<_>>().join(" / ")
}

fn ratio_row(key: &str, line: &Line) -> Vec<String> {
    let number = |value: f64| if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") };
    let bound = match (line.at_least, line.at_most) {
        (Some(least), Some(most)) => format!("{} to {}", number(least), number(most)),
        (Some(least), None) => format!("at least {}", number(least)),
        (None, Some(most)) => format!("at most {}", number(most)),
        (None, None) => String::new(),
    };
    vec![
        key.to_owned(),
        line.of.clone(),
        line.against.clone().unwrap_or_else(|| "-".into()),
        line.value.map_or_else(|| "-".into(), number),
        bound,
        line.aim.map_or_else(String::new, number),
        match line.reached {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        }
        .to_owned(),
    ]
}

/// Lines up rows, the first of which is the heading.
fn table(rows: &[Vec<String>], markdown: bool) -> String {
    let mut table = Table::new();
    table.load_style(if markdown { presets::ASCII_MARKDOWN } else { presets::NOTHING });
    let mut rows = rows.iter();
    if let Some(heading) = rows.next() {
        table.set_header(heading);
    }
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::Kind;

    fn report() -> Report {
        let entry = |name: &str, kind, x1: f64| Entry {
            measured: Measured {
                name: name.into(),
                kind,
                rounds: vec![Figures::from([("tcp_x1_mbit_per_s", x1), ("tcp_x1_ab_mbit_per_s", x1)])],
            },
            version: "1".into(),
            about: "as it is".into(),
            errors: Vec::new(),
        };
        Report {
            rounds: 1,
            machine: json!({ "cpus": 2, "model": "any", "kernel": "6.1" }),
            offload: true,
            seconds: 2,
            entries: vec![entry("annulus-mio", Kind::Ours, 950.0), entry("ceiling", Kind::Limit, 1000.0)],
            left_out: vec![("tinc".into(), "not on PATH: tincd".into())],
        }
    }

    #[test]
    fn every_peer_has_every_figure_and_the_bounds_stand_beside_the_ratios() {
        let json = report().json();
        let peer = &json["peers"][0];
        for name in [
            "name",
            "version",
            "tcp_x1_mbit_per_s",
            "tcp_x4_mbit_per_s",
            "udp64_pps",
            "rtt_idle_us",
            "rtt_loaded_p99_ms",
            "cpu_s_per_gb",
            "rss_kb_idle",
            "rss_kb_loaded",
            "first_ping_ms",
        ] {
            assert!(peer.as_object().unwrap().contains_key(name), "{name}");
        }
        assert_eq!((peer["tcp_x1_mbit_per_s"].as_f64(), &peer["udp64_pps"]), (Some(950.0), &Value::Null));
        let line = &json["ratios"]["tcp_x1_vs_ceiling"];
        assert_eq!((line["value"].as_f64(), line["at_least"].as_f64(), line["aim"].as_f64()), (Some(0.95), Some(0.9), Some(1.0)));
        assert_eq!(line["reached"], json!(true));
    }

    #[test]
    fn the_markdown_has_a_rule_below_each_heading_and_names_what_is_missing() {
        let text = report().text(true);
        assert!(text.contains("| peer ") && text.contains("|---"), "{text}");
        assert!(text.contains("950 / -") && text.contains("Left out: tinc, not on PATH: tincd"), "{text}");
        assert!(!report().text(false).contains('|'));
    }
}
