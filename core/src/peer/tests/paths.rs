//! Challenges, roaming, fail-over, address reports.

use super::*;

const SEC: fn(u64) -> Duration = Duration::from_secs;

fn direct() -> Wire {
    Wire::new(1, PathKind::Direct, 20)
}

#[test]
fn a_copied_packet_from_another_address_moves_nothing_even_when_repeated() {
    let mut world = World::linked(1, &[direct()]);
    world.run(SEC(60));
    let moves = world.moves(A).len();
    world.sent.clear();
    // Somebody takes B's packets off the wire and brings them to A first, from 200 addresses in turn; B hears nothing of the challenges.
    for round in 0..3000u32 {
        world.nodes[A].received(SessionId(1), path(500 + round % 200), PathKind::Direct, true, 100, world.now);
        world.nodes[A].moved(SessionId(1), path(500 + round % 200), PathKind::Direct, world.now);
        world.drain();
        world.run(ms(20));
        assert!(world.view(A).paths.len() <= 1 + moving::MAX_UNSOLICITED, "candidates are bounded");
    }
    assert_eq!(world.moves(A).len(), moves);
    assert_eq!(world.active(A), path(1));
    assert_eq!(world.deaths(), 0);
    let challenges = world.sent_kind(A, PING).iter().filter(|(_, by)| *by != path(1)).count();
    assert!(challenges > 0 && challenges <= 16 + 4 * 61, "{challenges} challenges in a minute");
    world.run(SEC(60));
    assert_eq!(world.view(A).paths.len(), 1, "what did not answer is forgotten");
    let pinned = world.log.iter().filter(|(_, who, action)| *who == A && matches!(action, PeerAction::Keep(_))).count();
    let released = world.log.iter().filter(|(_, who, action)| *who == A && matches!(action, PeerAction::Release(_))).count();
    assert_eq!(pinned, released + 1);
}

#[test]
fn one_copied_packet_repeated_from_one_address_moves_nothing() {
    let mut world = World::linked(1, &[direct()]);
    world.run(SEC(60));
    for repeat in 0..1000 {
        world.nodes[A].received(SessionId(1), path(77), PathKind::Direct, repeat == 0, 100, world.now);
        world.run(ms(10));
    }
    assert_eq!(world.moves(A).len(), 1);
}

#[test]
fn an_answer_that_comes_back_by_another_path_proves_nothing() {
    let mut world = World::linked(1, &[direct()]);
    world.run(SEC(60));
    world.sent.clear();
    world.nodes[A].received(SessionId(1), path(77), PathKind::Direct, true, 100, world.now);
    world.drain();
    let (_, _, by, ping) = world.sent.iter().find(|(_, _, by, _)| *by == path(77)).expect("challenged").clone();
    assert_eq!((by, ping[0]), (path(77), PING));
    // The copier brings the challenge to B with a forged source; B answers A directly.
    let pong = LinkMessage::Pong { token: u64::from_be_bytes(ping[1..9].try_into().unwrap()) }.to_payload();
    world.wires[0].loss = [1000, 1000];
    world.nodes[A].handle_link(SessionId(1), path(1), PathKind::Direct, None, &pong, world.now).unwrap();
    world.run(SEC(1));
    assert_eq!(world.active(A), path(1));
    assert!(!world.view(A).paths.iter().any(|state| state.path == path(77) && state.proven));
}

#[test]
fn a_wrong_token_proves_nothing_and_tokens_are_fresh() {
    let mut world = World::linked(1, &[direct()]);
    world.run(SEC(60));
    world.nodes[A].received(SessionId(1), path(77), PathKind::Direct, true, 100, world.now);
    for token in 0..1000 {
        let pong = LinkMessage::Pong { token }.to_payload();
        world.nodes[A].handle_link(SessionId(1), path(77), PathKind::Direct, None, &pong, world.now).unwrap();
    }
    world.run(SEC(30));
    assert_eq!(world.active(A), path(1));
    let tokens: Vec<&[u8]> = world.sent.iter().filter(|(.., payload)| payload[0] == PING).map(|(.., payload)| &payload[1..9]).collect();
    let distinct: std::collections::BTreeSet<&[u8]> = tokens.iter().copied().collect();
    assert_eq!(tokens.len(), distinct.len());
}

