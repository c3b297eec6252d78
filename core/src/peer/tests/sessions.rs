//! Several sessions, good-byes, numbers.

use super::*;
use crate::time::UnixTime;
use crate::wire::link::NoticeReason;

const SEC: fn(u64) -> Duration = Duration::from_secs;

fn direct() -> Wire {
    Wire::new(1, PathKind::Direct, 20)
}

fn closed(world: &World, end: usize) -> Vec<u32> {
    let closed = world.log.iter().filter(|(_, who, _)| *who == end);
    closed.filter_map(|(_, _, action)| if let PeerAction::CloseSession(session) = action { Some(session.0 % 1000) } else { None }).collect()
}

#[test]
fn of_sessions_opened_at_the_same_time_both_ends_use_the_same_and_close_the_other() {
    for a_first in [true, false] {
        let mut world = World::new(1, &[direct()]);
        // Session 1 is begun by A (the lower ID), session 2 by B; the two ends see them finish in different orders.
        world.session_up_at(A, if a_first { 1 } else { 2 }, if a_first { A } else { B }, None, 0);
        world.session_up_at(B, if a_first { 2 } else { 1 }, if a_first { B } else { A }, None, 0);
        world.run(ms(20));
        world.session_up_at(A, if a_first { 2 } else { 1 }, if a_first { B } else { A }, None, 0);
        world.session_up_at(B, if a_first { 1 } else { 2 }, if a_first { A } else { B }, None, 0);
        // Whoever began the one to be used waits until the other end was heard on it: one round trip.
        world.run(ms(50));
        assert_eq!((world.in_use(A), world.in_use(B)), (Some(1), Some(1)));
        world.run(SEC(29));
        assert!(closed(&world, A).is_empty() && closed(&world, B).is_empty(), "the other one still opens packets");
        world.run(SEC(40));
        assert_eq!((closed(&world, A), closed(&world, B)), (vec![2], vec![2]));
        world.run(SEC(600));
        assert_eq!((world.in_use(A), world.in_use(B), world.deaths()), (Some(1), Some(1), 0));
        assert_eq!(world.nodes[A].len(), 1);
    }
}

#[test]
fn a_resumed_session_replaces_its_ancestor_whoever_began_it() {
    for initiator in [A, B] {
        let mut world = World::linked(1, &[direct()]);
        world.run(SEC(5));
        world.session_up(2, initiator, Some(1), 0);
        assert_eq!((world.in_use(A), world.in_use(B)), (Some(2), Some(2)));
        world.run(SEC(100));
        assert_eq!((closed(&world, A), closed(&world, B)), (vec![1], vec![1]));
        assert_eq!(world.deaths(), 0);
    }
}

#[test]
fn rekeys_for_a_day_leave_one_session() {
    let mut world = World::linked(1, &[direct()]);
    world.keep_sent = false;
    for session in 2..720 {
        world.run(SEC(120));
        world.session_up(session, session as usize % 2, Some(session - 1), 0);
    }
    world.run(SEC(100));
    assert_eq!((world.view(A).sessions, world.view(B).sessions, world.deaths()), (1, 1, 0));
    assert_eq!(world.nodes[A].by_session.len(), 1);
    assert!(world.nodes[A].timers.len() < 80);
}

#[test]
fn a_peer_that_was_killed_and_came_back_is_reached_on_its_new_session() {
    let mut world = World::linked(1, &[direct()]);
    world.run(SEC(60));
    world.nodes[B] = Peers::new(Rng::new([7; 32]), HIGH, TUNNEL_MTU);
    world.run(SEC(1));
    world.session_up(2, B, None, 0);
    assert_eq!(world.in_use(A), Some(2));
    world.run(SEC(120));
    assert_eq!(closed(&world, A), [1]);
    assert_eq!(world.deaths(), 0);
}

