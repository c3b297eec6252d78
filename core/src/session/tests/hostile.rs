use super::*;
use crate::rng::Rng;
use crate::wire::handshake::{Abilities, HEADER_LEN};
use proptest::prelude::*;

fn strangers(near: &Group, far: &Group, far_until: UnixTime) -> Net {
    Net::new(vec![
        near.sessions(settings(), near.member(1, START.plus_secs(DAY)), 1),
        far.sessions(settings(), far.member(2, far_until), 2),
    ])
}

/// Seals a notice on the session of each refusal and sends it, as the node would.
fn send_notices(net: &mut Net, end: usize) {
    for event in net.events[end].clone() {
        if let SessionEvent::Refused { session: Some(session), .. } = event {
            let mut out = Vec::new();
            if net.ends[end].seal(session, b"\x20expired", &mut out, net.now).is_ok() {
                net.put(end, 1 - end, out, LATENCY);
            }
        }
    }
}

#[test]
fn a_wrong_realm_key_meets_silence() {
    let mut net = strangers(&Group::new(1), &Group::new(2), START.plus_secs(DAY));
    net.connect(0, 1);
    net.run_for(Duration::from_secs(6));
    assert!(net.sent.iter().all(|(from, ..)| *from == 0));
    assert!(!net.drops.is_empty() && net.drops.iter().all(|&why| why == DropReason::WrongRealm));
    assert_eq!(net.events[1], []);
    let m1 = &net.sent[0].2;
    assert!(net.ends[0].claims(m1) && !net.ends[1].claims(m1));
}

#[test]
fn an_unknown_ca_meets_silence_and_the_member_learns_of_it() {
    let group = Group::new(1);
    let mut net = strangers(&group, &group.impostor(), START.plus_secs(DAY));
    net.connect(1, 0);
    net.run_for(Duration::from_secs(12));
    // The stranger does not trust the member either; it stops at m2.
    assert!(matches!(&net.events[1][..], [SessionEvent::Failed { why: HandshakeError::Certificate(_), .. }]));
    assert!(net.events[0].is_empty());
    // A stranger that goes on is refused without an answer.
    let mut net = strangers(&group, &group, START.plus_secs(DAY));
    let forged = group.impostor().member(2, START.plus_secs(DAY));
    net.ends[1].identity = forged;
    net.connect(1, 0);
    net.run_for(Duration::from_secs(12));
    assert!(matches!(&net.events[0][..], [SessionEvent::Refused { session: None, node: None, .. }]));
    let answers = net.sent.iter().filter(|(from, ..)| *from == 0).count();
    assert_eq!(answers, net.sent.iter().filter(|(_, _, bytes)| kind_of(bytes) == Some(Kind::M2)).count());
}

#[test]
fn an_expired_initiator_is_told_once_and_nothing_else_is_accepted() {
    for lose_notice in [false, true] {
        let group = Group::new(1);
        let mut net = strangers(&group, &group, UnixTime(START.0 - 10));
        net.connect(1, 0);
        net.run_for(Duration::from_millis(70));
        let [SessionEvent::Refused { session: Some(session), node, why, .. }] = &net.events[0][..] else { panic!("{:?}", net.events[0]) };
        assert_eq!(*node, Some(net.ends[1].identity().node_id()));
        assert_eq!(*why, CertificateError::Expired { since: UnixTime(START.0 - 10) });
        let session = *session;
        if lose_notice {
            net.ends[0].seal(session, b"\x20expired", &mut Vec::new(), net.now).unwrap();
        } else {
            send_notices(&mut net, 0);
        }
        net.run_for(Duration::from_millis(700));
        let told = net.opened[1].iter().filter(|(_, payload)| payload == b"\x20expired").count();
        assert_eq!(told, 1, "lost: {lose_notice}");
        assert_eq!(net.ends[0].seal(session, b"more", &mut Vec::new(), net.now), Err(SealError::Refused));
        let far = net.live(1)[0].0;
        net.say_on(1, far, b"\x7fhello?");
        net.run_for(LATENCY);
        assert_eq!(net.drops.last(), Some(&DropReason::NotAdmitted));
        assert_eq!(net.opened[0], []);
        net.run_for(Duration::from_secs(20));
        assert!(net.ends[0].sessions.is_empty() && net.live(0).is_empty());
    }
}

