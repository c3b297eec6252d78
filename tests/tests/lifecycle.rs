//! What happens to daemons: restarts, kills, changes of network, clones, refusals.

use std::fs;
use std::io::{Read, Write};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use annulus_core::group::{Profile, Revoked};
use annulus_lab::{Attached, Member, Test, run_tests, wall_clock};
use annulus_tests::cluster::{Cluster, Node, Outside, Runtime, copy_directory, peer};
use annulus_tests::traffic::{connect, ping};
use anyhow::{Context, Result, anyhow, ensure};
use nix::mount::{MsFlags, mount};

const PROGRAM: &str = env!("CARGO_BIN_EXE_annulus-under-test");

const TESTS: &[Test] = &[
    ("a_daemon_of_mio_that_is_restarted_has_its_addresses_again", || restart(Runtime::Mio, false)),
    ("a_daemon_of_tokio_that_is_restarted_has_its_addresses_again", || restart(Runtime::Tokio, false)),
    ("a_daemon_of_mio_that_was_killed_has_its_addresses_again", || restart(Runtime::Mio, true)),
    ("a_daemon_of_tokio_that_was_killed_has_its_addresses_again", || restart(Runtime::Tokio, true)),
    ("what_a_killed_daemon_left_on_the_host_is_undone_at_the_next_start", leftovers),
    ("a_stream_survives_a_new_address_of_its_sender", || roaming(true)),
    ("a_stream_survives_a_new_address_of_its_receiver", || roaming(false)),
    ("two_daemons_with_one_identity_are_noticed", twins),
    ("an_expired_member_is_told_so_and_both_sides_log_it", expired),
    ("a_revoked_member_is_told_so_and_both_sides_log_it", revoked),
    ("a_cloned_state_directory_is_refused_until_it_is_adopted", clone),
    ("a_second_daemon_on_one_state_directory_is_refused", second),
];

fn main() {
    run_tests(TESTS)
}

/// How long something that waits for probes or time limits may take.
const NOTICE: Duration = Duration::from_secs(60);

/// How long twins may go unnoticed: each must lose its sessions to the other a few times.
const TWINS: Duration = Duration::from_secs(150);

fn two(one: Runtime, other: Runtime) -> Result<(Cluster, Node, Node)> {
    let mut cluster = Cluster::new(PROGRAM)?;
    let ann = cluster.node("ann", one)?;
    let bob = cluster.node("bob", other)?;
    Ok((cluster, ann, bob))
}

fn restart(runtime: Runtime, by_force: bool) -> Result<()> {
    let (_cluster, mut ann, mut bob) = two(Runtime::Mio, runtime)?;
    let (a, b) = (ann.connected()?, bob.connected()?);
    ping(&ann.host, b[0], 84)?;
    // A lease is written a little later than it is used.
    sleep(Duration::from_secs(6));
    if by_force {
        bob.kill()?
    } else {
        bob.stop()?
    }
    if !by_force {
        ann.daemon()?.wait_for("alone", Duration::from_secs(5), |status| peer(status, "bob").is_none()).context("bob said good-bye")?;
    }
    bob.start(&[])?;
    ensure!(bob.connected()? == b, "other addresses than before: {b:?}; {}", bob.last_words());
    for address in &b {
        if let Err(error) = ping(&ann.host, *address, 84) {
            return Err(error.context(format!("{:?}\n{:?}\n{}\n{}", ann.status()?, bob.status()?, ann.last_words(), bob.last_words())));
        }
    }
    for address in &a {
        ping(&bob.host, *address, 84)?;
    }
    Ok(())
}

/// Names of the interfaces of a host, loopback excepted, and its addresses.
fn network_of(host: &Attached) -> Result<Vec<String>> {
    let mut all = host.netlink(|netlink| {
        let links = netlink.links()?.into_iter().map(|link| link.name);
        let addresses = netlink.addresses()?.into_iter().map(|address| format!("{address:?}"));
        let routes = netlink.routes()?.into_iter().map(|route| format!("{route:?}"));
        Ok(links.chain(addresses).chain(routes).collect::<Vec<String>>())
    })?;
    // What the kernel itself adds for multicast and link-local addresses comes and goes with the interfaces.
    all.retain(|entry| !entry.contains("fe80") && !entry.contains("ff00"));
    all.sort();
    Ok(all)
}

