use super::super::live::{FULL_AGAIN, MOST_PACKETS, REKEY_DATA, REKEY_PACKETS, REKEY_QUIET};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn connected(seed: u8) -> (Group, Net) {
    let (group, mut net) = Net::pair(seed);
    net.connect(0, 1);
    net.run_for(SECOND);
    (group, net)
}

fn count(net: &Net, kind: Kind) -> usize {
    net.sent.iter().filter(|(_, _, bytes)| kind_of(bytes) == Some(kind)).count()
}

fn way() -> Way {
    Way { path: path_to(1), circuit: None, routed: false, whole: u16::MAX, mtu: 1400, rtt: None }
}

fn resumptions(net: &Net, end: usize) -> Vec<(SessionId, Option<SessionId>, bool)> {
    let of = |event: &SessionEvent| match event {
        SessionEvent::Established { session, resumed_from, initiator, .. } => Some((*session, *resumed_from, *initiator)),
        _ => None,
    };
    net.events[end].iter().filter_map(of).collect()
}

#[test]
fn a_quiet_session_is_resumed_after_an_hour_by_its_initiator() {
    let (_, mut net) = connected(1);
    let old = [net.preferred(0), net.preferred(1)];
    net.run(Instant::ZERO + REKEY_QUIET - SECOND);
    assert_eq!(count(&net, Kind::R1), 0);
    net.run_for(3 * SECOND);
    assert_eq!((count(&net, Kind::R1), count(&net, Kind::R2), count(&net, Kind::M1)), (1, 1, 1));
    for (end, old) in old.into_iter().enumerate() {
        let all = resumptions(&net, end);
        assert_eq!(all.len(), 2);
        assert_eq!((all[1].1, all[1].2), (Some(old), end == 0));
        assert!(net.ends[end].info(old).unwrap().replaced);
        let info = net.ends[end].info(all[1].0).unwrap();
        assert!(info.confirmed && info.certificate.node_id() == net.ends[1 - end].identity().node_id());
    }
    // Packets still under way on the old session are opened, and then it ends.
    net.say_on(0, old[0], b"\x7flate");
    net.run_for(SECOND);
    assert_eq!(net.opened[1].last(), Some(&(old[1], b"\x7flate".to_vec())));
    net.run_for(GRACE + SECOND);
    for (end, old) in old.into_iter().enumerate() {
        assert!(
            net.events[end]
                .iter()
                .any(|event| matches!(event, SessionEvent::Ended { session, why: EndReason::Superseded, .. } if *session == old))
        );
        assert_eq!(net.ends[end].sessions.len(), 1);
    }
    net.assert_agreement();
}

#[test]
fn a_session_with_ip_is_resumed_120_s_after_its_data_keys() {
    let (_, mut net) = connected(1);
    let session = net.preferred(0);
    let keys = net.ends[0].data_install(session, PeerId(1), way()).unwrap();
    let other = net.preferred(1);
    let far = net.ends[1].data_install(other, PeerId(1), way()).unwrap();
    assert_eq!((&keys.keys.send, &keys.keys.receive), (&far.keys.receive, &far.keys.send));
    assert_eq!((keys.remote_index, far.remote_index), (far.session.0, keys.session.0));
    // Counted from the latest input.
    assert!(keys.rekey_at <= net.now + REKEY_DATA && keys.rekey_at > net.now + REKEY_DATA - SECOND);
    net.run_for(300 * SECOND);
    assert_eq!(count(&net, Kind::R1), 0);
    // IP flows: the keys are older than 120 s, and are renewed at once.
    net.ends[0].mark_data(session);
    net.run_for(SECOND);
    assert_eq!(count(&net, Kind::R1), 1);
    let new = net.live(0).last().unwrap().0;
    assert_ne!(net.ends[0].data_install(new, PeerId(1), way()).unwrap().keys, keys.keys);
    net.ends[0].mark_data(new);
    net.run_for(REKEY_DATA - 2 * SECOND);
    assert_eq!(count(&net, Kind::R1), 1);
    net.run_for(3 * SECOND);
    assert_eq!(count(&net, Kind::R1), 2);
    net.assert_agreement();
}