#[test]
fn a_rebound_nat_is_followed_in_about_one_round_trip_without_losing_the_session() {
    for seed in 0..20 {
        let mut world = World::linked(seed, &[direct()]);
        world.run(SEC(60));
        // A's NAT gives it a new address: B's packets to the old one go nowhere.
        world.wires[0].ends[B] = path(42);
        let at = world.now;
        world.nodes[A].sent(SessionId(1), path(1), 100, at);
        world.transmit(A, 1, path(1), LinkMessage::KeepAlive.to_payload());
        world.run(SEC(2));
        let (moved, to, reason) = world.moves(B)[1];
        assert_eq!((to, reason), (path(42), "the peer moved"));
        // 20 ms until B hears of it, 40 ms for the challenge, a little for the old path to be late.
        assert!(moved.saturating_since(at) <= ms(80), "{:?}", moved.saturating_since(at));
        assert_eq!(world.deaths(), 0);
        assert_eq!((world.in_use(A), world.in_use(B)), (Some(1), Some(1)));
        world.run(SEC(600));
        assert_eq!(world.deaths(), 0);
        assert_eq!(world.view(B).paths.len(), 1, "the dead mapping is forgotten");
    }
}

#[test]
fn roaming_works_at_thirty_percent_loss() {
    for seed in 0..20 {
        let mut world = World::linked(seed, &[Wire { loss: [300, 300], ..direct() }]);
        world.run(SEC(60));
        for address in 10..15 {
            world.wires[0].ends[B] = path(address);
            // Half of the challenges stay unanswered, and a candidate gets five in 9 s: 16 are all lost once in 50,000 times.
            for _ in 0..300 {
                world.traffic(1, false);
                world.transmit(A, 1, path(1), LinkMessage::KeepAlive.to_payload());
                world.run(ms(100));
            }
            assert_eq!(world.active(B), path(address));
        }
        assert_eq!(world.deaths(), 0);
    }
}

#[test]
fn data_that_comes_by_another_way_does_not_pass_for_life_of_the_active_path() {
    let mut world = World::linked(1, &[direct()]);
    world.run(SEC(60));
    world.wires[0].ends[B] = path(42);
    let at = world.now;
    // Only shards see packets: each 100 ms they tell of the move and of the traffic.
    for _ in 0..10 {
        world.nodes[B].moved(World::id(B, 1), path(42), PathKind::Direct, world.now);
        world.nodes[B].activity(World::id(B, 1), 10_000, 10_000, world.now);
        world.drain();
        world.run(ms(100));
    }
    let (moved, to, _) = world.moves(B)[1];
    assert_eq!(to, path(42));
    assert!(moved.saturating_since(at) <= ms(120));
}

#[test]
fn a_live_path_is_not_left_for_an_equal_one_on_which_the_peer_also_speaks() {
    let mut world = World::linked(1, &[direct(), Wire::new(2, PathKind::Direct, 20)]);
    world.run(SEC(60));
    for _ in 0..100 {
        world.transmit(A, 1, path(2), LinkMessage::KeepAlive.to_payload());
        world.run(ms(170));
    }
    assert_eq!(world.active(B), path(1));
    assert_eq!(world.moves(B).len(), 1);
    assert_eq!(world.view(B).paths.len(), 2, "but it is kept as a spare");
}

#[test]
fn when_the_direct_path_dies_the_relay_takes_over_and_gives_it_back() {
    for seed in 0..10 {
        let mut world = World::linked(seed, &[direct(), Wire::new(2, PathKind::Relay, 40)]);
        let peers = [world.peer(A).unwrap(), world.peer(B).unwrap()];
        world.nodes[A].add_path(peers[A], path(2), PathKind::Relay, world.now);
        world.drain();
        for _ in 0..600 {
            world.traffic(1, true);
            world.run(ms(100));
        }
        assert_eq!((world.active(A), world.active(B)), (path(1), path(1)), "direct beats relay");
        world.wires[0].loss = [1000, 1000];
        let broke = world.now;
        for _ in 0..100 {
            world.traffic(1, false);
            world.run(ms(100));
        }
        assert_eq!((world.active(A), world.active(B)), (path(2), path(2)));
        let took = world.moves(A)[1].0.saturating_since(broke);
        assert!(took <= ms(2500), "{took:?}");
        world.wires[0].loss = [0, 0];
        world.run(SEC(30));
        assert_eq!((world.active(A), world.active(B)), (path(1), path(1)), "and direct again once it answers");
        assert_eq!(world.deaths(), 0);
    }
}

#[test]
fn a_path_that_is_deaf_in_one_direction_is_left() {
    let mut world = World::linked(1, &[direct(), Wire::new(2, PathKind::Relay, 40)]);
    let peer = world.peer(A).unwrap();
    world.nodes[A].add_path(peer, path(2), PathKind::Relay, world.now);
    world.run(SEC(60));
    // What A sends on the direct path is lost; what B sends arrives.
    world.wires[0].loss = [1000, 0];
    for _ in 0..150 {
        world.transmit(B, 1, path(1), LinkMessage::KeepAlive.to_payload());
        world.traffic(1, false);
        world.run(ms(100));
    }
    assert_eq!(world.active(A), path(2));
    assert_eq!(world.deaths(), 0);
}

