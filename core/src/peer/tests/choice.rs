//! Choice among proven paths, and what `status` says of it.

use super::*;

const SEC: fn(u64) -> Duration = Duration::from_secs;

/// A world in which A uses wire 1 and knows wire 2 as well.
fn two(first: Wire, second: Wire) -> World {
    let mut world = World::linked(1, &[first, second]);
    let peer = world.peer(A).unwrap();
    world.nodes[A].add_path(peer, second.ends[A], second.kind, world.now);
    world.drain();
    world
}

#[test]
fn a_clearly_faster_direct_path_is_taken_and_an_equal_one_is_not() {
    let mut world = two(Wire::new(1, PathKind::Direct, 60), Wire::new(2, PathKind::Direct, 20));
    world.run(SEC(300));
    assert_eq!((world.active(A), world.active(B)), (path(2), path(2)));
    assert_eq!(world.moves(A).last().unwrap().2, "lower round-trip time");
    let mut world = two(Wire::new(1, PathKind::Direct, 21), Wire::new(2, PathKind::Direct, 20));
    world.run(SEC(600));
    assert_eq!((world.active(A), world.moves(A).len()), (path(1), 1));
}

#[test]
fn of_equally_fast_paths_the_one_on_ipv6_is_taken_for_good() {
    let mut world = two(Wire::new(1, PathKind::Direct, 20), Wire { ipv6: true, ..Wire::new(2, PathKind::Direct, 20) });
    world.run(SEC(3600));
    assert_eq!((world.active(A), world.active(B)), (path(2), path(2)));
    assert_eq!(world.moves(A).len(), 2, "it does not move back and forth");
    let mut world = two(Wire::new(1, PathKind::Direct, 20), Wire { ipv6: true, ..Wire::new(2, PathKind::Direct, 40) });
    world.run(SEC(600));
    assert_eq!(world.active(A), path(1), "only on ties");
}

#[test]
fn a_fast_relay_does_not_beat_a_slow_direct_path() {
    let mut world = two(Wire::new(1, PathKind::Direct, 200), Wire::new(2, PathKind::Relay, 10));
    world.run(SEC(600));
    assert_eq!((world.active(A), world.moves(A).len()), (path(1), 1));
}

#[test]
fn status_tells_paths_with_figures_and_reasons() {
    let mut world = two(Wire::new(1, PathKind::Direct, 20), Wire::new(2, PathKind::Relay, 50));
    world.traffic(1, true);
    world.run(SEC(120));
    let view = world.view(A);
    assert_eq!((view.node, view.session, view.sessions, view.in_doubt), (HIGH, SessionId(1), 1, false));
    assert!(view.rx_bytes > 1000 && view.tx_bytes >= 1000);
    let [first, second] = &view.paths[..] else { panic!("{view:?}") };
    assert_eq!((first.kind, first.active, first.reason, first.loss_permille), (PathKind::Direct, true, "first session", 0));
    assert_eq!((second.kind, second.active, second.reason), (PathKind::Relay, false, "spare"));
    assert_eq!((first.rtt, second.rtt), (Some(ms(40)), Some(ms(100))));
    assert_eq!(world.nodes[A].rtt(view.peer), Some(ms(40)));
    assert_eq!(world.nodes[A].iter(world.now).map(|view| view.node).collect::<Vec<_>>(), [HIGH]);
}

#[test]
fn ranks_are_in_order() {
    assert!(PathKind::Direct.rank() < PathKind::Relay.rank() && PathKind::Relay.rank() < PathKind::Routed.rank());
}
