use super::*;
use crate::wire::handshake::{FEATURE_HARDWARE_AES, M1_LEN};

/// A wire that does `fate` to the first datagram of `kind` that belongs to the handshake which `initiator` started.
fn first(kind: Kind, initiator: usize, fate: Fate) -> Judge {
    let mut done = false;
    Box::new(move |from, bytes| {
        let sender_starts = matches!(kind, Kind::M1 | Kind::M3);
        let mine = kind_of(bytes) == Some(kind) && (from == initiator) == sender_starts;
        if mine && !done {
            done = true;
            return fate;
        }
        Fate::Pass
    })
}

#[test]
fn two_members_get_a_session_in_three_messages() {
    let (_, mut net) = Net::pair(1);
    net.ends[1].set_introduction(Bytes::from_static(b"I am at 192.0.2.1"));
    let handshake = net.connect(0, 1);
    net.run_for(Duration::from_secs(1));
    let kinds: Vec<_> = net.sent.iter().filter_map(|(from, _, bytes)| kind_of(bytes).map(|kind| (*from, kind))).collect();
    assert_eq!(kinds, [(0, Kind::M1), (1, Kind::M2), (0, Kind::M3)]);
    let node = net.ends[1].identity().node_id();
    let session = net.live(0)[0].0;
    let expected = SessionEvent::Established {
        session,
        handshake: Some(handshake),
        path: path_to(1),
        initiator: true,
        node,
        introduction: Bytes::from_static(b"I am at 192.0.2.1"),
        resumed_from: None,
    };
    assert_eq!(net.events[0], [expected]);
    let info = net.ends[0].info(session).unwrap();
    assert_eq!((info.certificate.node_id(), info.initiator, info.cipher, info.confirmed), (node, true, Cipher::Aes256Gcm, true));
    assert_eq!((info.version, info.features), (1, FEATURE_HARDWARE_AES));
    assert_eq!(session.0 >> 20, 3);
    net.assert_agreement();
    net.run_for(Duration::from_secs(20));
    assert!(net.ends.iter().all(|end| end.outgoing.is_empty() && end.incoming.is_empty() && end.callers.is_empty() && end.half_open == 0));
    assert_eq!(net.drops, []);
}

#[test]
fn an_end_without_aes_makes_both_use_chacha() {
    let group = Group::new(1);
    let far = SessionSettings { hardware_aes: false, ..settings() };
    let mut net = Net::new(vec![
        group.sessions(settings(), group.member(1, START.plus_secs(DAY)), 1),
        group.sessions(far, group.member(2, START.plus_secs(DAY)), 2),
    ]);
    net.connect(0, 1);
    net.run_for(Duration::from_secs(1));
    for end in 0..2 {
        let session = net.live(end)[0].0;
        assert_eq!(net.ends[end].info(session).unwrap().cipher, Cipher::ChaCha20Poly1305);
    }
    net.assert_agreement();
}

#[test]
fn each_message_lost_doubled_or_late_still_gives_both_ends_a_session() {
    for crossing in [false, true] {
        for initiator in if crossing { 0..2 } else { 0..1 } {
            for kind in [Kind::M1, Kind::M2, Kind::M3] {
                for fate in [Fate::Lose, Fate::Twice, Fate::Late] {
                    let (_, mut net) = Net::pair(2);
                    net.judge = first(kind, initiator, fate);
                    net.connect(0, 1);
                    if crossing {
                        net.connect(1, 0);
                    }
                    net.run_for(Duration::from_secs(12));
                    let count = if crossing { 2 } else { 1 };
                    assert_eq!(
                        [net.live(0).len(), net.live(1).len()],
                        [count, count],
                        "{kind:?} of {initiator} {fate:?}, crossing: {crossing}"
                    );
                    net.assert_agreement();
                }
            }
        }
    }
}

#[test]
fn every_message_of_one_kind_late_by_2_s_still_gives_a_session() {
    for kind in [Kind::M1, Kind::M2, Kind::M3] {
        let (_, mut net) = Net::pair(3);
        net.judge = Box::new(move |_, bytes| if kind_of(bytes) == Some(kind) { Fate::Late } else { Fate::Pass });
        net.connect(0, 1);
        net.connect(1, 0);
        net.run_for(Duration::from_secs(12));
        net.assert_agreement();
    }
}

