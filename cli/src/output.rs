//! What is printed where: results for people or as JSON on standard output, everything else on standard error.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use annulus_daemon::exit::Failure;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// Where and how results are printed.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    colour: bool,
}

/// What a word says by its colour.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mood {
    Good,
    Doubtful,
    Bad,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { json, colour: !json && !refused && io::stdout().is_terminal() }
    }

    /// The result for programs: one object on one line. Nothing without `--json`.
    pub(crate) fn json<T: Serialize>(&self, value: &T) {
        if self.json {
            let line = serde_json::to_string(value).expect("plain data with text keys always becomes JSON");
            print(&line);
        }
    }

    /// The result for people. Nothing with `--json`.
    pub(crate) fn text(&self, text: impl Display) {
        if !self.json {
            print(&text);
        }
    }

    /// What is neither: progress and remarks.
    pub(crate) fn note(&self, text: impl Display) {
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// Why it failed.
    pub(crate) fn failure(&self, failure: &Failure) {
        self.json(&serde_json::json!({ "error": failure.message, "exit_code": failure.exit.code() }));
        self.note(format_args!("annulus: {failure}"));
    }

    /// `text` in the colour of its mood, on a terminal.
    pub(crate) fn paint(&self, mood: Mood, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match mood {
            Mood::Good => 32,
            Mood::Doubtful => 33,
            Mood::Bad => 31,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

fn print(text: impl Display) {
    // A reader that closed the pipe has seen enough.
    let _ = writeln!(io::stdout(), "{text}");
}

/// A table without borders; columns listed in `right` are aligned to the right.
pub(crate) fn table<const N: usize>(header: [&str; N], right: &[usize], rows: Vec<[String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Bytes with a unit: `812 B`, `1.4 MB`.
pub(crate) fn bytes(count: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.*} {}", usize::from(value < 99.95), units[unit]) }
}

/// A round-trip time with its unit.
pub(crate) fn millis(ms: f64) -> String {
    let digits = if ms < 10.0 { 2 } else { usize::from(ms < 100.0) };
    format!("{ms:.digits$} ms")
}

/// A long time in its largest unit: `3 min`.
pub(crate) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// The items with commas between, or a dash.
pub(crate) fn list<T: Display>(items: &[T]) -> String {
    if items.is_empty() { "-".to_owned() } else { items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_units() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_400), "1.4 kB");
        assert_eq!(bytes(250_000_000), "250 MB");
        assert_eq!(millis(0.1234), "0.12 ms");
        assert_eq!(millis(23.45), "23.4 ms");
        assert_eq!(span(Duration::from_secs(3 * 3600)), "3 h");
    }

    #[test]
    fn tables_are_aligned_without_borders() {
        let text = table(["NAME", "RTT"], &[1], vec![["a".into(), "1.00 ms".into()], ["longer".into(), "10.0 ms".into()]]);
        assert_eq!(text, "NAME        RTT\na       1.00 ms\nlonger  10.0 ms");
    }

    #[test]
    fn json_has_no_colour() {
        assert_eq!(Output { json: true, colour: false }.paint(Mood::Bad, "x"), "x");
        assert_eq!(Output { json: false, colour: true }.paint(Mood::Bad, "x"), "\x1b[31mx\x1b[0m");
    }
}