#[test]
fn a_session_that_the_other_end_has_lost_is_left_for_the_one_that_answers() {
    // B is killed and comes back within the time in which two sessions count as crossing: by the rule A would stay on its own, dead one.
    let mut world = World::linked(1, &[direct()]);
    world.run(SEC(4));
    world.nodes[B] = Peers::new(Rng::new([7; 32]), HIGH, TUNNEL_MTU);
    world.session_up(2, B, None, 0);
    assert_eq!(world.in_use(A), Some(1));
    for _ in 0..60 {
        world.traffic(2, true);
        world.run(ms(100));
    }
    assert_eq!(world.in_use(A), Some(2));
    world.run(SEC(120));
    assert_eq!((closed(&world, A), world.deaths()), (vec![1], 0));
}

#[test]
fn ends_that_disagree_about_the_session_come_to_agree_and_lose_none() {
    let mut world = World::linked(1, &[direct()]);
    world.session_up_at(A, 2, A, Some(1), 0);
    world.session_up_at(B, 2, A, Some(1), 0);
    world.session_up_at(A, 3, B, None, 0);
    world.session_up_at(B, 3, B, None, 0);
    // B is made to prefer the other one.
    world.log.clear();
    let id = world.peer(B).unwrap();
    let slot = world.nodes[B].slab.get_mut(id).unwrap();
    slot.sessions.swap(0, 1);
    slot.sessions[0].retire_at = None;
    slot.sessions[1].retire_at = Some(world.now + session::GRACE);
    assert_ne!(world.in_use(A), world.in_use(B));
    world.run(SEC(400));
    assert_eq!(world.in_use(A), world.in_use(B));
    assert_eq!((world.view(A).sessions, world.deaths()), (1, 0));
}

#[test]
fn a_flood_of_sessions_of_one_node_is_bounded() {
    let mut world = World::linked(1, &[direct()]);
    world.run(SEC(20));
    for session in 2..100 {
        world.session_up_at(A, session, B, None, 0);
        assert!(world.view(A).sessions <= session::MAX_SESSIONS);
    }
    assert_eq!(world.in_use(A), Some(99));
    assert_eq!(world.nodes[A].by_session.len(), session::MAX_SESSIONS);
}

#[test]
fn a_good_bye_is_heard_at_once_with_its_reason() {
    let mut world = World::linked(1, &[direct()]);
    world.run(SEC(60));
    let (peer, at) = (world.peer(A).unwrap(), world.now);
    world.nodes[A].close(peer, CloseReason::Leaving, at);
    world.drain();
    world.run(ms(20));
    assert_eq!(world.died_at(A), Some(at));
    assert_eq!(world.died_at(B), Some(at + ms(20)));
    let why = world.log.iter().rev().find_map(|(_, who, action)| match action {
        PeerAction::Dead { why, .. } if *who == B => Some(*why),
        _ => None,
    });
    assert_eq!(why, Some(Gone::ClosedByPeer(CloseReason::Leaving)));
    assert_eq!((closed(&world, A), closed(&world, B)), (vec![1], vec![1]));
    for end in [A, B] {
        assert!(world.nodes[end].is_empty() && world.nodes[end].by_session.is_empty());
        let kept = world.log.iter().filter(|(_, who, action)| *who == end && matches!(action, PeerAction::Keep(_))).count();
        let released = world.log.iter().filter(|(_, who, action)| *who == end && matches!(action, PeerAction::Release(_))).count();
        assert_eq!(kept, released);
    }
}

#[test]
fn who_gives_up_an_unresponsive_peer_tells_it() {
    // B's packets are lost, A's arrive: B would not find out for a minute.
    let mut world = World::linked(1, &[Wire { loss: [0, 1000], ..direct() }]);
    world.set_use(Use::Near);
    world.run(SEC(16));
    assert_eq!(world.deaths(), 2);
}

#[test]
fn a_late_good_bye_on_an_old_session_does_not_end_the_new_one() {
    let mut world = World::linked(1, &[direct()]);
    world.run(SEC(60));
    world.session_up(2, B, None, 0);
    let bye = LinkMessage::Close { reason: CloseReason::Leaving, text: "" }.to_payload();
    world.nodes[A].handle_link(SessionId(1), path(1), PathKind::Direct, None, &bye, world.now).unwrap();
    world.drain();
    assert_eq!((world.in_use(A), closed(&world, A)), (Some(2), vec![1]));
    world.nodes[A].handle_link(SessionId(2), path(1), PathKind::Direct, None, &bye, world.now).unwrap();
    world.drain();
    assert!(world.peer(A).is_none());
}