fn leftovers() -> Result<()> {
    let mut cluster = Cluster::new(PROGRAM)?;
    let mut ann = cluster.prepare("ann", Runtime::Mio, 1500, Outside::Both)?;
    let before = network_of(&ann.host)?;
    ann.start(&[])?;
    ann.connected()?;
    ensure!(network_of(&ann.host)? != before, "a daemon changes its host");
    let journal = ann.home.join("state/host-changes.json");
    ensure!(journal.exists(), "what is changed is written down first");
    ann.kill()?;
    ensure!(journal.exists(), "a killed daemon cannot take it away");
    ann.start(&[])?;
    ann.connected()?;
    ann.stop()?;
    let after = network_of(&ann.host)?;
    ensure!(after == before, "before: {before:#?}\nafter: {after:#?}");
    ensure!(!journal.exists(), "the journal is still there");
    Ok(())
}

fn roaming(sender_moves: bool) -> Result<()> {
    let (mut cluster, mut ann, mut bob) = two(Runtime::Mio, Runtime::Tokio)?;
    let b = bob.connected()?;
    ping(&ann.host, b[0], 84)?;
    let (mut sender, mut receiver) = connect(&ann.host, &bob.host, b[0])?;
    let end = Instant::now() + Duration::from_secs(8);
    let writer = spawn(move || {
        let chunk = vec![7; 16 * 1024];
        while Instant::now() < end {
            sender.write_all(&chunk)?;
            sleep(Duration::from_millis(2));
        }
        Ok::<_, std::io::Error>(())
    });
    let reader = spawn(move || {
        let (mut buf, mut latest, mut total) = (vec![0; 64 * 1024], Instant::now(), 0u64);
        let mut gap = Duration::ZERO;
        loop {
            match receiver.read(&mut buf)? {
                0 => return Ok::<_, std::io::Error>((total, gap)),
                len => {
                    total += len as u64;
                    gap = gap.max(latest.elapsed());
                    latest = Instant::now();
                }
            }
        }
    });
    sleep(Duration::from_secs(2));
    let (mover, other) = if sender_moves { (&mut ann, &mut bob) } else { (&mut bob, &mut ann) };
    cluster.internet.roam(&mut mover.host)?;
    writer
        .join()
        .map_err(|_| anyhow!("the sender panicked"))?
        .with_context(|| format!("the stream broke; {}\n{}", mover.last_words(), other.last_words()))?;
    let (total, gap) = reader.join().map_err(|_| anyhow!("the receiver panicked"))??;
    ensure!(
        total > 0 && gap < Duration::from_secs(6),
        "the stream stood still for {gap:?}; {}\n{}",
        mover.last_words(),
        other.last_words()
    );
    let (name, new) = (mover.name().to_owned(), [mover.host.ipv4().into(), mover.host.ipv6().into()]);
    other.daemon()?.wait_for("on the new path", Duration::from_secs(10), |status| {
        peer(status, &name)
            .is_some_and(|peer| peer.paths.iter().any(|path| path.active && path.remote.is_some_and(|remote| new.contains(&remote.ip()))))
    })?;
    Ok(())
}

