use super::testing::{Lie, Member, Net, WALL};
use super::*;
use crate::group::Roles;
use crate::shard::table::Prefix;

const HOUR: Duration = Duration::from_secs(3_600);

fn free(name: &str) -> Key {
    Key::parse(format!("x/{name}").as_bytes()).expect("free")
}

fn create(key: &Key, value: &'static str) -> Operation {
    Operation::Create { key: key.clone(), value: Bytes::from_static(value.as_bytes()), lifetime: HOUR, keep: false }
}

fn put(key: &Key, value: &'static str, keep: bool) -> Operation {
    Operation::Put { key: key.clone(), value: Bytes::from_static(value.as_bytes()), lifetime: HOUR, keep }
}

fn get(key: &Key) -> Operation {
    Operation::Get { key: key.clone() }
}

fn stored(result: Option<&Result<Outcome, DhtError>>) -> Bundle {
    match result {
        Some(Ok(Outcome::Stored(bundle) | Outcome::Found(bundle))) => bundle.clone(),
        other => panic!("not stored: {other:?}"),
    }
}

fn is_conflict(result: Option<&Result<Outcome, DhtError>>) -> bool {
    matches!(result, Some(Err(DhtError::Conflict(_))))
}

/// The key of the host's first address candidate.
fn lease_key(net: &Net, host: usize) -> Key {
    let networks = Networks { ipv4: testing::config().ipv4_network, ipv6: testing::config().ipv6_network };
    Key::address(networks.candidate(&net.hosts[host].identity.node_id(), 0).expect("IPv4").into())
}

#[test]
fn rings_of_every_small_size_create_read_and_refuse_a_second_owner() {
    for size in [1u64, 2, 3, 4, 5, 6, 12, 40] {
        let mut net = Net::new(size);
        let key = free("one");
        let (first, last) = (0, size as usize - 1);
        net.start(first, 1, create(&key, "mine"));
        net.run(5);
        let bundle = stored(net.result(first, 1));
        assert!(bundle.grants.len() >= ring::majority(size.min(5) as usize), "{size}: {} grants", bundle.grants.len());
        net.start(last, 2, get(&key));
        net.run(5);
        assert_eq!(stored(net.result(last, 2)).record, bundle.record, "size {size}");
        if size > 1 {
            net.start(last, 3, create(&key, "no, mine"));
            net.run(5);
            assert!(is_conflict(net.result(last, 3)), "size {size}: {:?}", net.result(last, 3));
        }
        net.start(last, 4, get(&free("nothing")));
        net.run(9);
        assert_eq!(net.result(last, 4), Some(&Ok(Outcome::Absent)), "size {size}");
    }
}

#[test]
fn of_competing_creators_exactly_one_wins() {
    for (size, creators) in [(2, 2), (3, 3), (8, 2), (8, 5), (30, 9)] {
        for name in ["a", "b", "c", "d"] {
            let mut net = Net::new(size);
            let key = free(name);
            for host in 0..creators {
                net.start(host, 1, create(&key, "mine"));
                net.run_for(Duration::from_millis(7));
            }
            net.run(40);
            let winners: Vec<usize> = (0..creators).filter(|&host| matches!(net.result(host, 1), Some(Ok(_)))).collect();
            assert_eq!(winners.len(), 1, "{size} nodes, {creators} creators, key {name}: {winners:?}");
            let losers = (0..creators).filter(|&host| is_conflict(net.result(host, 1))).count();
            assert_eq!(losers, creators - 1);
            for replica in net.replicas(&key, 0) {
                assert!(net.hosts[replica].dht.store.promised(&key, net.now).is_none(), "a vote stayed bound");
            }
        }
    }
}

#[test]
fn after_any_four_of_five_replicas_are_lost_a_competing_create_fails() {
    for survivor in 0..5 {
        let mut net = Net::new(30);
        let key = free("precious");
        let owner = (0..30).find(|host| !net.replicas(&key, 0).contains(host)).expect("five of thirty");
        net.start(owner, 1, create(&key, "mine"));
        net.run(5);
        let replicas = net.replicas(&key, 0);
        for (i, &replica) in replicas.iter().enumerate() {
            if i != survivor {
                net.kill(replica);
            }
        }
        let rival = (0..30).find(|host| !replicas.contains(host) && *host != owner).expect("others live");
        // At once: before anybody has noticed, and again right after the ring has closed.
        net.start(rival, 2, create(&key, "no, mine"));
        net.run_for(Duration::from_millis(50));
        net.reform();
        net.start(rival, 3, create(&key, "no, mine"));
        net.run(60);
        for op in [2, 3] {
            assert!(!matches!(net.result(rival, op), Some(Ok(_))), "survivor {survivor}, op {op}: {:?}", net.result(rival, op));
        }
        net.start(rival, 4, get(&key));
        net.run(10);
        assert_eq!(stored(net.result(rival, 4)).record.owner, net.hosts[owner].identity.node_id());
        let holders =
            net.replicas(&key, 0).into_iter().filter(|&host| net.hosts[host].dht.store.live(&key, net.wall(host)).is_some()).count();
        assert_eq!(holders, 5, "handed over to all new replicas");
    }
}