#[test]
fn ended_sessions_fall_back_to_what_is_left_and_then_to_nothing() {
    let mut world = World::linked(1, &[direct()]);
    world.session_up(2, A, Some(1), 0);
    world.nodes[A].session_ended(SessionId(2), world.now);
    world.drain();
    assert_eq!(world.in_use(A), Some(1));
    world.nodes[A].session_ended(SessionId(1), world.now);
    world.drain();
    assert!(world.log.iter().any(|(_, who, action)| *who == A && matches!(action, PeerAction::Dead { why: Gone::SessionEnded, .. })));
}

#[test]
fn a_member_that_is_not_admitted_learns_why() {
    let mut world = World::linked(1, &[direct()]);
    let notice =
        LinkMessage::MemberNotice { reason: NoticeReason::Expired, time: Some(UnixTime(77)), text: "ended yesterday" }.to_payload();
    world.nodes[A].handle_link(SessionId(1), path(1), PathKind::Direct, None, &notice, world.now).unwrap();
    world.drain();
    let told = world.log.iter().find_map(|(_, _, action)| match action {
        PeerAction::Notice { reason, time, text, .. } => Some((*reason, *time, text.clone())),
        _ => None,
    });
    assert_eq!(told, Some((NoticeReason::Expired, Some(UnixTime(77)), "ended yesterday".into())));
    assert_eq!((world.peer(A), closed(&world, A)), (None, vec![1]));
}

#[test]
fn two_daemons_with_one_identity_are_noticed() {
    let mut world = World::new(1, &[direct(), Wire::new(2, PathKind::Direct, 20)]);
    for turn in 0..4u32 {
        world.session_up_at(A, 1 + turn, B, None, turn as usize % 2);
        world.run(SEC(20));
    }
    let alarms = world.log.iter().filter(|(_, _, action)| matches!(action, PeerAction::DuplicateIdentity { .. })).count();
    assert_eq!(alarms, 1);
}

#[test]
fn a_session_with_ourselves_is_closed_at_once() {
    let mut world = World::new(1, &[]);
    assert_eq!(world.nodes[A].session_up(LOW, SessionId(1), path(1), PathKind::Direct, true, None, world.now), None);
    assert_eq!(world.nodes[A].poll_action(), Some(PeerAction::CloseSession(SessionId(1))));
    assert!(world.nodes[A].is_empty() && world.nodes[A].poll_timeout().is_none());
}

#[test]
fn numbers_of_peers_rest_before_they_are_used_again() {
    let mut peers = Peers::new(Rng::new([1; 32]), LOW, TUNNEL_MTU);
    let mut now = Instant::from_secs(1);
    let up = |peers: &mut Peers, number: u32, now| {
        peers.session_up(NodeId([number as u8 + 10; 20]), SessionId(number), path(number), PathKind::Direct, true, None, now).unwrap()
    };
    let first = up(&mut peers, 1, now);
    peers.close(first, CloseReason::Surplus, now);
    assert_eq!(peers.node(first), None);
    now += SEC(299);
    let second = up(&mut peers, 2, now);
    assert_ne!(first, second);
    now += SEC(2);
    assert_eq!(up(&mut peers, 3, now), first);
}

#[test]
fn the_table_of_peers_is_bounded() {
    let mut peers = Peers::new(Rng::new([1; 32]), LOW, TUNNEL_MTU);
    for number in 0..slab::MAX_PEERS as u32 + 10 {
        let mut node = [2; 20];
        node[..4].copy_from_slice(&number.to_be_bytes());
        let up = peers.session_up(NodeId(node), SessionId(number), path(number), PathKind::Direct, true, None, Instant::from_secs(1));
        assert_eq!(up.is_some(), number < slab::MAX_PEERS as u32);
    }
    assert_eq!(peers.len(), slab::MAX_PEERS);
}
