use std::collections::BTreeSet;

use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, SlicedPacket, TransportSlice, icmpv4, icmpv6};

use super::*;
use crate::dht::testing::{Member, Net, config};
use crate::io::Punt;

fn udp(source: IpAddr, destination: IpAddr, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match (source, destination) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            PacketBuilder::ipv4(a.octets(), b.octets(), 60).udp(1, 2).write(&mut out, payload).expect("writes")
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            PacketBuilder::ipv6(a.octets(), b.octets(), 60).udp(1, 2).write(&mut out, payload).expect("writes")
        }
        _ => panic!("families differ"),
    }
    out
}

fn address(net: &Net, host: usize, v4: bool) -> IpAddr {
    let addresses = net.hosts[host].vpn.as_ref().expect("has one").addresses();
    *addresses.iter().find(|address| address.is_ipv4() == v4).unwrap_or_else(|| panic!("host {host} has {addresses:?}"))
}

fn send(net: &mut Net, from: usize, to: usize, v4: bool, payload: &[u8]) {
    let packet = udp(address(net, from, v4), address(net, to, v4), payload);
    net.host_sends(from, &packet);
}

fn delivered(net: &Net, host: usize) -> Vec<Bytes> {
    net.hosts[host]
        .told
        .iter()
        .filter_map(|told| if let VpnAction::Deliver { packet } = told { Some(packet.clone()) } else { None })
        .collect()
}

fn resolved(net: &Net, host: usize, token: u64) -> Option<(NodeId, Vec<IpAddr>)> {
    let answer = |told: &VpnAction| {
        if let VpnAction::Resolved { token: other, node } = told { (*other == token).then(|| node.clone()) } else { None }
    };
    net.hosts[host].told.iter().find_map(answer).expect("answered")
}

#[test]
fn every_node_gets_a_lease_of_its_own_and_says_so() {
    for size in [1u64, 2, 3, 12] {
        let net = Net::new(size).with_vpns();
        let mut seen = BTreeSet::new();
        for host in 0..size as usize {
            let leased = address(&net, host, true);
            assert!(seen.insert(leased), "{leased} twice");
            let told = net.hosts[host].told.iter().rev().find_map(|told| {
                if let VpnAction::Addresses { addresses, hosts } = told { Some((addresses.clone(), hosts.clone())) } else { None }
            });
            let (addresses, hosts) = told.expect("told");
            assert_eq!(hosts, [address(&net, host, false), leased]);
            assert_eq!(addresses.iter().map(|prefix| prefix.len).collect::<Vec<_>>(), [64, 16]);
        }
    }
}

#[test]
fn packets_wait_for_address_and_session_and_are_sent_in_order() {
    let mut net = Net::new(8).with_vpns();
    for v4 in [true, false] {
        let before = net.hosts[5].received.len();
        for i in 0..4 {
            send(&mut net, 0, 5, v4, &[i]);
            net.run_for(Duration::from_micros(100));
        }
        net.run(3);
        let got: Vec<u8> = net.hosts[5].received[before..].iter().map(|(_, packet)| packet[packet.len() - 1]).collect();
        assert_eq!(got, [0, 1, 2, 3], "IPv4: {v4}");
        assert_eq!(net.hosts[5].spoofed, 0, "the lease was shown before the first packet");
        // The answer needs nothing more than the session that is there.
        send(&mut net, 5, 0, v4, b"back");
        net.run(3);
        assert_eq!(net.hosts[0].received.len(), if v4 { 1 } else { 2 });
        assert_eq!(net.hosts[0].spoofed, 0);
    }
    assert!(delivered(&net, 0).is_empty());
}

#[test]
fn both_sides_may_begin_at_once() {
    let mut net = Net::new(6).with_vpns();
    send(&mut net, 1, 2, true, b"there");
    send(&mut net, 2, 1, true, b"back");
    net.run(4);
    assert_eq!((net.hosts[1].received.len(), net.hosts[2].received.len()), (1, 1));
}

