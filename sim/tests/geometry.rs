//! Whole nodes of every geometry in virtual time: one suite for all. Pure rules and the overlay alone are tested where they live
//! (`overlay/geometry/contract_tests.rs` and `overlay/tests/geometries.rs` of the core), with the same four geometries.
//!
//! Cases that join with reach: relay by a common neighbour, relay by a neighbour that is made common, two nodes behind NATs of every pair of
//! kinds, a relay that fails while packets flow.

use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;
use std::collections::BTreeSet;

use annulus_sim::core::config::GeometryKind;
use annulus_sim::core::dht::key::Key;
use annulus_sim::core::events::{Command, Event};
use annulus_sim::core::id::NodeId;
use annulus_sim::core::overlay::geometry;
use annulus_sim::net::{Latency, Network};
use annulus_sim::scenario::{Group, Scenario, master};
use annulus_sim::world::{HostId, World};

const NODES: u32 = 24;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn quiet() -> Network {
    Network { latency: Latency::Constant { ms: 20 }, ..Network::default() }
}

fn add(world: &mut World, group: &mut Group, id: HostId, kind: GeometryKind, contact: Option<HostId>) {
    let mut config = group.config(contact.map(World::address_of).into_iter().collect());
    config.geometry = kind;
    let start = world.now();
    let host = group.host(id, config, start).expect("a member can be made");
    world.add(host, start);
}

/// Members that each know one other, after they have joined and have addresses.
fn joined(kind: GeometryKind, seed: u64) -> (World, Group) {
    let rng = master(seed);
    let mut world = World::new(quiet(), &rng);
    let mut group = Group::new(&rng).expect("a group can be made");
    for id in 0..NODES {
        add(&mut world, &mut group, id, kind, id.checked_sub(1).map(|before| before / 2));
    }
    world.run(seconds(40));
    world.take_delivered();
    (world, group)
}

fn node(world: &World, id: HostId) -> NodeId {
    world.hosts()[id as usize].node().node_id()
}

fn addresses(world: &World, id: HostId) -> Vec<IpAddr> {
    world.hosts()[id as usize].node().status(world.now()).addresses
}

fn ipv6(world: &World, id: HostId) -> Ipv6Addr {
    let found = addresses(world, id).into_iter().find_map(|address| if let IpAddr::V6(v6) = address { Some(v6) } else { None });
    found.expect("every member has an IPv6 address")
}

fn is_linked(world: &World, a: HostId, b: HostId) -> bool {
    let other = node(world, b);
    world.hosts()[a as usize].node().links(world.now()).any(|link| link.node == other)
}

/// An IPv6 packet with a UDP datagram that carries `number`.
fn packet(from: Ipv6Addr, to: Ipv6Addr, number: u32) -> Vec<u8> {
    let mut out = vec![0x60, 0, 0, 0, 0, 12, 17, 64];
    out.extend_from_slice(&from.octets());
    out.extend_from_slice(&to.octets());
    out.extend_from_slice(&[0x10, 0, 0x20, 0, 0, 12, 0, 0]);
    out.extend_from_slice(&number.to_be_bytes());
    out
}

fn a_group_forms_in_a_lossy_network_and_survives_a_crash(kind: GeometryKind) {
    let text = include_str!("../scenarios/ring-1000.toml");
    let scenario = Scenario { nodes: 80, geometry: kind, ..Scenario::parse(text).expect("a valid scenario") };
    let report = scenario.run(1, &|| 0.0, &mut |_| {}).expect("a group can be made");
    eprintln!("{report:?}");
    assert!(report.ring_correct && report.stalls == 0, "{report:?}");
    assert!((report.reachable - 1.0).abs() < f64::EPSILON, "{report:?}");
}

fn an_address_is_leased_once_and_found_although_replicas_crash(kind: GeometryKind) {
    let (mut world, _) = joined(kind, 21);
    let leases: Vec<IpAddr> = (0..NODES).flat_map(|id| addresses(&world, id)).filter(IpAddr::is_ipv4).collect();
    assert_eq!(leases.len(), NODES as usize, "every member has a lease");
    assert_eq!(leases.iter().collect::<BTreeSet<_>>().len(), NODES as usize, "no two members have the same one");
    let rule = geometry::of(kind);
    for owner in [3, 11] {
        let lease = addresses(&world, owner).into_iter().find(IpAddr::is_ipv4).expect("checked above");
        let point = Key::address(lease).point();
        let living = |world: &World, id: &HostId| world.hosts()[*id as usize].alive && *id != owner;
        let mut nearest: Vec<HostId> = (0..NODES).filter(|id| living(&world, id)).collect();
        nearest.sort_by(|&a, &b| rule.closer(&point, &node(&world, a), &node(&world, b)));
        // The first one is whom a reader asks first.
        world.crash(nearest[0]);
        let (asker, name) = (nearest[nearest.len() - 1], lease.to_string());
        world.take_events();
        let mut found = None;
        for token in 0..20 {
            world.command(asker, Command::Resolve { token, name: name.clone() });
            world.run(seconds(1));
            let events = world.take_events();
            found = events.into_iter().find_map(|(id, event)| match event {
                Event::Resolved { node: Some((node, _)), .. } if id == asker => Some(node),
                _ => None,
            });
            if found.is_some() {
                break;
            }
        }
        assert_eq!(found, Some(node(&world, owner)), "{lease}");
        world.run(seconds(40));
        assert!(addresses(&world, owner).contains(&lease), "the lease stays");
    }
}