#[test]
fn one_honest_replica_outweighs_four_that_say_nothing_is_there() {
    let mut net = Net::new(30);
    let key = free("precious");
    net.start(0, 1, create(&key, "mine"));
    net.run(5);
    let replicas = net.replicas(&key, 0);
    for &liar in &replicas[..4] {
        net.hosts[liar].lie = Some(Lie::Nothing);
    }
    let reader = (0..30).find(|host| !replicas.contains(host)).expect("five of thirty");
    net.start(reader, 2, get(&key));
    net.run(12);
    assert_eq!(stored(net.result(reader, 2)).record.value, Bytes::from_static(b"mine"));
}

#[test]
fn records_with_another_owner_than_their_signer_are_no_answer() {
    let mut net = Net::new(12);
    let key = free("precious");
    net.start(0, 1, create(&key, "mine"));
    net.run(5);
    let replicas = net.replicas(&key, 0);
    for &liar in &replicas[..2] {
        net.hosts[liar].lie = Some(Lie::Forges);
    }
    for reader in 0..12 {
        net.start(reader, 2, get(&key));
    }
    net.run(12);
    for reader in 0..12 {
        assert_eq!(stored(net.result(reader, 2)).record.owner, net.hosts[0].identity.node_id());
    }
}

#[test]
fn a_minority_of_lying_replicas_makes_nobody_an_owner() {
    let mut net = Net::new(20);
    let owner = 3;
    let key = lease_key(&net, owner);
    net.start(owner, 1, create(&key, ""));
    net.run(5);
    let owned = stored(net.result(owner, 1));
    let replicas = net.replicas(&key, 0);
    // Two replicas sign whatever they are shown, and a third node far away does as well.
    let far = (0..20).rev().find(|host| !replicas.contains(host) && *host != owner).expect("others");
    let rival = (0..20).find(|host| !replicas.contains(host) && ![owner, far].contains(host)).expect("others");
    let theirs = free("theirs");
    for &liar in &net.replicas(&theirs, 0)[..2] {
        net.hosts[liar].lie = Some(Lie::GrantsAll);
    }
    // A node for which the address is no candidate gets nothing, whoever signs.
    for signers in [&replicas[..5], &[rival, far, replicas[0]][..]] {
        let forged = net.forge(rival, &key, u64::MAX / 2, signers);
        let from = net.hosts[rival].identity.node_id();
        net.start(far, 9, Operation::Verify { bundle: forged.clone(), from, certificates: Vec::new() });
        net.start(far, 10, Operation::Store { bundle: forged });
        net.run(40);
        assert_eq!(net.result(far, 9), Some(&Err(DhtError::Refused(Refusal::Forbidden))));
        assert!(matches!(net.result(far, 10), Some(Err(_))));
    }
    net.start(far, 2, get(&key));
    net.run(10);
    assert_eq!(stored(net.result(far, 2)).record, owned.record);
    // The owner itself is believed only with enough grants.
    let alone = net.forge(owner, &key, u64::MAX / 2, &[owner]);
    let from = net.hosts[owner].identity.node_id();
    net.start(far, 3, Operation::Verify { bundle: alone, from, certificates: Vec::new() });
    net.start(far, 4, Operation::Verify { bundle: owned, from, certificates: Vec::new() });
    net.run(5);
    assert_eq!(net.result(far, 3), Some(&Err(DhtError::Refused(Refusal::Unverified))));
    assert!(matches!(net.result(far, 4), Some(Ok(Outcome::Found(_)))));
    // Two liars of five: a free key that is owned stays its owner's.
    net.start(owner, 5, create(&theirs, "mine"));
    net.run(10);
    net.start(rival, 6, create(&theirs, "no, mine"));
    net.run(40);
    assert!(is_conflict(net.result(rival, 6)), "{:?}", net.result(rival, 6));
}