#[test]
fn the_host_is_told_when_nobody_has_the_address() {
    let mut net = Net::new(8).with_vpns();
    let networks = Networks { ipv4: config().ipv4_network, ipv6: config().ipv6_network };
    for nobody in [IpAddr::from([10, 200, 77, 77]), IpAddr::V6(networks.ipv6_of(&NodeId([0x77; 20])))] {
        let before = delivered(&net, 0).len();
        let packet = udp(address(&net, 0, nobody.is_ipv4()), nobody, b"hello?");
        net.host_sends(0, &packet);
        net.run(8);
        let told = delivered(&net, 0);
        assert_eq!(told.len(), before + 1, "{nobody}");
        let sliced = SlicedPacket::from_ip(&told[before]).expect("valid");
        match sliced.transport {
            Some(TransportSlice::Icmpv4(icmp)) => {
                assert_eq!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Host));
            }
            Some(TransportSlice::Icmpv6(icmp)) => {
                assert_eq!(icmp.icmp_type(), Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Address));
            }
            other => panic!("{other:?}"),
        }
        assert!(told[before].ends_with(&packet), "it quotes the packet");
    }
}

#[test]
fn a_member_that_cannot_be_reached_is_unreachable_within_the_time_limit_and_at_once_afterwards() {
    let mut net = Net::new(8).with_vpns();
    net.hosts[3].deaf = true;
    send(&mut net, 0, 3, true, b"hello?");
    net.run(2);
    assert!(delivered(&net, 0).is_empty(), "it still waits");
    net.run(9);
    assert_eq!(delivered(&net, 0).len(), 1);
    send(&mut net, 0, 3, true, b"hello?");
    assert_eq!(delivered(&net, 0).len(), 2, "at once");
    net.hosts[3].deaf = false;
    net.run(6);
    send(&mut net, 0, 3, true, b"hello!");
    net.run(3);
    assert_eq!(net.hosts[3].received.len(), 1, "and reachable again later");
}

#[test]
fn errors_are_few_and_never_about_errors_or_many() {
    let mut net = Net::new(1).with_vpns();
    let own = address(&net, 0, true);
    let nobody = IpAddr::from([10, 200, 77, 77]);
    net.host_sends(0, &udp(own, nobody, b"x"));
    net.run(15);
    let before = delivered(&net, 0).len();
    net.host_sends(0, &udp(own, nobody, b"x"));
    net.run(12);
    for _ in 0..100 {
        net.host_sends(0, &udp(own, nobody, b"x"));
        net.run_for(Duration::from_millis(1));
    }
    net.run(3);
    let told = delivered(&net, 0).len() - before;
    assert!((1..=12).contains(&told), "{told} errors");
    let error = delivered(&net, 0)[0].clone();
    for many in ["224.0.0.1", "10.200.255.255", "255.255.255.255", "169.254.3.3"] {
        let before = delivered(&net, 0).len();
        net.host_sends(0, &udp(own, many.parse().expect("valid"), b"x"));
        net.run(5);
        assert_eq!(delivered(&net, 0).len(), before, "{many}");
    }
    // An ICMP error that the host itself sends to nobody.
    let mut to_nobody = error.to_vec();
    to_nobody[12..16].copy_from_slice(&[10, 200, 1, 1]);
    to_nobody[16..20].copy_from_slice(&[10, 200, 88, 88]);
    let before = delivered(&net, 0).len();
    net.host_sends(0, &to_nobody);
    net.run(20);
    assert_eq!(delivered(&net, 0).len(), before);
}