#[test]
fn a_named_path_is_challenged_and_used_if_it_answers_and_is_better() {
    let mut world = World::linked(1, &[Wire::new(1, PathKind::Routed, 100), Wire::new(2, PathKind::Relay, 60), direct_as(3)]);
    let peer = world.peer(A).unwrap();
    let at = world.now;
    for (index, kind) in [(2, PathKind::Relay), (3, PathKind::Direct), (4, PathKind::Direct)] {
        world.nodes[A].add_path(peer, path(index), kind, world.now);
    }
    world.run(SEC(1));
    assert_eq!(world.active(A), path(3));
    assert!(world.moves(A).last().unwrap().0.saturating_since(at) <= ms(50), "{:?} {at}", world.moves(A));
    world.run(SEC(30));
    let view = world.view(A);
    assert!(!view.paths.iter().any(|state| state.path == path(4)), "nobody answered there");
    assert_eq!(view.paths.iter().filter(|state| state.proven).count(), 3);
    assert_eq!(world.active(B), path(3), "the other end learns it from the challenge");
}

fn direct_as(index: u32) -> Wire {
    Wire::new(index, PathKind::Direct, 20)
}

#[test]
fn a_punch_that_opens_late_is_found() {
    let mut world = World::linked(1, &[Wire::new(1, PathKind::Relay, 40), Wire { loss: [1000, 1000], ..direct_as(2) }]);
    let peer = world.peer(A).unwrap();
    world.nodes[A].add_path(peer, path(2), PathKind::Direct, world.now);
    world.run(SEC(4));
    world.wires[1].loss = [0, 0];
    world.run(SEC(2));
    assert_eq!(world.active(A), path(2));
}

#[test]
fn at_most_sixteen_paths_are_remembered_and_proven_ones_stay() {
    let mut world = World::linked(1, &[direct(), direct_as(2)]);
    let peer = world.peer(A).unwrap();
    world.nodes[A].add_path(peer, path(2), PathKind::Direct, world.now);
    world.run(SEC(1));
    for index in 100..200 {
        world.nodes[A].add_path(peer, path(index), PathKind::Direct, world.now);
        world.run(ms(10));
    }
    let view = world.view(A);
    assert!(view.paths.len() <= moving::MAX_PATHS);
    assert!(view.paths.iter().filter(|state| state.proven).count() == 2);
}

#[test]
fn each_end_learns_how_the_other_sees_it_and_again_when_it_changed() {
    let mut world = World::linked(1, &[direct()]);
    world.run(SEC(5));
    let seen = |world: &World, end: usize| -> Vec<SocketAddr> {
        let actions = world.log.iter().filter(|(_, who, _)| *who == end);
        actions.filter_map(|(_, _, action)| if let PeerAction::Observed { address, .. } = action { Some(*address) } else { None }).collect()
    };
    let first: SocketAddr = "192.0.2.1:7".parse().unwrap();
    assert!(seen(&world, A).contains(&first) && seen(&world, B).contains(&first));
    world.run(SEC(600));
    assert!(world.sent_kind(B, REPORT).len() <= 2, "not over and over");
    world.wires[0].ends[B] = path(42);
    world.run(SEC(60));
    assert_eq!(seen(&world, A).last(), Some(&"192.0.2.42:7".parse().unwrap()));
}

#[test]
fn relayed_and_routed_paths_are_not_reported() {
    for kind in [PathKind::Relay, PathKind::Routed] {
        let mut world = World::linked(1, &[Wire::new(1, kind, 20)]);
        world.run(SEC(600));
        assert!(world.sent_kind(A, REPORT).is_empty());
    }
}

#[test]
fn what_is_malformed_or_of_no_session_changes_nothing() {
    let mut world = World::linked(1, &[direct()]);
    world.run(SEC(60));
    let (before, now) = (world.view(A), world.now);
    assert_eq!(world.nodes[A].handle_link(SessionId(1), path(9), PathKind::Direct, None, &[PING, 1], now), Err(WireError::Truncated));
    assert_eq!(world.nodes[A].handle_link(SessionId(1), path(9), PathKind::Direct, None, &[], now), Err(WireError::Truncated));
    world.nodes[A].received(SessionId(55), path(9), PathKind::Direct, true, 10, now);
    world.nodes[A].handle_link(SessionId(55), path(9), PathKind::Direct, None, &[CLOSE, 1, 0], now).unwrap();
    world.nodes[A].activity(SessionId(55), 1, 1, now);
    world.nodes[A].session_ended(SessionId(55), now);
    assert_eq!(world.view(A), before);
    assert_eq!(world.nodes[A].poll_action(), None);
}