#[test]
fn random_loss_doubling_and_delay_never_leave_the_ends_in_disagreement() {
    let mut agreed = 0;
    for seed in 0..60 {
        let (_, mut net) = Net::pair(seed);
        let mut rng = Rng::new([seed; 32]);
        net.judge = Box::new(move |_, _| match rng.below(10) {
            0 | 1 => Fate::Lose,
            2 => Fate::Twice,
            3 => Fate::Late,
            _ => Fate::Pass,
        });
        net.connect(0, 1);
        if seed % 2 == 0 {
            net.connect(1, 0);
        }
        net.run_for(Duration::from_secs(15));
        if !net.live(0).is_empty() && !net.live(1).is_empty() {
            net.assert_agreement();
            agreed += 1;
        }
    }
    assert!(agreed >= 57, "only {agreed} of 60");
}

#[test]
fn when_all_answers_to_m3_are_lost_the_initiator_ends_the_session() {
    let (_, mut net) = Net::pair(4);
    net.judge = Box::new(|from, bytes| if from == 1 && kind_of(bytes).is_none() { Fate::Lose } else { Fate::Pass });
    net.connect(0, 1);
    net.run_for(Duration::from_secs(8));
    assert!(matches!(net.events[0].last(), Some(SessionEvent::Ended { why: EndReason::Unconfirmed, .. })));
    let repeats = net.sent.iter().filter(|(from, _, bytes)| *from == 0 && kind_of(bytes) == Some(Kind::M3)).count();
    assert!((3..=5).contains(&repeats), "{repeats}");
}

#[test]
fn nobody_answering_is_reported_after_5_s() {
    let (_, mut net) = Net::pair(5);
    net.judge = Box::new(|_, _| Fate::Lose);
    let handshake = net.connect(0, 1);
    net.run_for(Duration::from_millis(4_900));
    assert_eq!(net.events[0], []);
    net.run_for(Duration::from_millis(200));
    let failed = SessionEvent::Failed { handshake, path: path_to(1), expected: None, why: HandshakeError::TimedOut };
    assert_eq!(net.events[0], [failed]);
    assert!(net.ends[0].outgoing.is_empty() && net.ends[0].poll_timeout().is_none());
}

#[test]
fn an_abandoned_handshake_is_silent() {
    let (_, mut net) = Net::pair(5);
    let handshake = net.connect(0, 1);
    net.drain();
    net.ends[0].abandon(handshake);
    net.run_for(Duration::from_secs(10));
    assert_eq!(net.events, [vec![], vec![]]);
}

#[test]
fn long_certificates_travel_in_parts_and_every_m2_part_was_bought() {
    let group = Group::new(6);
    let mut net = Net::new(vec![group.sessions(settings(), group.member(1, START.plus_secs(DAY)), 1), group.wordy(settings(), 2)]);
    // The initiator has less to say, expects one part and asks for the second when it learns of it.
    net.connect(0, 1);
    net.run_for(Duration::from_millis(200));
    let count = |net: &Net, kind| net.sent.iter().filter(|(_, _, bytes)| kind_of(bytes) == Some(kind)).count();
    assert_eq!((count(&net, Kind::M1), count(&net, Kind::M2)), (2, 2));
    net.assert_agreement();
    // The other way round both are asked for at once.
    net.sent.clear();
    net.connect(1, 0);
    net.drain();
    assert_eq!(count(&net, Kind::M1), 2);
    net.run_for(Duration::from_millis(200));
    assert_eq!((count(&net, Kind::M2), count(&net, Kind::M3)), (1, 2));
}

#[test]
fn a_lost_part_is_bought_again() {
    for lost in 0..2 {
        let group = Group::new(6);
        let mut net = Net::new((1..3).map(|number| group.wordy(settings(), number)).collect());
        let mut seen = 0;
        net.judge = Box::new(move |_, bytes| {
            let header = HandshakeHeader::parse(bytes).ok().map(|(header, ..)| (header.kind, header.part));
            let hit = header == Some((Kind::M2, lost)) || header == Some((Kind::M3, lost));
            seen += usize::from(hit);
            if hit && seen % 2 == 1 { Fate::Lose } else { Fate::Pass }
        });
        net.connect(0, 1);
        net.run_for(Duration::from_secs(4));
        net.assert_agreement();
    }
}