#[test]
fn a_tombstone_removes_and_frees_the_key_and_no_replay_brings_it_back() {
    let mut net = Net::new(10);
    let key = free("given up");
    net.start(0, 1, create(&key, "mine"));
    net.run(5);
    let old = stored(net.result(0, 1));
    net.start(0, 2, Operation::Remove { key: key.clone() });
    net.run(5);
    assert_eq!(net.result(0, 2), Some(&Ok(Outcome::Removed)));
    net.start(1, 3, get(&key));
    net.run(12);
    assert_eq!(net.result(1, 3), Some(&Ok(Outcome::Absent)));
    net.start(2, 4, Operation::Store { bundle: old.clone() });
    net.run(40);
    assert!(matches!(net.result(2, 4), Some(Err(DhtError::Refused(Refusal::Stale)))), "{:?}", net.result(2, 4));
    net.start(1, 5, create(&key, "now mine"));
    net.run(5);
    assert_eq!(stored(net.result(1, 5)).record.owner, net.hosts[1].identity.node_id());
    net.start(2, 6, Operation::Store { bundle: old });
    net.run(40);
    net.start(2, 7, get(&key));
    net.run(12);
    assert_eq!(stored(net.result(2, 7)).record.value, Bytes::from_static(b"now mine"));
}

#[test]
fn what_is_not_renewed_expires_and_what_is_kept_stays() {
    let mut net = Net::new(8);
    let (brief, kept) = (free("brief"), free("kept"));
    net.start(0, 1, put(&brief, "a", false));
    net.start(0, 2, put(&kept, "b", true));
    net.run(3 * 3_600);
    net.start(1, 3, get(&brief));
    net.start(1, 4, get(&kept));
    net.run(12);
    assert_eq!(net.result(1, 3), Some(&Ok(Outcome::Absent)));
    assert_eq!(stored(net.result(1, 4)).record.value, Bytes::from_static(b"b"));
    assert!(net.hosts.iter().map(|host| host.dht.stored()).sum::<usize>() <= 5, "expired records are gone from memory");
    let renewals = net.hosts[0].done.iter().filter(|(op, _)| *op == OpId(2)).count();
    assert!((5..=8).contains(&renewals), "{renewals} writes in three lifetimes");
}

#[test]
fn one_node_and_one_user_may_store_so_much_and_no_more() {
    let mut net = Net::new(1);
    for i in 0..=store::QUOTA_NODE {
        net.start(0, u64::from(i), put(&free(&format!("k{i}")), "v", false));
    }
    net.run(60);
    assert_eq!(net.hosts[0].dht.stored(), store::QUOTA_NODE as usize);
    assert_eq!(net.result(0, u64::from(store::QUOTA_NODE)), Some(&Err(DhtError::Refused(Refusal::Quota))));
    let per_user = store::QUOTA_USER / store::QUOTA_NODE;
    let members = (0..u64::from(per_user) + 1).map(|i| Member { user: "same".into(), ..Member::new(i) }).collect();
    let mut net = Net::of(members);
    for host in 0..=per_user as usize {
        for i in 0..store::QUOTA_NODE {
            net.start(host, u64::from(i), put(&free(&format!("h{host}k{i}")), "v", false));
            net.run_for(Duration::from_millis(200));
        }
    }
    net.run(60);
    for host in &net.hosts {
        assert_eq!(host.dht.stored(), store::QUOTA_USER as usize);
    }
}

#[test]
fn name_spaces_are_enforced_by_every_storing_node() {
    let admin = Member { roles: Roles::MEMBER.with(Roles::ADMIN), ..Member::new(0) };
    let fixed = Prefix::host([10, 200, 9, 9].into());
    let mut net = Net::of(vec![admin, Member::new(1), Member { addresses: vec![fixed], ..Member::new(2) }, Member::new(3), Member::new(4)]);
    let ids: Vec<NodeId> = net.hosts.iter().map(|host| host.identity.node_id()).collect();
    let cases = [
        (0, Key::parse(b"g/policy"), true),
        (1, Key::parse(b"g/policy2"), false),
        (1, Key::name("HOST1"), true),
        (1, Key::name("host2"), false),
        (1, Key::node(&ids[1], "k"), true),
        (1, Key::node(&ids[2], "k"), false),
        (1, Key::slot("printers", &ids[1]), true),
        (1, Key::slot("printers", &ids[2]), false),
        (1, Key::slot("gateway", &ids[1]), false),
        (2, Some(Key::address(fixed.address)), true),
        (1, Some(Key::address(fixed.address)), false),
        (1, Some(Key::address([192, 0, 2, 1].into())), false),
    ];
    for (i, (host, key, allowed)) in cases.into_iter().enumerate() {
        let key = key.expect("well formed");
        net.start(host, 100 + i as u64, put(&key, "v", false));
        net.run(5);
        let result = net.result(host, 100 + i as u64);
        assert_eq!(matches!(result, Some(Ok(_))), allowed, "{key:?} by {host}: {result:?}");
        if !allowed {
            // Not only the writer refuses: a bundle that it signs none the less is refused by the replicas.
            let bundle = net.forge(host, &key, 1, &[]);
            net.start(host, 200 + i as u64, Operation::Store { bundle });
            net.run(40);
            assert_eq!(net.result(host, 200 + i as u64), Some(&Err(DhtError::Refused(Refusal::Forbidden))), "{key:?}");
        }
    }
}