#[test]
fn the_pool_keeps_its_bound_whatever_the_host_sends() {
    let mut net = Net::new(3).with_vpns();
    let own = address(&net, 0, true);
    for i in 0..2_000u32 {
        let [_, _, a, b] = i.to_be_bytes();
        let packet = udp(own, IpAddr::from([10, 200, 100 + a, b]), &[0; 1_000]);
        net.vpn(0, |vpn, at| vpn.handle_packet(Punt::NoAddress, &packet, at));
    }
    let vpn = net.hosts[0].vpn.as_ref().expect("has one");
    assert!(vpn.pool.len() <= pool::MAX_WAITING && vpn.lookups.len() <= MAX_LOOKUPS);
    assert!(vpn.stats().drops(DropReason::QueueFull) > 1_000);
    net.run(60);
    let vpn = net.hosts[0].vpn.as_ref().expect("has one");
    assert!(vpn.pool.is_empty() && vpn.lookups.is_empty() && vpn.owners.len() <= MAX_KNOWN_OWNERS);
}

#[test]
fn a_packet_that_is_too_big_is_answered_with_the_way_s_mtu() {
    let mut net = Net::new(3).with_vpns();
    for v4 in [true, false] {
        send(&mut net, 0, 1, v4, b"hello");
    }
    net.run(3);
    let node = net.hosts[1].identity.node_id();
    net.vpn(0, |vpn, _| vpn.set_mtu(node, 1_300));
    for v4 in [true, false] {
        let before = delivered(&net, 0).len();
        let packet = udp(address(&net, 0, v4), address(&net, 1, v4), &[0; 1_340]);
        net.vpn(0, |vpn, at| vpn.handle_packet(Punt::TooBig, &packet, at));
        let told = delivered(&net, 0);
        assert_eq!(told.len(), before + 1);
        match SlicedPacket::from_ip(&told[before]).expect("valid").transport {
            Some(TransportSlice::Icmpv4(icmp)) => assert_eq!(
                icmp.icmp_type(),
                Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1_300 })
            ),
            Some(TransportSlice::Icmpv6(icmp)) => assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: 1_300 }),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_address_of_the_certificate_needs_no_lease_and_is_found_by_others() {
    let fixed: IpAddr = [10, 200, 9, 9].into();
    let mut members: Vec<Member> = (0..7).map(Member::new).collect();
    members[2].addresses = vec![Prefix::host(fixed)];
    let mut net = Net::of(members).with_vpns();
    assert_eq!(address(&net, 2, true), fixed);
    assert!(net.hosts[2].stored_lease.is_none());
    send(&mut net, 5, 2, true, b"hello");
    net.run(4);
    assert_eq!(net.hosts[2].received.len(), 1);
    send(&mut net, 2, 5, true, b"back");
    net.run(4);
    assert_eq!(net.hosts[5].received.len(), 1);
    assert_eq!((net.hosts[2].spoofed, net.hosts[5].spoofed), (0, 0));
}

#[test]
fn names_addresses_and_ids_are_resolved() {
    let mut net = Net::new(9).with_vpns();
    let (id, v4, v6) = (net.hosts[6].identity.node_id(), address(&net, 6, true), address(&net, 6, false));
    let questions = [
        "host6".to_owned(),
        "HOST6".into(),
        v4.to_string(),
        v6.to_string(),
        id.to_string(),
        "nobody".into(),
        "10.200.66.66".into(),
        "no/name".into(),
    ];
    for (token, question) in questions.iter().enumerate() {
        // A node that has seen none of them before.
        let asker = token % 5;
        net.vpn(asker, |vpn, at| vpn.resolve(token as u64, question, at));
        net.run(12);
        let answer = resolved(&net, asker, token as u64);
        if token < 5 {
            let (node, addresses) = answer.unwrap_or_else(|| panic!("{question} has no answer"));
            assert_eq!(node, id, "{question}");
            assert!(addresses.contains(&v6), "{question}: {addresses:?}");
            assert!(addresses.contains(&v4) || matches!(token, 3 | 4), "{question}: {addresses:?}");
        } else {
            assert_eq!(answer, None, "{question}");
        }
    }
    net.vpn(6, |vpn, at| vpn.resolve(99, "host6", at));
    assert_eq!(resolved(&net, 6, 99), Some((id, vec![v6, v4])), "itself");
}

