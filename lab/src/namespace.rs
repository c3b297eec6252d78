//! Getting the right to make networks: a user namespace where we are not root, and what to say where that is forbidden.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use annulus_tun_bridge::Unavailable;
use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

/// Whether the process is in a user namespace that it made.
static OWN_USERS: AtomicBool = AtomicBool::new(false);

pub(crate) fn has_own_users() -> bool {
    OWN_USERS.load(Ordering::Relaxed)
}

/// Puts the process into network and mount namespaces of its own, and before that into a user namespace where it is root, if it may not do so
/// otherwise. Call it before the first thread exists.
///
/// # Errors
/// [`Unavailable`] where the kernel or its configuration forbids it; another error if threads exist already.
pub fn enter_user_namespace() -> Result<()> {
    let threads = fs::read_dir("/proc/self/task").context("/proc is needed")?.count();
    ensure!(threads == 1, "namespaces must be entered before the first thread exists; there are {threads}");
    let wanted = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    match unshare(wanted) {
        Ok(()) => {}
        Err(Errno::EPERM) => {
            let (user, group) = (geteuid(), getegid());
            unshare(wanted | CloneFlags::CLONE_NEWUSER).map_err(forbidden)?;
            // The kernel wants this before an unprivileged process may map its group.
            fs::write("/proc/self/setgroups", "deny").or_else(ignore_missing)?;
            fs::write("/proc/self/uid_map", format!("0 {user} 1\n")).map_err(|error| restricted(&error))?;
            fs::write("/proc/self/gid_map", format!("0 {group} 1\n")).map_err(|error| restricted(&error))?;
            OWN_USERS.store(true, Ordering::Relaxed);
        }
        Err(error) => return Err(forbidden(error).into()),
    }
    // What is mounted from here on stays in here.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(|error| restricted(&io::Error::from(error)))?;
    Ok(())
}

fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// What a kernel that refuses namespaces should be told.
fn forbidden(error: Errno) -> Unavailable {
    let zero = |path: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == "0");
    if zero("/proc/sys/kernel/unprivileged_userns_clone") {
        return Unavailable {
            what: "user namespaces are switched off (/proc/sys/kernel/unprivileged_userns_clone is 0)".into(),
            remedy: "sysctl -w kernel.unprivileged_userns_clone=1, or run as root".into(),
        };
    }
    if error == Errno::ENOSPC || zero("/proc/sys/user/max_user_namespaces") {
        return Unavailable {
            what: "no user namespaces are left (/proc/sys/user/max_user_namespaces)".into(),
            remedy: "sysctl -w user.max_user_namespaces=10000, or run as root".into(),
        };
    }
    Unavailable {
        what: format!("the kernel refuses user and network namespaces ({error})"),
        remedy: "run as root; in a container allow the unshare call (docker: --security-opt seccomp=unconfined, or --privileged)".into(),
    }
}

/// A user namespace was made but it has no rights: a security module's doing.
fn restricted(error: &io::Error) -> Unavailable {
    Unavailable {
        what: format!("the new user namespace has no rights ({error}), as with /proc/sys/kernel/apparmor_restrict_unprivileged_userns = 1"),
        remedy: "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or run as root".into(),
    }
}

/// Checks, in a child process, that namespaces, routers and TUN devices can be made here.
///
/// # Errors
/// [`Unavailable`] names what is missing and the remedy; another error if [`child_main`](crate::child_main) was not called.
pub fn probe() -> Result<()> {
    let output = crate::child::hidden("probe")?.output().context("cannot start a child process")?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = text.lines();
    let (Some(what), Some(remedy)) = (lines.next(), lines.next()) else {
        anyhow::bail!("the probe ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    };
    Err(Unavailable { what: what.into(), remedy: remedy.into() }.into())
}

/// The probe itself. The device is tried both before and after entering: who owns it looks different from inside.
pub(crate) fn probe_here() -> Result<(), Unavailable> {
    annulus_tun_bridge::probe_device()?;
    enter_user_namespace().map_err(|error| match error.downcast::<Unavailable>() {
        Ok(missing) => missing,
        Err(error) => Unavailable { what: format!("namespaces cannot be entered: {error:#}"), remedy: "run as root".into() },
    })?;
    let config = annulus_tun_bridge::TunConfig { name: "probe%d".into(), ..annulus_tun_bridge::TunConfig::default() };
    annulus_tun_bridge::open(&config).map_err(|error| match error {
        annulus_tun_bridge::OpenError::Unavailable(missing) => missing,
        other => Unavailable { what: other.to_string(), remedy: "allow TUN devices in user namespaces, or run as root".into() },
    })?;
    crate::internet::forward_packets().map_err(|error| Unavailable {
        what: format!("a router cannot be made ({error:#})"),
        remedy: "mount /proc so that /proc/sys/net can be written, or run as root outside the container".into(),
    })
}