#[test]
fn a_revoked_responder_is_told_by_the_initiator() {
    let group = Group::new(1);
    let mut net = strangers(&group, &group, START.plus_secs(DAY));
    let certificate = net.ends[1].identity().certificate().clone();
    group.revoke(&mut net.ends[0], &certificate);
    let handshake = net.connect(0, 1);
    net.run_for(Duration::from_millis(50));
    assert!(matches!(&net.events[0][0], SessionEvent::Refused { session: Some(_), why: CertificateError::Revoked, .. }));
    assert!(matches!(&net.events[0][1], SessionEvent::Failed { handshake: failed, .. } if *failed == handshake));
    send_notices(&mut net, 0);
    net.run_for(Duration::from_secs(1));
    assert_eq!(net.opened[1].iter().filter(|(_, payload)| payload == b"\x20expired").count(), 1);
    net.run_for(Duration::from_secs(20));
    assert!(net.ends[0].sessions.is_empty() && net.ends[0].outgoing.is_empty());
}

#[test]
fn a_not_yet_valid_certificate_is_told_so() {
    let group = Group::new(1);
    let from = START.plus_secs(DAY);
    let mut net = strangers(&group, &group, START.plus_secs(DAY));
    net.ends[1].identity = group.member_from(2, from, START.plus_secs(2 * DAY));
    net.connect(1, 0);
    net.run_for(Duration::from_millis(70));
    assert!(matches!(&net.events[0][..], [SessionEvent::Refused { why: CertificateError::NotYetValid { .. }, session: Some(_), .. }]));
}

#[test]
fn a_session_ends_with_the_certificate_that_was_presented_in_it() {
    let group = Group::new(1);
    let mut net = strangers(&group, &group, START.plus_secs(600));
    net.connect(0, 1);
    net.run_for(Duration::from_secs(599));
    net.assert_agreement();
    net.run_for(Duration::from_secs(5));
    let reasons = |end: usize| net.events[end].iter().filter(|event| matches!(event, SessionEvent::Ended { .. })).count();
    assert_eq!([reasons(0), reasons(1)], [1, 1]);
    assert!(
        net.events[0]
            .iter()
            .any(|event| matches!(event, SessionEvent::Refused { why: CertificateError::Expired { .. }, session: Some(_), .. }))
    );
    assert!(matches!(net.events[1].last(), Some(SessionEvent::Ended { why: EndReason::OwnCertificate, .. })));
}

#[test]
fn news_of_a_revocation_ends_live_sessions_and_leaves_one_notice() {
    let (group, mut net) = Net::pair(1);
    net.connect(0, 1);
    net.run_for(Duration::from_secs(1));
    let (session, _) = net.live(0)[0];
    let certificate = net.ends[1].identity().certificate().clone();
    group.revoke(&mut net.ends[0], &certificate);
    net.ends[0].recheck(START, net.now);
    net.drain();
    assert!(matches!(&net.events[0][1..], [
        SessionEvent::Refused { session: Some(a), .. },
        SessionEvent::Ended { session: b, why: EndReason::Certificate(CertificateError::Revoked), .. },
    ] if *a == session && *b == session));
    send_notices(&mut net, 0);
    net.say(1, b"\x7fstill here");
    net.run_for(Duration::from_secs(1));
    assert_eq!(net.opened[1].last().map(|(_, payload)| payload.clone()), Some(b"\x20expired".to_vec()));
    assert_eq!(net.drops, [DropReason::NotAdmitted]);
    assert!(net.ends[0].data_install(session, PeerId(1), way()).is_none());
}

fn way() -> Way {
    Way { path: path_to(1), circuit: None, routed: false, whole: u16::MAX, mtu: 1400, rtt: None }
}

