use super::*;
use annulus_daemon::group_file::load_all;
use annulus_daemon::identity;
use annulus_daemon::settings::{Flags, Settings};
use clap::Parser;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    verb: Ca,
}

/// Runs `annulus ca LINE` in a directory of its own.
fn run(dir: &Path, line: &str) -> Result<Exit, Failure> {
    let place = format!("--ca-dir={}", dir.join("ca").display());
    let mut words: Vec<String> =
        std::iter::once("ca").chain(line.split_whitespace()).map(|word| word.replace('@', &format!("{}/", dir.display()))).collect();
    words.push(place);
    let parsed = Line::try_parse_from(words).map_err(Failure::usage)?;
    parsed.verb.run(&Output::new(true))
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_is_issued_is_ready_to_run() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), "init lab --bootstrap seed.example.org:7171").unwrap();
    run(dir.path(), "issue a --user ada --out @a --bootstrap 192.0.2.1:7171 --role relay --role member --listen 7171").unwrap();
    let out = dir.path().join("a");
    let settings = Settings::new(&Flags { config: Some(out.join("annulus.toml")), ..Flags::default() }).unwrap();
    assert_eq!(settings.listen.port(), 7171);
    let groups = load_all(&settings.groups_dir).unwrap();
    assert_eq!((groups.len(), groups[0].bootstrap.len()), (1, 2));
    let member = identity::load(&groups[0]).unwrap();
    let certificate = member.identity.certificate();
    assert_eq!((certificate.node_name(), certificate.user()), ("a", "ada"));
    assert!(certificate.roles().names().eq(["member", "relay"]));
    assert!(groups[0].ipv4_network.unwrap().to_string().starts_with("10."));
    assert_eq!(groups[0].ipv6_network.len, 64);
    for secret in ["a/groups.d/lab.toml", "a/groups.d/lab/node.key", "ca/ca.key", "ca/group.toml"] {
        assert_eq!(mode(&dir.path().join(secret)), 0o600, "{secret}");
    }
}

#[test]
fn the_geometry_of_a_group_comes_from_its_founding_and_goes_to_every_node() {
    for (words, kind) in
        [("", GeometryKind::Symphony), ("--geometry chord", GeometryKind::Chord), ("--geometry kademlia", GeometryKind::Kademlia)]
    {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), &format!("init lab {words}")).unwrap();
        run(dir.path(), "issue a --user ada --out @a").unwrap();
        assert_eq!(load_all(&dir.path().join("a/groups.d")).unwrap()[0].geometry, kind);
    }
    let dir = tempfile::tempdir().unwrap();
    let unknown = run(dir.path(), "init lab --geometry torus").unwrap_err();
    assert!(unknown.message.contains("`torus` is no geometry; valid: symphony, chord, pastry, kademlia"), "{unknown}");
    run(dir.path(), "init lab").unwrap();
    let file = dir.path().join("ca/group.toml");
    let text = std::fs::read_to_string(&file).unwrap().replace("symphony", "torus");
    std::fs::write(&file, text).unwrap();
    let unknown = run(dir.path(), "issue a --user ada --out @a").unwrap_err();
    assert!(unknown.exit == Exit::WrongUse && unknown.message.contains("geometry: `torus` is no geometry"), "{unknown}");
}

#[test]
fn a_name_is_given_once_and_a_renewal_keeps_key_and_node_id() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), "init lab --ipv4 none").unwrap();
    run(dir.path(), "issue a --user ada --out @a").unwrap();
    let taken = run(dir.path(), "issue a --user eve --out @other").unwrap_err();
    assert!(taken.exit == Exit::WrongUse && taken.message.contains("taken by a node of ada"), "{taken}");
    let id = || identity::load(&load_all(&dir.path().join("a/groups.d")).unwrap()[0]).unwrap().identity.node_id();
    let before = id();
    run(dir.path(), "issue a --user ada --out @a --days 60").unwrap();
    assert_eq!(id(), before);
    let keep = Keep::open(&dir.path().join("ca")).unwrap();
    assert_eq!(keep.issued().unwrap().len(), 2);
}

#[test]
fn a_revoked_node_is_listed_and_its_name_is_free_again() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), "init lab").unwrap();
    run(dir.path(), "issue a --user ada --out @a").unwrap();
    let old = identity::load(&load_all(&dir.path().join("a/groups.d")).unwrap()[0]).unwrap();
    assert!(run(dir.path(), "revoke nobody").unwrap_err().message.contains("no certificate of a node `nobody`"));
    run(dir.path(), "revoke a --out @list").unwrap();
    assert!(run(dir.path(), "revoke a").is_err());
    let mut trust = old.trust.clone();
    assert!(trust.update_revocations(&std::fs::read(dir.path().join("list")).unwrap(), clock::wall()).unwrap());
    assert!(trust.check(old.identity.certificate(), clock::wall()).is_err());
    run(dir.path(), "issue a --user ada --out @again").unwrap();
    let new = load_all(&dir.path().join("again/groups.d")).unwrap();
    let new = identity::load(&new[0]).unwrap();
    assert!(trust.check(new.identity.certificate(), clock::wall()).is_ok());
    // The new node starts with the list in force.
    assert!(dir.path().join("again/groups.d/lab/revocations").exists());
}

#[test]
fn fixed_addresses_belong_to_one_node() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), "init lab --ipv4 10.200.0.0/16 --ipv6 fd00:1:2:3::/64").unwrap();
    run(dir.path(), "issue a --user ada --out @a --address 10.200.0.1").unwrap();
    assert!(run(dir.path(), "issue b --user bob --out @b --address 10.200.0.1").unwrap_err().message.contains("belongs to a"));
    assert!(run(dir.path(), "issue b --user bob --out @b --address 10.200.255.255").unwrap_err().message.contains("broadcast"));
    assert!(run(dir.path(), "issue b --user bob --out @b --address 10.200.0.300").is_err());
    run(dir.path(), "issue b --user bob --out @b --address 10.200.0.2").unwrap();
}

#[test]
fn a_ca_is_not_overwritten_and_its_absence_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    assert!(run(dir.path(), "issue a --user ada").unwrap_err().message.contains("annulus ca init NAME"));
    run(dir.path(), "init lab").unwrap();
    assert!(run(dir.path(), "init lab").unwrap_err().message.contains("holds a CA already"));
    assert!(run(dir.path(), "show").is_ok());
    for wrong in [
        "init a/b",
        "issue Big --user ada --out @x",
        "issue a --user ada --role king",
        "issue a --user ada --bootstrap nowhere",
        "issue a --user ada --days 0",
    ] {
        assert_eq!(run(dir.path(), wrong).unwrap_err().exit, Exit::WrongUse, "{wrong}");
    }
    assert!(!dir.path().join("x").exists());
}
