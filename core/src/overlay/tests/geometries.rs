//! Groups of every geometry: joining, repair, traffic, and members that disagree. One suite for all.

use core::time::Duration;

use super::Net;
use super::ring::route_all_pairs;
use crate::config::GeometryKind;
use crate::overlay::{OverlayAction, Roles};

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn net(kind: GeometryKind, seed: u8) -> Net {
    let mut net = Net::new(seed);
    net.geometry = kind;
    net
}

fn groups_of_all_sizes_form_from_one_contact_each(kind: GeometryKind) {
    for count in [1, 2, 3, 10, 48] {
        let mut net = net(kind, count as u8);
        net.add(&[]);
        for index in 1..count {
            net.add(&[index / 2]);
        }
        let took = net.run_until_right(secs(60));
        net.run(secs(30));
        assert!(net.is_right(), "{}", net.complaints());
        let links: usize = net.nodes.iter().map(|node| node.overlay.links(net.now).count()).sum();
        eprintln!("{kind}, {count} nodes: right after {took:?}, {} links each, {:?}", links / count, net.drops);
        let (sent, arrived) = route_all_pairs(&mut net);
        assert_eq!(sent, arrived, "{count} nodes");
    }
}

fn the_dead_are_replaced_and_newcomers_find_their_place(kind: GeometryKind) {
    let mut net = net(kind, 8);
    net.add_many(100, 3);
    net.run_until_right(secs(120));
    net.run(secs(40));
    for index in (0..100).step_by(10) {
        net.kill(index);
    }
    let repaired = net.run_until_right(secs(60));
    net.add(&[55]);
    let joined = net.run_until_right(secs(30));
    eprintln!("{kind}: 10 of 100 died, right after {repaired:?}; one joined in {joined:?}");
    assert!(repaired < secs(10) && joined < secs(8), "{repaired:?} {joined:?}");
    net.run(secs(40));
    let (sent, arrived) = route_all_pairs(&mut net);
    assert_eq!(sent, arrived);
}

fn traffic_makes_a_link_that_ends_with_it(kind: GeometryKind) {
    let mut net = net(kind, 9);
    net.add_many(64, 3);
    net.run_until_right(secs(60));
    net.run(secs(60));
    let linked = |net: &Net, a: usize, b: usize| net.nodes[a].overlay.link(&net.nodes[b].id, net.now);
    let pair = (0..64).flat_map(|a| (0..64).map(move |b| (a, b))).find(|&(a, b)| a != b && linked(&net, a, b).is_none());
    let (a, b) = pair.expect("not everybody is linked with everybody");
    let node = net.nodes[b].id;
    net.with(a, |overlay, now| overlay.traffic(node, now));
    net.run(secs(3));
    assert!(linked(&net, a, b).is_some_and(|link| link.roles.has(Roles::ON_DEMAND)));
    net.run(secs(400));
    assert!(linked(&net, a, b).is_none_or(|link| !link.roles.has(Roles::ON_DEMAND)));
    assert!(net.is_right(), "{}", net.complaints());
}

fn who_routes_by_another_geometry_is_told_and_not_linked(kind: GeometryKind) {
    let mut net = net(kind, 10);
    net.add_many(8, 2);
    net.run_until_right(secs(60));
    let other = if kind == GeometryKind::Chord { GeometryKind::Pastry } else { GeometryKind::Chord };
    net.geometry = other;
    let stranger = net.add(&[3]);
    net.run(secs(30));
    let says = |net: &mut Net, index: usize, whom: usize, what: GeometryKind| {
        let node = net.nodes[whom].id;
        net.take_actions(index).iter().any(|action| *action == OverlayAction::OtherGeometry { node, theirs: what })
    };
    assert!(says(&mut net, 3, stranger, other), "the member notes who differs");
    assert!(says(&mut net, stranger, 3, kind), "and is noted");
    assert_eq!(net.nodes[stranger].overlay.links(net.now).filter(|link| link.joined).count(), 0);
    let link = net.nodes[3].overlay.link(&net.nodes[stranger].id, net.now);
    assert!(link.as_ref().is_none_or(|link| link.roles.is_none()), "{link:?}");
    net.kill(stranger);
    net.geometry = kind;
    assert!(net.is_right(), "{}", net.complaints());
}

macro_rules! contract {
    ($($kind:ident $module:ident,)*) => {$(
        mod $module {
            use crate::config::GeometryKind::$kind;
            contract!(@ $kind: groups_of_all_sizes_form_from_one_contact_each, the_dead_are_replaced_and_newcomers_find_their_place,
                traffic_makes_a_link_that_ends_with_it, who_routes_by_another_geometry_is_told_and_not_linked);
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