#[test]
fn each_message_of_a_resumption_lost_doubled_or_late_still_renews() {
    for kind in [Some(Kind::R1), Some(Kind::R2), None] {
        for fate in [Fate::Lose, Fate::Twice, Fate::Late] {
            for both in [false, true] {
                let (_, mut net) = connected(2);
                let old = [net.preferred(0), net.preferred(1)];
                let mut done = false;
                net.judge = Box::new(move |_, bytes| {
                    if done || kind_of(bytes) != kind {
                        return Fate::Pass;
                    }
                    done = true;
                    fate
                });
                net.ends[0].rekey(old[0], path_to(1), net.now);
                if both {
                    net.ends[1].rekey(old[1], path_to(0), net.now);
                }
                net.run_for(12 * SECOND);
                let starts: Vec<_> =
                    (0..2).map(|end| resumptions(&net, end).iter().filter(|(_, from, _)| *from == Some(old[end])).count()).collect();
                assert_eq!(starts, if both { [2, 2] } else { [1, 1] }, "{kind:?} {fate:?} both: {both}");
                net.run_for(GRACE + 12 * SECOND);
                for (end, old) in old.into_iter().enumerate() {
                    assert!(net.ends[end].info(old).is_none());
                    assert!(net.ends[end].outgoing.is_empty() && net.ends[end].half_open == 0);
                }
                net.assert_agreement();
            }
        }
    }
}

#[test]
fn a_replayed_r1_makes_nothing() {
    let (_, mut net) = connected(3);
    let old = net.preferred(0);
    net.ends[0].rekey(old, path_to(1), net.now);
    net.run_for(SECOND);
    let mut r1 = net.sent.iter().find(|(_, _, bytes)| kind_of(bytes) == Some(Kind::R1)).unwrap().2.clone();
    let sessions = net.ends[1].sessions.len();
    assert_eq!(net.ends[1].handle_handshake(path_to(9), origin(9), &mut r1, net.now, START), Err(DropReason::Replayed));
    assert!(net.ends[1].poll_transmit(&mut Vec::new()).is_none() && net.ends[1].sessions.len() == sessions);
    net.run_for(GRACE + SECOND);
    assert_eq!(net.ends[1].handle_handshake(path_to(9), origin(9), &mut r1, net.now, START), Err(DropReason::UnknownIndex));
}

#[test]
fn an_r1_copied_from_elsewhere_moves_nothing() {
    let (_, mut net) = connected(3);
    let old = net.preferred(0);
    net.ends[0].rekey(old, path_to(1), net.now);
    net.drain();
    // The copy is faster than the original.
    let mut r1 = net.sent.last().unwrap().2.clone();
    let len = r1.len();
    assert_eq!(net.ends[1].handle_handshake(path_to(9), origin(9), &mut r1, net.now, START), Ok(()));
    let mut answer = Vec::new();
    assert_eq!(net.ends[1].poll_transmit(&mut answer), Some(path_to(9)));
    assert!(answer.len() <= len);
    net.run_for(SECOND);
    assert!(net.events[1].iter().all(|event| matches!(event, SessionEvent::Established { path, .. } if *path == path_to(0))));
    net.assert_agreement();
}

#[test]
fn a_resumption_that_only_one_end_knows_expires() {
    let (_, mut net) = connected(4);
    let old = net.preferred(0);
    net.judge =
        Box::new(|_, bytes| if kind_of(bytes) == Some(Kind::R2) || kind_of(bytes) == Some(Kind::M2) { Fate::Lose } else { Fate::Pass });
    net.ends[0].rekey(old, path_to(1), net.now);
    net.run_for(30 * SECOND);
    assert_eq!((net.ends[1].sessions.len(), net.ends[1].half_open), (1, 0));
    assert_eq!(net.live(1).len(), 1);
    // The old session was never touched.
    net.assert_agreement();
}