#[test]
fn one_m1_datagram_never_causes_more_than_one_datagram_of_its_size() {
    let group = Group::new(7);
    let mut net = Net::new((1..3).map(|number| group.wordy(settings(), number)).collect());
    net.connect(0, 1);
    net.drain();
    let m1: Vec<_> = net.sent.drain(..).map(|(_, _, bytes)| bytes).collect();
    for _ in 0..3 {
        for datagram in &m1 {
            assert_eq!(datagram.len(), M1_LEN);
            net.ends[1].handle_handshake(path_to(0), origin(0), &mut datagram.clone(), net.now, START).unwrap();
            let mut out = Vec::new();
            assert!(net.ends[1].poll_transmit(&mut out).is_some());
            assert!(out.len() <= datagram.len());
            assert!(net.ends[1].poll_transmit(&mut out).is_none());
        }
    }
}

#[test]
fn another_node_than_the_expected_one_is_reported_and_told_nothing() {
    let (_, mut net) = Net::pair(8);
    let expected = NodeId([9; 20]);
    net.ends[0].connect(path_to(1), Some(expected), net.now).unwrap();
    net.run_for(Duration::from_secs(8));
    let found = net.ends[1].identity().node_id();
    assert!(
        matches!(&net.events[0][..], [SessionEvent::Failed { why: HandshakeError::WrongNode { found: other }, .. }] if *other == found)
    );
    assert!(!net.sent.iter().any(|(_, _, bytes)| kind_of(bytes) == Some(Kind::M3)));
    assert_eq!(net.events[1], []);
}

#[test]
fn a_node_that_calls_itself_finds_out() {
    let (_, mut net) = Net::pair(8);
    net.connect(0, 0);
    net.run_for(Duration::from_secs(6));
    assert!(matches!(&net.events[0][..], [SessionEvent::Failed { why: HandshakeError::OwnAddress, .. }]));
}

#[test]
fn two_daemons_with_one_identity_find_out() {
    let group = Group::new(8);
    let until = START.plus_secs(DAY);
    let mut net = Net::new((0..2).map(|seed| group.sessions(settings(), group.member(1, until), seed)).collect());
    net.connect(0, 1);
    net.run_for(Duration::from_secs(6));
    assert!(matches!(&net.events[0][..], [SessionEvent::Failed { why: HandshakeError::DuplicateIdentity, .. }]));
}

#[test]
fn packets_that_arrive_before_m3_do_not_disturb_and_later_ones_are_opened() {
    let (_, mut net) = Net::pair(9);
    net.judge = first(Kind::M3, 0, Fate::Lose);
    net.connect(0, 1);
    net.run_for(Duration::from_millis(100));
    net.say(0, b"\x7fearly");
    net.run_for(Duration::from_secs(2));
    assert_eq!(net.drops, [DropReason::UnknownIndex]);
    net.assert_agreement();
}

#[cfg(feature = "stand-in")]
#[test]
fn the_stand_in_gives_the_same_events_in_the_same_order() {
    for seed in 0..10 {
        let run = |crypto| {
            let (_, mut net) = Net::pair_in(seed, SessionSettings { crypto, ..settings() });
            let mut rng = Rng::new([seed; 32]);
            net.judge = Box::new(move |_, _| if rng.below(4) == 0 { Fate::Lose } else { Fate::Pass });
            net.connect(0, 1);
            net.connect(1, 0);
            net.run_for(Duration::from_secs(7_300));
            let sizes: Vec<_> = net.sent.iter().map(|(from, to, bytes)| (*from, *to, bytes.len())).collect();
            (net.events, sizes, net.drops)
        };
        assert_eq!(run(CryptoMode::Real), run(CryptoMode::StandIn), "seed {seed}");
    }
}

#[test]
fn a_session_is_small() {
    // A simulation holds ten thousand nodes with a dozen sessions each.
    let size = size_of::<Session>();
    assert!(size <= 640, "{size} bytes");
}