#[test]
fn the_list_of_hosts_has_who_was_met_and_the_node_itself() {
    let mut net = Net::new(5).with_vpns();
    send(&mut net, 0, 3, true, b"hello");
    net.run(3);
    let hosts = net.hosts[0].vpn.as_ref().expect("has one").hosts();
    assert_eq!(hosts[0].name, "host0");
    let met = hosts.iter().find(|host| host.name == "host3").expect("met");
    assert_eq!(met.addresses, [address(&net, 3, false), address(&net, 3, true)]);
    assert!(met.connected && met.user == "user3");
    let node = net.hosts[3].identity.node_id();
    net.vpn(0, |vpn, _| vpn.session_down(node));
    let hosts = net.hosts[0].vpn.as_ref().expect("has one").hosts();
    assert!(hosts.iter().any(|host| host.name == "host3" && !host.connected));
}

#[test]
fn without_a_session_nothing_is_routed_or_accepted_and_the_next_packet_asks_for_one() {
    let mut net = Net::new(5).with_vpns();
    send(&mut net, 0, 3, true, b"one");
    net.run(3);
    let nodes = [net.hosts[0].identity.node_id(), net.hosts[3].identity.node_id()];
    net.vpn(0, |vpn, _| vpn.session_down(nodes[1]));
    net.vpn(3, |vpn, _| vpn.session_down(nodes[0]));
    assert!(net.hosts[0].routes.is_empty() && net.hosts[0].sources.is_empty() && net.hosts[3].sources.is_empty());
    send(&mut net, 0, 3, true, b"two");
    net.run(3);
    assert_eq!((net.hosts[3].received.len(), net.hosts[3].spoofed), (2, 0));
}

#[test]
fn after_a_restart_the_same_address_is_used_at_once_and_leased_again() {
    let mut net = Net::new(6).with_vpns();
    let before = address(&net, 2, true);
    net.hosts[2].told.clear();
    net.add_vpn(2);
    assert!(net.hosts[2].told.iter().any(|told| matches!(told, VpnAction::Addresses { hosts, .. } if hosts.contains(&before))), "at once");
    net.run(20);
    assert_eq!(address(&net, 2, true), before);
    assert!(net.hosts[2].told.iter().any(|told| matches!(told, VpnAction::Lease(_))), "leased again");
}

#[test]
fn leases_survive_the_restart_of_the_whole_group() {
    let net = Net::new(6).with_vpns();
    let before: Vec<IpAddr> = (0..6).map(|host| address(&net, host, true)).collect();
    let since = |lease: &Option<Bytes>| {
        let bundle = crate::wire::dht::Bundle::parse(lease.as_ref().expect("stored")).expect("ours");
        bundle.grants.iter().map(|grant| grant.since).min()
    };
    let old: Vec<_> = net.hosts.iter().map(|host| since(&host.stored_lease)).collect();
    let leases: Vec<_> = net.hosts.iter().map(|host| host.stored_lease.clone()).collect();
    let now = net.now;
    let mut net = Net::new(6);
    net.now = now + Duration::from_secs(600);
    net.reform();
    for (host, lease) in leases.into_iter().enumerate() {
        net.hosts[host].stored_lease = lease;
    }
    let mut net = net.with_vpns();
    net.run(10);
    assert_eq!((0..6).map(|host| address(&net, host, true)).collect::<Vec<_>>(), before);
    let new: Vec<_> = net.hosts.iter().map(|host| since(&host.stored_lease)).collect();
    assert_eq!(new, old, "since when they have them was not forgotten");
}

#[test]
fn a_lease_that_is_not_ours_or_not_valid_is_not_restored() {
    let mut net = Net::new(3).with_vpns();
    let theirs = net.hosts[1].stored_lease.clone().expect("leased");
    let own = net.hosts[0].stored_lease.clone().expect("leased");
    net.hosts[0].vpn = None;
    let identity = net.hosts[0].identity.clone();
    for (bytes, wall) in [(theirs, 0u64), (own, 3 * 24 * 3_600), (Bytes::from_static(b"junk"), 0)] {
        let mut vpn = Vpn::new(&config(), identity.clone(), Rng::new([1; 32]), net.now);
        let trust = crate::dht::testing::trust();
        vpn.restore_lease(&bytes, At { trust: &trust, now: net.now, wall: net.wall(0).plus_secs(wall) });
        assert!(vpn.addresses().iter().all(IpAddr::is_ipv6));
    }
}