/// An m1 from `number`, which nobody follows up.
fn m1(group: &Group, number: u32) -> Vec<u8> {
    let mut caller = Sessions::new(
        settings(),
        group.member(9, START.plus_secs(DAY)),
        group.trust(),
        Rng::new([9; 32]).fork(&number.to_string()),
        Instant::ZERO,
    );
    caller.connect(path_to(0), None, Instant::ZERO).unwrap();
    let mut out = Vec::new();
    caller.poll_transmit(&mut out);
    out
}

#[test]
fn under_load_an_address_must_return_a_cookie() {
    let (group, mut net) = Net::pair(1);
    for number in 0..COOKIES_FROM as u32 {
        net.ends[1].handle_handshake(path_to(77), origin(77), &mut m1(&group, number), net.now, START).unwrap();
    }
    while net.ends[1].poll_transmit(&mut Vec::new()).is_some() {}
    assert_eq!(net.ends[1].half_open, COOKIES_FROM);
    // One more from the flood: a small cookie, no state.
    let mut more = m1(&group, 9_999);
    net.ends[1].handle_handshake(path_to(77), origin(77), &mut more, net.now, START).unwrap();
    let mut cookie = Vec::new();
    net.ends[1].poll_transmit(&mut cookie).unwrap();
    assert!(kind_of(&cookie) == Some(Kind::Cookie) && cookie.len() < 100);
    assert_eq!((net.ends[1].half_open, net.ends[1].incoming.len()), (COOKIES_FROM, COOKIES_FROM));
    // An honest node follows its cookie and gets through within a second.
    net.connect(0, 1);
    net.run_for(Duration::from_millis(400));
    assert!(net.sent.iter().any(|(from, _, bytes)| *from == 1 && kind_of(bytes) == Some(Kind::Cookie)));
    net.assert_agreement();
    // The half-open ones are gone after 5 s.
    net.run_for(Duration::from_secs(11));
    assert_eq!((net.ends[1].half_open, net.ends[1].incoming.len(), net.ends[1].callers.len()), (0, 0, 0));
}

#[test]
fn a_cookie_that_answers_nothing_we_sent_is_ignored() {
    let (group, mut net) = Net::pair(1);
    for number in 0..COOKIES_FROM as u32 + 1 {
        net.ends[1].handle_handshake(path_to(77), origin(77), &mut m1(&group, number), net.now, START).unwrap();
    }
    let mut cookie = Vec::new();
    while net.ends[1]
        .poll_transmit({
            cookie.clear();
            &mut cookie
        })
        .is_some()
    {}
    net.connect(0, 1);
    net.drain();
    // Made for somebody else's m1; sent to our handshake.
    let index = *net.ends[0].outgoing.keys().next().unwrap();
    let mut last = Vec::new();
    let (header, _, body) = {
        net.ends[1].handle_handshake(path_to(77), origin(77), &mut m1(&group, 5_000), net.now, START).unwrap();
        net.ends[1].poll_transmit(&mut last).unwrap();
        HandshakeHeader::parse(&last).unwrap()
    };
    let mut forged = Vec::new();
    HandshakeHeader { receiver: index, ..header }.write(&mut forged);
    forged.extend_from_slice(body);
    net.ends[1].mac.sign(&mut forged);
    assert_eq!(net.ends[0].handle_handshake(path_to(1), origin(1), &mut forged, net.now, START), Err(DropReason::Replayed));
    assert!(net.ends[0].poll_transmit(&mut Vec::new()).is_none());
}

#[test]
fn a_hop_may_open_a_burst_and_no_more() {
    let (group, mut net) = Net::pair(1);
    let hop = Origin::Hop(path_to(5));
    let mut results = Vec::new();
    for number in 0..100 {
        results.push(net.ends[1].handle_handshake(path_to(5), hop, &mut m1(&group, number), net.now, START));
    }
    assert_eq!(results.iter().filter(|result| result.is_ok()).count() as u32, admission::BUCKET_BURST);
    assert_eq!(results.last(), Some(&Err(DropReason::RateLimited)));
    assert!(net.ends[1].handle_handshake(path_to(6), Origin::Hop(path_to(6)), &mut m1(&group, 1_000), net.now, START).is_ok());
}

