//! Logs: levels, their form, and where they go.
//!
//! | level | what |
//! | --- | --- |
//! | error | it does not work, and somebody must do something |
//! | warn | it works, but somebody should look: a refused peer, a wrong clock, a second daemon with our identity |
//! | info | joined, left, peers that come and go, paths that change |
//! | debug | each decision of the control plane |
//! | trace | each packet; nothing below this level is ever written per packet |

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::config::nearest;
use crate::settings::LogFormat;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Says whether `text` is a level or a filter of levels per module.
///
/// # Errors
/// What is wrong, with the nearest level.
pub fn check_filter(text: &str) -> Result<(), String> {
    for directive in text.split(',') {
        let level = directive.rsplit('=').next().unwrap_or_default().trim();
        if !LEVELS.contains(&level.to_ascii_lowercase().as_str()) {
            let hint =
                nearest(level, &LEVELS).map_or_else(|| format!("levels: {}", LEVELS.join(", ")), |near| format!("did you mean `{near}`?"));
            return Err(format!("`{level}` is not a level; {hint}"));
        }
    }
    EnvFilter::builder().parse(text).map(|_| ()).map_err(|error| error.to_string())
}

/// Sends what is traced from now on to standard error. Later calls have no effect: tests and `annulus` may have set up their own.
pub fn start(filter: &str, format: LogFormat) {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).parse_lossy(filter);
    let terminal = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // The journal has its own time stamps.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let base = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    let _ = match (format, journal) {
        (LogFormat::Json, _) => base.json().flatten_event(true).try_init(),
        (LogFormat::Text, true) => base.without_time().with_target(false).try_init(),
        (LogFormat::Text, false) => base.with_target(false).try_init(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_is_named_with_the_nearest() {
        assert_eq!(check_filter("inof").unwrap_err(), "`inof` is not a level; did you mean `info`?");
        assert_eq!(check_filter("warn,annulus_core=dbug").unwrap_err(), "`dbug` is not a level; did you mean `debug`?");
    }

    #[test]
    fn levels_and_filters_are_accepted() {
        for text in ["info", "TRACE", "info,annulus_core=debug", "off"] {
            check_filter(text).unwrap();
        }
    }
}
