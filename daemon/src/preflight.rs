//! What must be there before a daemon can start, each with what to do when it is not.

use crate::exit::{Exit, Failure};
use crate::group_file::{self, GroupFile};
use crate::identity;
use crate::settings::Settings;

/// Number of CAP_NET_ADMIN among the capabilities (linux/capability.h).
const CAP_NET_ADMIN: u32 = 12;

/// Loads groups and keys and looks whether TUN devices can be made, without changing anything.
///
/// # Errors
/// [`Exit::WrongUse`] for files, [`Exit::NotPossible`] for what this machine lacks.
pub fn check(settings: &Settings) -> Result<(), Failure> {
    let groups = groups(settings)?;
    for group in &groups {
        identity::load(group).map_err(Failure::usage)?;
    }
    devices(&groups)
}

/// The host's groups; none is wrong use, with what to do.
///
/// # Errors
/// [`Exit::WrongUse`].
pub fn groups(settings: &Settings) -> Result<Vec<GroupFile>, Failure> {
    let groups = group_file::load_all(&settings.groups_dir).map_err(Failure::usage)?;
    if groups.is_empty() { Err(Failure::usage(no_group(settings))) } else { Ok(groups) }
}

/// What to do on a host without a group.
#[must_use]
pub fn no_group(settings: &Settings) -> String {
    let dir = settings.groups_dir.display();
    format!(
        "no group yet: there is no file in {dir}. To found one: `annulus ca init NAME`. To join one, have its keeper run `annulus ca issue NODE --user USER --out DIR` \
         and copy what is in DIR to {}",
        settings.config.parent().unwrap_or(&settings.groups_dir).display()
    )
}

/// Looks whether the TUN devices of these groups can be made.
///
/// # Errors
/// [`Exit::NotPossible`], naming the file or capability.
pub fn devices(groups: &[GroupFile]) -> Result<(), Failure> {
    if groups.iter().all(|group| group.has_addresses == Some(false)) {
        return Ok(());
    }
    annulus_tun_bridge::probe_device().map_err(|error| Failure::new(Exit::NotPossible, error))?;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if has_capability(&status, CAP_NET_ADMIN) == Some(false) {
        let program = std::env::current_exe().map_or_else(|_| "PROGRAM".to_owned(), |path| path.display().to_string());
        let message = format!(
            "this process lacks the capability CAP_NET_ADMIN, without which no TUN device can be made; run it as root, or once: setcap cap_net_admin+ep {program}"
        );
        return Err(Failure::new(Exit::NotPossible, message));
    }
    Ok(())
}

/// Whether the effective set in the text of `/proc/PID/status` has this capability; `None` when the text does not say.
fn has_capability(status: &str, number: u32) -> Option<bool> {
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(set.trim(), 16).ok().map(|set| set >> number & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Flags;

    #[test]
    fn the_effective_set_decides() {
        assert_eq!(has_capability("CapInh:\t0\nCapEff:\t0000000000001000\n", CAP_NET_ADMIN), Some(true));
        assert_eq!(has_capability("CapEff:\t0000000000000fff\n", CAP_NET_ADMIN), Some(false));
        assert_eq!(has_capability("", CAP_NET_ADMIN), None);
    }

    #[test]
    fn a_host_without_a_group_is_told_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("annulus.toml");
        std::fs::write(&config, "").unwrap();
        let settings = Settings::new(&Flags { config: Some(config), ..Flags::default() }).unwrap();
        let failure = check(&settings).unwrap_err();
        assert_eq!(failure.exit, Exit::WrongUse);
        assert!(failure.message.contains("annulus ca init") && failure.message.contains("annulus ca issue"), "{failure}");
    }
}