#[test]
fn a_changed_version_range_or_feature_bit_is_detected() {
    // A man in the middle who knows the realm key takes the AES bit out of m1 or m2.
    for kind in [Kind::M1, Kind::M2, Kind::M3] {
        let (group, mut net) = Net::pair(2);
        let mac = RealmMac::new(group.trust().realm_key());
        net.tamper = Box::new(move |bytes| {
            if kind_of(bytes) == Some(kind) {
                let (header, _, _) = HandshakeHeader::parse(bytes).unwrap();
                let mut changed = Vec::new();
                HandshakeHeader { abilities: Abilities { features: 0, ..header.abilities }, ..header }.write(&mut changed);
                bytes[..HEADER_LEN].copy_from_slice(&changed);
                mac.sign(bytes);
            }
        });
        net.connect(0, 1);
        net.run_for(Duration::from_secs(12));
        assert!(net.live(0).is_empty() && net.live(1).is_empty(), "{kind:?}: {:?}", net.events);
    }
}

#[test]
fn copied_handshake_datagrams_from_elsewhere_move_nothing() {
    let (_, mut net) = Net::pair(3);
    net.connect(0, 1);
    net.run_for(Duration::from_secs(1));
    let copies: Vec<_> = net.sent.clone();
    for (_, to, bytes) in copies {
        if kind_of(&bytes).is_some() {
            let _ = net.ends[to].handle_handshake(path_to(9), origin(9), &mut bytes.clone(), net.now, START);
        } else {
            assert_eq!(net.ends[to].open(&mut bytes.clone(), net.now), Err(DropReason::Replayed));
        }
    }
    net.drain();
    let (before, answered): (Vec<_>, Vec<_>) = (net.events.clone(), net.sent.iter().filter(|(_, to, _)| *to == 9).cloned().collect());
    // The copied m1 buys one m2 for the copier and a place in the half-open table, nothing else does anything.
    assert_eq!(answered.iter().map(|(_, _, bytes)| kind_of(bytes)).collect::<Vec<_>>(), [Some(Kind::M2)]);
    net.run_for(Duration::from_secs(20));
    assert_eq!(net.events, before);
    net.assert_agreement();
    assert_eq!(net.ends[1].sessions.values().next().unwrap().path, path_to(0));
}

#[test]
fn tables_of_handshakes_are_bounded() {
    let (_, mut net) = Net::pair(4);
    for _ in 0..MAX_OUTGOING {
        net.connect(0, 1);
        while net.ends[0].poll_transmit(&mut Vec::new()).is_some() {}
    }
    assert_eq!(net.ends[0].connect(path_to(1), None, net.now), Err(ConnectError::Busy));
    assert_eq!(net.ends[0].connect(Path::NONE, None, net.now), Err(ConnectError::NoPath));
}

#[cfg(feature = "stand-in")]
#[test]
fn the_half_open_table_is_bounded() {
    let group = Group::new(1);
    let settings = SessionSettings { crypto: CryptoMode::StandIn, ..settings() };
    let mut target = group.sessions(settings, group.member(1, START.plus_secs(DAY)), 1);
    let mut flood = group.sessions(settings, group.member(2, START.plus_secs(DAY)), 2);
    let mut full = 0;
    for number in 0..MAX_HALF_OPEN as u32 + 50 {
        let hop = Path { index: number, generation: 0 };
        flood.outgoing.clear();
        flood.connect(path_to(0), None, Instant::ZERO).unwrap();
        let mut m1 = Vec::new();
        flood.poll_transmit(&mut m1);
        let result = target.handle_handshake(hop, Origin::Hop(hop), &mut m1, Instant::ZERO, START);
        full += usize::from(result == Err(DropReason::QueueFull));
        while target.poll_transmit(&mut Vec::new()).is_some() {}
    }
    assert_eq!((target.half_open, target.incoming.len(), full), (MAX_HALF_OPEN, MAX_HALF_OPEN, 50));
    target.handle_timeout(Instant::from_secs(5), START);
    assert_eq!((target.half_open, target.incoming.len()), (0, 0));
}

