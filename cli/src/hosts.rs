//! `annulus hosts`: names of members in a marked block of `/etc/hosts`.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use annulus_daemon::control::Request;
use annulus_daemon::exit::{Exit, Failure};
use annulus_daemon::files::{self, FileError};
use annulus_daemon::status::{HostEntry, HostsAnswer};
use clap::Args;

use crate::output::{Output, list, table};
use crate::{Target, control};

#[derive(Args, Debug)]
pub(crate) struct Hosts {
    /// Write the names into the hosts file, in a marked block of their own
    #[arg(long)]
    write: bool,
    /// Take the block out of the hosts file; needs no running daemon
    #[arg(long, conflicts_with = "write")]
    remove: bool,
    /// The hosts file
    #[arg(long, default_value = "/etc/hosts", value_name = "PATH")]
    file: PathBuf,
    #[command(flatten)]
    target: Target,
    /// Only this group
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
}

impl Hosts {
    pub(crate) fn run(&self, output: &Output) -> Result<Exit, Failure> {
        let settings = self.target.settings()?;
        let marks = Marks::new(settings.instance.as_deref());
        if self.remove {
            let changed = rewrite(&self.file, &marks, None).map_err(Failure::failed)?;
            output.json(&serde_json::json!({ "hosts": [], "written": changed.then_some(&self.file) }));
            output.text(if changed { "the block is removed" } else { "there is no block of annulus" });
            return Ok(Exit::Done);
        }
        let mut client = control::connect(&settings)?;
        let answer: HostsAnswer = control::ask(&mut client, &Request::Hosts { group: self.group.clone() })?;
        if self.write {
            rewrite(&self.file, &marks, Some(&lines(&answer.hosts))).map_err(Failure::failed)?;
        }
        output.json(&serde_json::json!({ "hosts": answer.hosts, "written": self.write.then_some(&self.file) }));
        let rows = answer.hosts.iter().map(|host| [host.name.clone(), host.group.clone(), list(&host.addresses)]).collect();
        output.text(table(["NAME", "GROUP", "ADDRESSES"], &[], rows));
        if self.write {
            output.note(format_args!("written to {}", self.file.display()));
        }
        Ok(Exit::Done)
    }
}

/// The lines around what is ours.
#[derive(Debug)]
struct Marks {
    begin: String,
    end: String,
}

impl Marks {
    fn new(instance: Option<&str>) -> Self {
        let name = instance.map(|name| format!(" {name}")).unwrap_or_default();
        Self {
            begin: format!("# BEGIN annulus{name} (written by `annulus hosts --write`: changes in here are lost)"),
            end: format!("# END annulus{name}"),
        }
    }
}

/// One line per address: the name alone and with its group, which stays unique when a host is in several.
fn lines(hosts: &[HostEntry]) -> String {
    let mut text = String::new();
    for host in hosts.iter().filter(|host| is_host_name(&host.name) && is_host_name(&host.group)) {
        for address in &host.addresses {
            text += &format!("{address} {} {}.{}\n", host.name, host.name, host.group);
        }
    }
    text
}

/// Names come from certificates of others; nothing but letters, digits, `-`, `_` and `.` gets into a system file.
fn is_host_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Replaces, adds or (with `None`) removes the block; says whether something changed.
fn rewrite(file: &Path, marks: &Marks, block: Option<&str>) -> Result<bool, FileError> {
    let old = files::read_text(file)?;
    let new = replace(&old, marks, block);
    if new == old {
        return Ok(false);
    }
    // A link is followed, or it would be replaced by a file.
    let real = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let mode = fs::metadata(&real).map_or(0o644, |meta| meta.permissions().mode() & 0o777);
    match files::write_atomic(&real, new.as_bytes(), mode) {
        // In a container the file is a mount of its own and cannot be replaced, only written.
        Err(FileError::Io { source, .. }) if source.kind() == ErrorKind::ResourceBusy => {
            fs::write(&real, new).map_err(|source| FileError::Io { path: real, what: "write it", source })?;
        }
        other => other?,
    }
    Ok(true)
}

fn replace(old: &str, marks: &Marks, block: Option<&str>) -> String {
    let mut kept = String::new();
    let mut inside: Option<String> = None;
    for line in old.split_inclusive('\n') {
        let plain = line.trim_end();
        match &mut inside {
            None if plain == marks.begin => inside = Some(line.to_owned()),
            None => kept.push_str(line),
            Some(_) if plain == marks.end => inside = None,
            Some(held) => held.push_str(line),
        }
    }
    // A block without an end is no block of ours: somebody edited it, and nothing is thrown away.
    kept.push_str(&inside.unwrap_or_default());
    if let Some(block) = block {
        if !kept.is_empty() && !kept.ends_with('\n') {
            kept.push('\n');
        }
        kept += &format!("{}\n{block}{}\n", marks.begin, marks.end);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Vec<HostEntry> {
        vec![HostEntry { group: "lab".into(), name: "b".into(), addresses: vec!["10.200.0.2".parse().unwrap()] }]
    }

    #[test]
    fn the_block_is_added_replaced_and_removed_and_the_rest_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hosts");
        let rest = "127.0.0.1 localhost\n# mine\n::1 localhost";
        fs::write(&file, rest).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let marks = Marks::new(None);
        assert!(rewrite(&file, &marks, Some(&lines(&hosts()))).unwrap());
        let once = fs::read_to_string(&file).unwrap();
        assert!(once.starts_with(rest) && once.contains("\n10.200.0.2 b b.lab\n"), "{once}");
        assert!(!rewrite(&file, &marks, Some(&lines(&hosts()))).unwrap());
        rewrite(&file, &marks, Some("")).unwrap();
        assert!(!fs::read_to_string(&file).unwrap().contains("10.200.0.2"));
        rewrite(&file, &marks, None).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{rest}\n"));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn blocks_of_other_instances_and_unfinished_ones_stay() {
        let other = Marks::new(Some("second"));
        let marks = Marks::new(None);
        let text = replace(&replace("a\n", &other, Some("x\n")), &marks, Some("y\n"));
        let without = replace(&text, &marks, None);
        assert!(without.contains("x\n") && !without.contains("y\n"));
        let unfinished = format!("a\n{}\nprecious\n", marks.begin);
        assert!(replace(&unfinished, &marks, None).contains("precious"));
    }

    #[test]
    fn a_name_that_could_write_lines_of_its_own_is_left_out() {
        let evil = HostEntry { group: "lab".into(), name: "b\n6.6.6.6 bank".into(), addresses: vec!["10.200.0.2".parse().unwrap()] };
        assert_eq!(lines(&[evil]), "");
    }

    #[test]
    fn the_documented_example_is_read() {
        let _: HostsAnswer = serde_json::from_str(include_str!("../../docs/json/hosts.json")).unwrap();
    }
}