#[test]
fn a_resumption_that_nobody_answers_is_followed_by_a_full_handshake() {
    let (_, mut net) = connected(5);
    let old = [net.preferred(0), net.preferred(1)];
    // The other end has forgotten the session, as after a restart.
    net.ends[1].close(old[1]);
    net.ends[0].rekey(old[0], path_to(1), net.now);
    net.run_for(8 * SECOND);
    assert_eq!(resumptions(&net, 0).last().map(|(_, from, _)| *from), Some(Some(old[0])));
    assert_eq!(resumptions(&net, 1).last().map(|(_, from, _)| *from), Some(None));
    assert_eq!(count(&net, Kind::M3), 2);
}

#[test]
fn a_full_handshake_comes_after_12_hours_and_names_the_old_session_to_both_ends() {
    let (_, mut net) = connected(6);
    net.run(Instant::ZERO + FULL_AGAIN - 60 * SECOND);
    assert_eq!((count(&net, Kind::M1), count(&net, Kind::R1)), (1, 11));
    net.run_for(180 * SECOND);
    assert_eq!((count(&net, Kind::M1), count(&net, Kind::M3)), (2, 2));
    for end in 0..2 {
        let all = resumptions(&net, end);
        let [.., before, last] = &all[..] else { panic!() };
        assert_eq!(last.1, Some(before.0));
        assert_eq!(net.ends[end].sessions.len(), 1);
    }
    net.assert_agreement();
}

#[test]
fn a_renewed_certificate_is_shown_within_a_minute() {
    let (group, mut net) = connected(7);
    let number = if group.member(1, START.plus_secs(DAY)).node_id() == net.ends[1].identity().node_id() { 1 } else { 2 };
    let renewed = group.member(number, START.plus_secs(60 * DAY));
    net.ends[1].set_identity(renewed.clone());
    net.run_for(62 * SECOND);
    let session = net.live(0).last().unwrap().0;
    assert_eq!(net.ends[0].info(session).unwrap().certificate.not_after(), renewed.certificate().not_after());
    net.run_for(GRACE + SECOND);
    assert_eq!(net.ends[0].sessions.len(), 1);
    net.assert_agreement();
}

#[test]
fn worn_keys_are_renewed_and_used_up_ones_seal_nothing() {
    let (_, mut net) = connected(8);
    let session = net.preferred(0);
    let far = net.preferred(1);
    net.ends[0].sessions.get_mut(&session.0).unwrap().set_sent(REKEY_PACKETS - 1);
    net.say_on(0, session, b"\x7flast");
    net.run_for(SECOND);
    assert!(net.opened[1].contains(&(far, b"\x7flast".to_vec())));
    assert_eq!(count(&net, Kind::R1), 1);
    net.ends[0].sessions.get_mut(&session.0).unwrap().set_sent(MOST_PACKETS);
    let mut out = Vec::new();
    assert_eq!(net.ends[0].seal(session, b"more", &mut out, net.now), Err(SealError::Exhausted));
    assert!(out.is_empty());
}

#[test]
fn replayed_old_and_reordered_control_packets_are_told_apart() {
    let (_, mut net) = connected(9);
    let session = net.preferred(0);
    let mut packets: Vec<Vec<u8>> = Vec::new();
    for number in 0..200u8 {
        let mut out = Vec::new();
        net.ends[0].seal(session, &[0x7f, number], &mut out, net.now).unwrap();
        packets.push(out);
    }
    let mut open = |number: usize| net.ends[1].open(&mut packets[number].clone(), net.now).map(|opened| opened.newest);
    assert_eq!(open(150), Ok(true));
    assert_eq!(open(149), Ok(false));
    assert_eq!(open(150), Err(DropReason::Replayed));
    assert_eq!(open(199), Ok(true));
    assert_eq!(open(10), Err(DropReason::TooOld));
    assert_eq!(open(72), Ok(false));
}

#[test]
fn a_closed_session_is_forgotten_and_its_index_rests() {
    let (_, mut net) = connected(9);
    let session = net.preferred(0);
    net.ends[0].close(session);
    assert_eq!(net.ends[0].seal(session, b"x", &mut Vec::new(), net.now), Err(SealError::Unknown));
    assert!(net.ends[0].info(session).is_none());
    net.say_on(1, net.preferred(1), b"\x7fhello");
    net.run_for(SECOND);
    assert_eq!(net.drops.last(), Some(&DropReason::UnknownIndex));
}