fn who_is_no_member_is_not_linked(kind: GeometryKind) {
    let (mut world, _) = joined(kind, 22);
    let mut others = Group::new(&master(23)).expect("a group can be made");
    add(&mut world, &mut others, NODES, kind, Some(5));
    world.take_events();
    world.run(seconds(30));
    let stranger = node(&world, NODES);
    let events = world.take_events();
    assert!(
        events.iter().any(|(id, event)| *id == 5 && matches!(event, Event::Strangers { from, .. } if *from == World::address_of(NODES)))
    );
    assert!(world.hosts()[NODES as usize].node().status(world.now()).peers.is_empty());
    for id in 0..NODES {
        assert!(world.hosts()[id as usize].node().links(world.now()).all(|link| link.node != stranger));
    }
}

fn members_without_a_path_talk_through_others_end_to_end(kind: GeometryKind) {
    let (mut world, _) = joined(kind, 24);
    let pairs = (0..NODES).flat_map(|a| (0..NODES).map(move |b| (a, b)));
    let Some((a, b)) = pairs.into_iter().find(|&(a, b)| a != b && !is_linked(&world, a, b)) else {
        panic!("not everybody is linked with everybody");
    };
    world.break_pair(a, b);
    let (from, to) = (ipv6(&world, a), ipv6(&world, b));
    let count = 60;
    for number in 0..count {
        world.packet(a, &packet(from, to, number));
        world.run(Duration::from_millis(200));
    }
    world.run(seconds(2));
    let delivered = world.take_delivered();
    let late =
        delivered.iter().filter(|(id, bytes)| *id == b && bytes.last_chunk::<4>().is_some_and(|n| u32::from_be_bytes(*n) >= 30)).count();
    assert_eq!(late, 30, "once the session stands, nothing is lost");
    assert!(delivered.iter().all(|(id, _)| *id == b), "who forwards delivers nothing");
    // The packets are sealed for a session between both ends: who forwards has no key of it.
    let other = node(&world, b);
    let status = world.hosts()[a as usize].node().status(world.now());
    let peer = status.peers.iter().find(|peer| peer.node_id == other).expect("a session with the other end");
    let active = peer.paths.iter().find(|path| path.active).expect("an active path");
    assert!(active.kind != "direct" && !is_linked(&world, a, b), "{active:?}");
}

fn members_of_another_geometry_are_noticed_and_both_say_so(kind: GeometryKind) {
    let rng = master(25);
    let mut world = World::new(quiet(), &rng);
    let mut group = Group::new(&rng).expect("a group can be made");
    let other = if kind == GeometryKind::Kademlia { GeometryKind::Symphony } else { GeometryKind::Kademlia };
    for (id, kind, contact) in [(0, kind, None), (1, kind, Some(0)), (2, other, Some(0))] {
        add(&mut world, &mut group, id, kind, contact);
    }
    world.run(seconds(100));
    let events = world.take_events();
    let warnings = |host: HostId| {
        events.iter().filter(|(id, event)| *id == host && matches!(event, Event::Warning(text) if text.contains("routes by"))).count()
    };
    assert!((1..=2).contains(&warnings(0)) && (1..=2).contains(&warnings(2)), "at most one a minute: {} {}", warnings(0), warnings(2));
    let shown = |host: usize| world.hosts()[host].node().status(world.now()).warnings;
    assert!(shown(0).iter().any(|text| text.contains(&format!("routes by {other}, this node by {kind}"))), "{:?}", shown(0));
    assert!(shown(2).iter().any(|text| text.contains("`geometry` must be the same")), "{:?}", shown(2));
    assert!(is_linked(&world, 0, 1) && world.hosts()[2].node().links(world.now()).all(|link| !link.joined));
}

macro_rules! contract {
    ($($kind:ident $module:ident,)*) => {$(
        mod $module {
            use annulus_sim::core::config::GeometryKind::$kind;
            contract!(@ $kind: a_group_forms_in_a_lossy_network_and_survives_a_crash, an_address_is_leased_once_and_found_although_replicas_crash,
                who_is_no_member_is_not_linked, members_without_a_path_talk_through_others_end_to_end,
                members_of_another_geometry_are_noticed_and_both_say_so);
        }
    )*};
    (@ $kind:ident: $($test:ident),*) => {$(
        #[test]
        fn $test() {
            super::$test($kind);
        }
    )*};
}

contract! {
    Symphony symphony,
    Chord chord,
    Pastry pastry,
    Kademlia kademlia,
}
