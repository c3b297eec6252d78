use super::*;

fn moved(events: &[ShardEvent]) -> Vec<Path> {
    events.iter().filter_map(|event| if let ShardEvent::Moved { from, .. } = event { Some(*from) } else { None }).collect()
}

#[test]
fn the_first_opened_packet_confirms_a_session_once() {
    let (mut a, mut b) = pair();
    for n in 0..3 {
        let datagram = a.sent(&a_to_b(n), ms(1)).1;
        b.open(path(1), &datagram, ms(1));
        let confirmed = b.events().contains(&ShardEvent::Confirmed { session: SessionId(16) });
        assert_eq!(confirmed, n == 0);
    }
}

#[test]
fn only_a_new_highest_counter_from_another_path_is_a_candidate() {
    let (mut a, mut b) = pair();
    let datagrams: Vec<_> = (0..6).map(|n| a.sent(&a_to_b(n), ms(1)).1).collect();
    b.open(path(1), &datagrams[2], ms(1));
    b.open(path(2), &datagrams[1], ms(1));
    assert_eq!(moved(&b.events()), [], "an older packet by another path says nothing");
    b.open(path(2), &datagrams[2], ms(1));
    assert_eq!(moved(&b.events()), [], "a copied packet says nothing");
    b.open(path(2), &datagrams[3], ms(1));
    assert_eq!(moved(&b.events()), [path(2)]);
    b.open(path(3), &datagrams[4], ms(2));
    assert_eq!(moved(&b.events()), [], "not again so soon");
    b.open(path(3), &datagrams[5], ms(1) + MOVED_INTERVAL);
    assert_eq!(moved(&b.events()), [path(3)]);
}

#[test]
fn traffic_is_told_once_in_100_ms_and_nothing_of_it_is_lost() {
    let (mut a, mut b) = pair();
    let (mut events, mut sent, mut received) = (0, 0, 0);
    let packet = a_to_b(1);
    for n in 0..1_000 {
        let datagram = a.sent(&packet, ms(n)).1;
        b.open(path(1), &datagram, ms(n));
        for event in a.events() {
            if let ShardEvent::Activity { session: SessionId(16), tx_bytes, rx_bytes: 0 } = event {
                sent += tx_bytes;
                events += 1;
            }
        }
        received += activity(&mut b).0;
    }
    a.shards[0].tell_activity(ms(2_000));
    b.shards[0].tell_activity(ms(2_000));
    sent += activity(&mut a).1;
    received += activity(&mut b).0;
    assert_eq!(events, 10);
    assert_eq!((sent, received), (1_000 * packet.len() as u64, 1_000 * packet.len() as u64));
    a.shards[0].tell_activity(ms(3_000));
    assert_eq!(a.events(), [], "no news, no event");
}

fn activity(host: &mut Host) -> (u64, u64) {
    host.events().iter().fold((0, 0), |(rx, tx), event| match event {
        ShardEvent::Activity { rx_bytes, tx_bytes, .. } => (rx + rx_bytes, tx + tx_bytes),
        _ => (rx, tx),
    })
}

#[test]
fn a_lost_hint_comes_again_and_a_barrier_is_never_lost() {
    let (mut a, mut b) = pair();
    while b.shards[0].hints.push(ShardEvent::RekeyDue { session: SessionId(1) }) {}
    while a.shards[0].hints.push(ShardEvent::RekeyDue { session: SessionId(1) }) {}
    a.session(0, 16).sender.set_counter(0, REKEY_PACKETS - 1);
    let datagram = a.sent(&a_to_b(1), ms(1)).1;
    b.open(path(2), &datagram, ms(1));
    b.apply(TableUpdate::Barrier(77), ms(1));
    let events = b.events();
    assert_eq!(events.len(), MAX_HINTS + 1);
    assert_eq!(events.last(), Some(&ShardEvent::Applied(77)));
    assert!(!a.events().contains(&ShardEvent::RekeyDue { session: SessionId(16) }));

    let datagram = a.sent(&a_to_b(1), ms(200)).1;
    b.open(path(2), &datagram, ms(200));
    let events = b.events();
    assert!(events.contains(&ShardEvent::Confirmed { session: SessionId(16) }), "{events:?}");
    assert!(events.contains(&ShardEvent::Moved { session: SessionId(16), from: path(2) }), "{events:?}");
    let bytes = 2 * a_to_b(1).len() as u64;
    assert!(events.contains(&ShardEvent::Activity { session: SessionId(16), rx_bytes: bytes, tx_bytes: 0 }), "{events:?}");
    assert!(a.events().contains(&ShardEvent::RekeyDue { session: SessionId(16) }));
}

#[test]
fn a_session_removed_with_news_leaves_none_to_its_successor() {
    let (mut a, mut b) = pair();
    a.sent(&a_to_b(1), ms(0));
    a.sent(&a_to_b(1), ms(1));
    a.events();
    a.apply(TableUpdate::Remove(Removal::Session(SessionId(16))), ms(1));
    connect(&mut a, &mut b, 17, Cipher::Aes256Gcm, ms(1));
    a.shards[0].tell_activity(ms(500));
    assert_eq!(a.events(), []);
    a.sent(&a_to_b(1), ms(600));
    let bytes = a_to_b(1).len() as u64;
    assert_eq!(a.events(), [ShardEvent::Activity { session: SessionId(17), rx_bytes: 0, tx_bytes: bytes }]);
}