/// A state of affairs in which every kind of datagram means something: a session, a handshake each way, a resumption.
fn busy() -> (Net, Vec<Vec<u8>>) {
    let (_, mut net) = Net::pair(5);
    net.connect(0, 1);
    net.run_for(Duration::from_secs(1));
    let session = net.preferred(0);
    net.ends[0].rekey(session, path_to(1), net.now);
    net.connect(1, 0);
    net.drain();
    let seen = net.sent.iter().map(|(_, _, bytes)| bytes.clone()).collect();
    (net, seen)
}

fn feed(end: &mut Sessions, bytes: &mut [u8], now: Instant) {
    let len = bytes.len();
    let _ = end.handle_handshake(path_to(9), origin(9), bytes, now, START);
    let _ = end.open(bytes, now);
    let mut out = Vec::new();
    while end.poll_transmit(&mut out).is_some() {
        assert!(out.len() <= len, "an answer of {} bytes to {len}", out.len());
        out.clear();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn garbage_and_mutated_datagrams_get_no_answer_and_leave_no_state(junk in proptest::collection::vec(any::<u8>(), 0..1300), typed in any::<bool>(),
        at in any::<usize>(), flip in 1u8..=255, cut in any::<usize>()) {
        let (mut net, seen) = busy();
        let state = |net: &Net| net.ends.iter().map(|end| (end.sessions.len(), end.outgoing.len(), end.incoming.len(), end.half_open)).collect::<Vec<_>>();
        let before = (state(&net), net.events.clone());
        let mut all: Vec<Vec<u8>> = seen.iter().map(|bytes| {
            let mut bytes = bytes.clone();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            bytes
        }).chain(seen.iter().map(|bytes| bytes[..cut % bytes.len()].to_vec())).collect();
        let mut junk = junk;
        if typed && !junk.is_empty() {
            junk[0] = 0x90;
        }
        all.push(junk);
        for mut bytes in all {
            for end in 0..2 {
                let now = net.now;
                let (handshake, packet) = (
                    net.ends[end].handle_handshake(path_to(9), origin(9), &mut bytes.clone(), now, START),
                    net.ends[end].open(&mut bytes, now),
                );
                prop_assert!(handshake.is_err() && packet.is_err());
                prop_assert!(net.ends[end].poll_transmit(&mut Vec::new()).is_none());
            }
        }
        net.drain();
        prop_assert_eq!(before, (state(&net), net.events.clone()));
    }

    /// The same from somebody who knows the realm key: no panic, no answer longer than the question, bounded state.
    #[test]
    fn mutated_datagrams_with_a_right_mac_never_panic(choice in any::<usize>(), at in 0usize..1200, flip in any::<u8>(), cut in any::<usize>(), kind in 0u8..8) {
        let (mut net, seen) = busy();
        let mut bytes = seen[choice % seen.len()].clone();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        if cut % 3 == 0 {
            bytes.truncate(HEADER_LEN.max(cut % bytes.len()).min(bytes.len()));
        }
        if bytes.len() >= HEADER_LEN && cut % 5 == 0 {
            bytes[6] = kind;
        }
        for end in 0..2 {
            let now = net.now;
            if bytes.len() >= HEADER_LEN && bytes[0] == 0x90 {
                net.ends[end].mac.sign(&mut bytes);
            }
            feed(&mut net.ends[end], &mut bytes.clone(), now);
            net.ends[end].handle_timeout(now + Duration::from_secs(30), START);
            prop_assert!(net.ends[end].incoming.is_empty() && net.ends[end].half_open == 0);
        }
    }
}