#[test]
fn a_claim_that_does_not_verify_gives_no_source() {
    let mut net = Net::new(8).with_vpns();
    send(&mut net, 0, 1, false, b"a session");
    net.run(2);
    // Host 0 shows a lease of host 2's address that it signed itself, with grants of its friends.
    let victim = address(&net, 2, true);
    let forged = net.forge(0, &Key::address(victim), u64::MAX / 2, &[0, 3, 4, 5]);
    let body = crate::wire::dht::Offer::body(&forged, &[net.hosts[0].identity.certificate().der().clone()]);
    let from = net.hosts[0].identity.node_id();
    let point = net.hosts[1].identity.node_id();
    net.announce(0, point, body);
    net.run(5);
    assert!(!net.hosts[1].sources.contains(&(Prefix::host(victim), from)));
    // Nor does a lease of its own candidate without enough grants.
    let networks = Networks { ipv4: config().ipv4_network, ipv6: config().ipv6_network };
    let own: IpAddr = networks.candidate(&from, 9).expect("IPv4").into();
    for (signers, enough) in [(&[0usize, 3][..], false), (&[0, 3, 4][..], true)] {
        let lease = net.forge(0, &Key::address(own), 5, signers);
        let body = crate::wire::dht::Offer::body(&lease, &[net.hosts[0].identity.certificate().der().clone()]);
        net.announce(0, point, body);
        net.run(5);
        assert_eq!(net.hosts[1].sources.contains(&(Prefix::host(own), from)), enough);
    }
}

#[test]
fn after_a_merge_every_address_has_one_owner_and_who_lost_one_moved_and_said_so() {
    // 14 usable addresses: six nodes here and six there take some of them twice.
    let small = Config { ipv4_network: Some(Prefix::new([10, 200, 0, 0].into(), 28)), ..config() };
    let mut net = Net::with_config((0..12).map(Member::new).collect(), small);
    net.rings = vec![0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1];
    net.reform();
    let mut net = net.with_vpns();
    let leased = |net: &Net| (0..12).map(|host| address(net, host, true)).collect::<Vec<IpAddr>>();
    let before = leased(&net);
    let twice: Vec<usize> = (0..6).filter(|host| before[6..].contains(&before[*host])).collect();
    assert!(!twice.is_empty() && before[..6].iter().collect::<BTreeSet<_>>().len() == 6, "the test needs a conflict: {before:?}");
    net.rings.fill(0);
    net.reform();
    net.run(60);
    let after = leased(&net);
    assert_eq!(after.iter().collect::<BTreeSet<_>>().len(), 12, "{after:?}");
    let mut moved = 0;
    for host in 0..12 {
        let told = &net.hosts[host].told;
        let lost = told.iter().any(|told| matches!(told, VpnAction::LeaseLost { address, .. } if *address == before[host]));
        assert_eq!(lost, before[host] != after[host], "host {host}");
        let last =
            told.iter().rev().find_map(|told| if let VpnAction::Addresses { hosts, .. } = told { Some(hosts.clone()) } else { None });
        assert!(last.expect("told").contains(&after[host]));
        moved += usize::from(lost);
    }
    assert_eq!(moved, twice.len(), "exactly one of each two moves");
    for from in 0..12 {
        for to in (0..12).filter(|to| *to != from) {
            send(&mut net, from, to, true, b"hello");
        }
    }
    net.run(10);
    for host in 0..12 {
        assert_eq!((net.hosts[host].received.len(), net.hosts[host].spoofed), (11, 0), "host {host}");
    }
}