fn twins() -> Result<()> {
    let mut cluster = Cluster::new(PROGRAM)?;
    let ann = cluster.node("ann", Runtime::Mio)?;
    let bob = cluster.node("bob", Runtime::Tokio)?;
    // Handshakes in quick succession are one daemon's attempts.
    sleep(Duration::from_secs(7));
    let host = cluster.internet.attach("bob-again", 1500)?;
    let same =
        Member { keys: annulus_core::group::NodeKeys::from_pem(&bob.member.keys.to_pem())?, certificate: bob.member.certificate.clone() };
    let mut again = cluster.prepare_as(host, same, Runtime::Mio, Outside::Both)?;
    again.start(&[])?;
    // The twins need not meet: whoever hears both of them notices.
    let end = Instant::now() + TWINS;
    let noticed = |node: &Node| {
        let words = [["another daemon runs with", "identity"], ["two daemons run with", "identity"]];
        words.iter().any(|words| node.logged(words, Duration::ZERO).is_ok())
    };
    while ![&ann, &bob, &again].into_iter().any(noticed) {
        ensure!(Instant::now() < end, "nobody noticed; {}\n{}\n{}", ann.last_words(), bob.last_words(), again.last_words());
        sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Checks that a member which is refused knows it, that the other side has a line too, and that no packet passes.
fn is_refused(refused: &mut Node, by: &mut Node, word: &str) -> Result<()> {
    by.logged(&["refused a peer", word], NOTICE).with_context(|| refused.last_words())?;
    refused.logged(&["another member refuses us", word], NOTICE).with_context(|| by.last_words())?;
    let status = refused
        .daemon()?
        .wait_for("warned", Duration::from_secs(5), |status| status.groups.iter().any(|group| !group.warnings.is_empty()))?;
    ensure!(peer(&by.status()?, refused.name()).is_none(), "{status:?}");
    Ok(())
}

fn expired() -> Result<()> {
    let mut cluster = Cluster::new(PROGRAM)?;
    let mut ann = cluster.node("ann", Runtime::Mio)?;
    let start = annulus_core::time::UnixTime(wall_clock().0 - 7200);
    let member = cluster.group.enrol_with(&Profile { lifetime: Duration::from_secs(3600), ..Profile::new("user-old", "old", start) })?;
    let host = cluster.internet.attach("old", 1500)?;
    let mut old = cluster.prepare_as(host, member, Runtime::Tokio, Outside::Both)?;
    old.start(&[])?;
    is_refused(&mut old, &mut ann, "expired")
}

fn revoked() -> Result<()> {
    let mut cluster = Cluster::new(PROGRAM)?;
    let mut ann = cluster.prepare("ann", Runtime::Tokio, 1500, Outside::Both)?;
    let mut bob = cluster.prepare("bob", Runtime::Mio, 1500, Outside::Both)?;
    let now = wall_clock();
    let (what, until) = (Revoked::certificate(&bob.member.certificate), bob.member.certificate.not_after());
    let list = cluster.group.authority_mut().revoke(&[(what, until)], now)?.signed().to_vec();
    // Where the daemon keeps the newest list that it knows.
    ann.start(&[])?;
    ann.connected()?;
    ann.stop()?;
    fs::write(ann.home.join("state/groups").join(cluster.group.name()).join("revocations"), list)?;
    ann.start(&[])?;
    ann.connected()?;
    bob.start(&[])?;
    is_refused(&mut bob, &mut ann, "revoked")
}

/// Gives a host an `/etc` of its own with nothing but a machine ID.
fn set_machine_id(host: &Attached, id: &'static str) -> Result<()> {
    host.run(move || {
        mount(Some("tmpfs"), "/etc", Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        fs::write("/etc/machine-id", format!("{id}\n"))
    })??;
    Ok(())
}

fn clone() -> Result<()> {
    let mut cluster = Cluster::new(PROGRAM)?;
    let mut ann = cluster.prepare("ann", Runtime::Mio, 1500, Outside::Both)?;
    set_machine_id(&ann.host, "00112233445566778899aabbccddeeff")?;
    ann.start(&[])?;
    ann.connected()?;
    ann.stop()?;
    let host = cluster.internet.attach("clone", 1500)?;
    set_machine_id(&host, "ffeeddccbbaa99887766554433221100")?;
    let same =
        Member { keys: annulus_core::group::NodeKeys::from_pem(&ann.member.keys.to_pem())?, certificate: ann.member.certificate.clone() };
    let mut clone = cluster.prepare_as(host, same, Runtime::Tokio, Outside::Both)?;
    copy_directory(&ann.home.join("state"), &clone.home.join("state"))?;
    clone.start(&[])?;
    clone.logged(&["was made on another machine", "--adopt-state"], Duration::from_secs(10))?;
    let end = Instant::now() + Duration::from_secs(5);
    let status = loop {
        if let Some(status) = clone.daemon()?.ended()? {
            break status;
        }
        ensure!(Instant::now() < end, "the clone still runs");
        sleep(Duration::from_millis(50));
    };
    ensure!(status.code() == Some(1), "{status}");
    clone.kill()?;
    clone.start(&["--adopt-state"])?;
    // It runs as the node whose state it is, and says that the one that it begins with is not there.
    let id = ann.member.certificate.node_id().to_string();
    clone.daemon()?.wait_for("running with the adopted state", Duration::from_secs(40), |status| {
        status
            .groups
            .iter()
            .any(|group| group.node_id == id && !group.connected && group.warnings.iter().any(|warning| warning.contains("alone")))
    })?;
    Ok(())
}

fn second() -> Result<()> {
    let mut cluster = Cluster::new(PROGRAM)?;
    let mut ann = cluster.node("ann", Runtime::Mio)?;
    let mut command = annulus_lab::command(cluster.program("annulus-tokio"))?;
    command.arg("--config").arg(ann.home.join("annulus.toml")).args(["--listen", "0", "--control-socket"]).arg(ann.home.join("other.sock"));
    let output = ann.host.output(command)?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && text.contains("in use by process"), "{output:?}");
    ann.connected()?;
    Ok(())
}
