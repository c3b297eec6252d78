//! Configuration files: TOML whose errors name file, line, key and the nearest valid key.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::files::{self, FileError};

/// Why a configuration file was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file says something that it must not say.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// A fault at a place in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from 1; 0 when it concerns the whole file.
    pub line: usize,
    /// The key, if it is known.
    pub key: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What was probably meant, or what to do.
    pub hint: Option<String>,
}

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        f.write_str(": ")?;
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// A parsed file that still knows its text, so that later faults can name a line.
#[derive(Clone, Debug)]
pub struct Document<T> {
    /// The content.
    pub content: T,
    /// Where it came from.
    pub file: PathBuf,
    text: String,
}

impl<T> Document<T> {
    /// A fault of `key`, with the line on which the file sets it.
    pub fn fault(&self, key: &str, message: impl Into<String>, hint: Option<String>) -> ConfigError {
        let line = self.text.lines().position(|line| key_of(line).is_some_and(|found| found == key)).map_or(0, |index| index + 1);
        Fault { file: self.file.clone(), line, key: Some(key.to_owned()), message: message.into(), hint }.into()
    }

    /// The directory to which relative paths in the file refer: the file's own.
    #[must_use]
    pub fn directory(&self) -> &Path {
        match self.file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    /// A path of the file, resolved.
    #[must_use]
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.directory().join(path)
    }
}

/// Reads and parses `file`. Unknown keys, wrong types and doubled keys are errors.
///
/// # Errors
/// [`ConfigError`] with the place.
pub fn load<T: DeserializeOwned>(file: &Path) -> Result<Document<T>, ConfigError> {
    parse(file, files::read_text(file)?)
}

/// Like [`load`], for a file with a secret in it: others must not be able to read it.
///
/// # Errors
/// [`ConfigError`] with the place.
pub fn load_secret<T: DeserializeOwned>(file: &Path) -> Result<Document<T>, ConfigError> {
    let bytes = files::read_secret(file)?;
    parse(file, files::into_text(file, bytes)?)
}

/// Parses `text` as if it had been read from `file`.
///
/// # Errors
/// [`ConfigError::Fault`] with the place.
pub fn parse<T: DeserializeOwned>(file: &Path, text: String) -> Result<Document<T>, ConfigError> {
    match toml::from_str(&text) {
        Ok(content) => Ok(Document { content, file: file.to_owned(), text }),
        Err(error) => Err(explain(file, &text, &error).into()),
    }
}

fn explain(file: &Path, text: &str, error: &toml::de::Error) -> Fault {
    let offset = error.span().map(|span| span.start.min(text.len()));
    let line = offset.map_or(0, |offset| text.as_bytes()[..offset].iter().filter(|&&byte| byte == b'\n').count() + 1);
    let message = error.message().trim();
    if let Some((unknown, valid)) = unknown_key(message) {
        let hint = match nearest(unknown, &valid) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("valid keys: {}", valid.join(", ")),
        };
        return Fault { file: file.to_owned(), line, key: Some(unknown.to_owned()), message: "unknown key".to_owned(), hint: Some(hint) };
    }
    let key = line.checked_sub(1).and_then(|index| text.lines().nth(index)).and_then(key_of).map(str::to_owned);
    Fault { file: file.to_owned(), line, key, message: message.replace('\n', ", "), hint: None }
}

/// Takes serde's message about an unknown field apart: the field, and the valid ones.
fn unknown_key(message: &str) -> Option<(&str, Vec<&str>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (unknown, rest) = rest.split_once('`')?;
    Some((unknown, rest.split('`').skip(1).step_by(2).collect()))
}

fn key_of(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim();
    (!key.is_empty() && !key.starts_with('#')).then_some(key)
}

/// The valid word with the smallest edit distance to `word`, unless all are too different to be meant.
#[must_use]
pub fn nearest<'a>(word: &str, valid: &[&'a str]) -> Option<&'a str> {
    let budget = (word.chars().count() / 3).max(2);
    valid
        .iter()
        .map(|&candidate| (edit_distance(word, candidate), candidate))
        .filter(|&(distance, _)| distance <= budget)
        .min()
        .map(|(_, near)| near)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`, where `-` and `_` count as equal.
fn edit_distance(a: &str, b: &str) -> usize {
    let normal = |text: &str| -> Vec<char> { text.chars().take(64).map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect() };
    let (a, b) = (normal(a), normal(b));
    let mut before: Vec<usize> = Vec::new();
    let mut previous: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut current = vec![i];
        for j in 1..=b.len() {
            let replace = previous[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(previous[j] + 1).min(current[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            current.push(best);
        }
        before = core::mem::replace(&mut previous, current);
    }
    previous[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only the errors matter here")]
    struct Sample {
        listen: Option<String>,
        log_level: Option<String>,
        port: Option<u16>,
    }

    fn fault(text: &str) -> Fault {
        match parse::<Sample>(Path::new("/etc/x.toml"), text.to_owned()) {
            Err(ConfigError::Fault(fault)) => fault,
            other => panic!("expected a fault, got {other:?}"),
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_valid_one() {
        let found = fault("# comment\nlisten = \"x\"\n\nlog-levle = \"info\"\n");
        assert_eq!((found.line, found.key.as_deref()), (4, Some("log-levle")));
        assert_eq!(found.to_string(), "/etc/x.toml:4: log-levle: unknown key; did you mean `log_level`?");
    }

    #[test]
    fn a_key_that_resembles_none_lists_the_valid_ones() {
        let found = fault("colour = 1\n");
        assert_eq!(found.hint.as_deref(), Some("valid keys: listen, log_level, port"));
    }

    #[test]
    fn a_wrong_type_or_range_names_its_line_and_key() {
        let found = fault("listen = \"x\"\nport = 70000\n");
        assert_eq!((found.line, found.key.as_deref()), (2, Some("port")), "{found}");
        let found = fault("listen = 5\n");
        assert_eq!((found.line, found.key.as_deref()), (1, Some("listen")), "{found}");
    }

    #[test]
    fn broken_syntax_names_its_line() {
        assert_eq!(fault("listen = \"x\"\nport = = 3\n").line, 2);
    }

    #[test]
    fn a_later_fault_finds_the_line_of_its_key() {
        let document = parse::<Sample>(Path::new("x.toml"), "listen = \"x\"\n  port = 3\n".to_owned()).unwrap();
        assert!(document.fault("port", "is taken", None).to_string().starts_with("x.toml:2: port: is taken"));
    }

    #[test]
    fn nearest_counts_swapped_letters_once_and_gives_up_on_strangers() {
        assert_eq!(nearest("bootsrtap", &["bootstrap", "name"]), Some("bootstrap"));
        assert_eq!(nearest("zzzzzz", &["bootstrap", "name"]), None);
    }
}