#[test]
fn a_newcomer_grants_nothing_before_it_has_what_its_neighbours_have() {
    let mut net = Net::new(4);
    for i in 0..40 {
        net.start(0, i, create(&free(&format!("k{i}")), "mine"));
        net.run_for(Duration::from_millis(300));
    }
    net.add(&Member::new(99));
    let newcomer = 4;
    assert!(!net.hosts[newcomer].dht.is_synced());
    let view = net.view(newcomer);
    net.with(newcomer, |dht, at| dht.ring_changed(&view, at));
    assert!(!net.hosts[newcomer].dht.is_synced(), "neighbours are known, nothing is handed over yet");
    net.reform();
    net.run(5);
    assert!(net.hosts[newcomer].dht.is_synced());
    assert_eq!(net.hosts[newcomer].dht.stored(), 40);
}

#[test]
fn who_leaves_hands_over_to_the_next_replica() {
    let mut net = Net::new(12);
    let key = free("moving");
    net.start(0, 1, create(&key, "mine"));
    net.run(5);
    let leaver = net.replicas(&key, 0)[0];
    net.with(leaver, |dht, at| dht.leave(at));
    net.run(2);
    assert!(net.hosts[leaver].dht.has_left());
    net.kill(leaver);
    for replica in net.replicas(&key, 0) {
        assert!(net.hosts[replica].dht.store.live(&key, net.wall(replica)).is_some());
    }
}

#[test]
fn a_read_repairs_a_replica_that_lacks_the_record() {
    let mut net = Net::new(12);
    let key = free("holey");
    net.start(0, 1, create(&key, "mine"));
    net.run(5);
    let hole = net.replicas(&key, 0)[2];
    net.hosts[hole].dht.store = Store::default();
    let reader = (0..12).find(|host| !net.replicas(&key, 0).contains(host)).expect("others");
    // The reader may end before the hole has answered; with one read after the other it is found.
    for op in 10..20 {
        net.start(reader, op, get(&key));
        net.run(2);
    }
    assert!(net.hosts[hole].dht.store.live(&key, net.wall(hole)).is_some());
}

#[test]
fn merged_rings_agree_on_one_owner_and_the_other_is_told() {
    for (left, right) in [(5, 5), (1, 6), (3, 9)] {
        let mut net = Net::new(left + right);
        let ring_of = |host: usize| u8::from(host as u64 >= left);
        for host in 0..net.hosts.len() {
            net.rings[host] = ring_of(host);
        }
        net.reform();
        net.run(5);
        let key = free("claimed twice");
        let kept = Operation::Create { key: key.clone(), value: Bytes::new(), lifetime: HOUR, keep: true };
        let (a, b) = (0, left as usize);
        // The lone node's clock is behind: that must not make it the elder.
        if left == 1 {
            net.hosts[a].clock_offset = -1_000;
        }
        net.start(a, 1, kept.clone());
        net.run(10);
        net.start(b, 2, kept);
        net.run(10);
        net.rings.fill(0);
        net.reform();
        net.run(20);
        let lost: Vec<usize> =
            [(a, 1), (b, 2)].into_iter().filter(|&(host, op)| is_conflict(net.result(host, op))).map(|(host, _)| host).collect();
        let winner = if left == 5 { a } else { b };
        assert_eq!(lost, [a + b - winner], "{left} and {right}");
        for reader in 0..net.hosts.len() {
            net.start(reader, 50, get(&key));
        }
        net.run(12);
        for reader in 0..net.hosts.len() {
            let owner = stored(net.result(reader, 50)).record.owner;
            assert_eq!(
                owner,
                net.hosts[winner].identity.node_id(),
                "{left} and {right}: reader {reader}, holders {:?}",
                net.replicas(&key, 0)
                    .iter()
                    .map(|&h| (
                        h,
                        net.hosts[h].dht.store.live(&key, net.wall(h)).map(|j| (
                            j.record().owner,
                            j.record().sequence,
                            j.claim.countersigners
                        ))
                    ))
                    .collect::<Vec<_>>()
            );
        }
    }
}

#[test]
fn a_lone_node_whose_clock_is_a_year_behind_wins_nothing() {
    let mut net = Net::new(7);
    net.rings = vec![1, 0, 0, 0, 0, 0, 0];
    net.hosts[0].clock_offset = -365 * 24 * 3_600;
    net.reform();
    let key = free("claimed twice");
    let kept = Operation::Create { key: key.clone(), value: Bytes::new(), lifetime: HOUR, keep: true };
    net.start(0, 1, kept.clone());
    net.start(1, 2, kept);
    net.run(10);
    let own = stored(net.result(0, 1));
    net.rings.fill(0);
    net.reform();
    net.run(60);
    assert!(matches!(net.result(0, 1), Some(Err(_))), "its renewal in the larger ring fails");
    net.start(0, 3, Operation::Store { bundle: own });
    net.run(40);
    for reader in 1..7 {
        net.start(reader, 50, get(&key));
    }
    net.run(12);
    for reader in 1..7 {
        assert_eq!(stored(net.result(reader, 50)).record.owner, net.hosts[1].identity.node_id());
    }
}

#[test]
fn a_node_outside_a_consistent_ring_creates_nothing() {
    let mut net = Net::new(3);
    let view = RingView { consistent: false, ..net.view(0) };
    net.with(0, |dht, at| dht.ring_changed(&view, at));
    net.start(0, 1, create(&free("k"), "mine"));
    net.run(40);
    assert!(matches!(net.result(0, 1), Some(Err(_))));
}

#[test]
fn a_lease_made_alone_is_signed_anew_when_the_ring_grows() {
    let mut net = Net::new(1);
    let key = lease_key(&net, 0);
    net.start(0, 1, Operation::Create { key: key.clone(), value: Bytes::new(), lifetime: HOUR, keep: true });
    net.run(5);
    let first = stored(net.result(0, 1));
    assert_eq!(first.grants.len(), 1);
    for i in 1..6 {
        net.add(&Member::new(i));
    }
    net.reform();
    net.run(10);
    net.start(5, 2, get(&key));
    net.run(12);
    let now = stored(net.result(5, 2));
    assert!(now.grants.len() >= 3 && now.record.sequence > first.record.sequence);
    let oldest = now.grants.iter().map(|grant| grant.since).min();
    assert_eq!(oldest, first.grants.iter().map(|grant| grant.since).min(), "who knew the owner before says since when");
}

#[test]
fn a_certificate_that_does_not_travel_along_is_fetched() {
    let mut net = Net::new(9);
    let key = free("k");
    net.start(0, 1, create(&key, "mine"));
    net.run(5);
    for host in 1..9 {
        net.hosts[host].dht.certificates = Certificates::default();
        let certificate = net.hosts[host].identity.certificate().clone();
        net.hosts[host].dht.certificates.insert(certificate);
    }
    let owner = net.hosts[0].identity.clone();
    let bundle = stored(net.result(0, 1));
    net.start(3, 2, Operation::Verify { bundle, from: owner.node_id(), certificates: Vec::new() });
    net.run(5);
    assert!(matches!(net.result(3, 2), Some(Ok(Outcome::Found(found))) if found.grants.len() >= 3));
}

#[test]
fn requests_that_are_not_well_formed_are_answered_with_an_error() {
    let mut net = Net::new(1);
    for method in 0x20..0x40u8 {
        for body in [&b""[..], &b"\x05x/abc"[..], &[0xff; 700][..]] {
            let trust = testing::trust();
            let at = At { trust: &trust, now: net.now, wall: WALL };
            net.hosts[0].dht.handle_request(NodeId([1; 20]), method, body, ReplyTo::new(NodeId([1; 20]), 1), at);
            let mut replies = 0;
            while let Some(action) = net.hosts[0].dht.poll_action() {
                replies += u32::from(matches!(action, DhtAction::Reply { .. }));
            }
            assert_eq!(replies, 1, "method {method:#x}");
        }
    }
}

#[test]
fn the_same_inputs_give_the_same_outputs() {
    let run = || {
        let mut net = Net::new(10);
        for host in 0..10 {
            net.start(host, 1, create(&free("k"), "mine"));
        }
        net.run(40);
        let results: Vec<String> = net.hosts.iter().map(|host| format!("{:?}", host.done)).collect();
        (results, net.requests, net.now)
    };
    assert_eq!(run(), run());
}
