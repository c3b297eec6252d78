//! IP over simulated rings: nothing is lost, doubled or changed while keys are renewed, hosts move and neighbours die.

mod common;

use core::net::{Ipv6Addr, SocketAddr};
use core::time::Duration;

use annulus_sim::core::events::{Command, Event};
use annulus_sim::core::rng::Rng;
use annulus_sim::core::time::UnixTime;
use annulus_sim::net::Network;
use annulus_sim::scenario::{Group, master};
use annulus_sim::world::{HostId, WALL_START, World};
use common::{joined, quiet};

/// An IPv6 packet with a UDP datagram (checksum left to the reader: hosts are not asked to check it) that carries `number`.
fn packet(from: Ipv6Addr, to: Ipv6Addr, number: u32) -> Vec<u8> {
    let payload = number.to_be_bytes();
    let len = 8 + payload.len() as u16;
    let mut out = vec![0x60, 0, 0, 0];
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&[17, 64]);
    out.extend_from_slice(&from.octets());
    out.extend_from_slice(&to.octets());
    out.extend_from_slice(&[0x10, 0, 0x20, 0]);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&payload);
    out
}

fn numbers(delivered: &[(HostId, Vec<u8>)], host: HostId) -> Vec<u32> {
    delivered
        .iter()
        .filter(|(to, _)| *to == host)
        .filter_map(|(_, bytes)| bytes.last_chunk::<4>().map(|last| u32::from_be_bytes(*last)))
        .collect()
}

/// Sends a packet from 0 to 1 every `gap` for `count` packets and returns what arrived.
fn flow(world: &mut World, addresses: &[Ipv6Addr], count: u32, gap: Duration) -> Vec<u32> {
    for number in 0..count {
        world.packet(0, &packet(addresses[0], addresses[1], number));
        world.run(gap);
    }
    world.run(Duration::from_secs(2));
    numbers(&world.take_delivered(), 1)
}

#[test]
fn packets_flow_for_half_an_hour_through_many_rekeys_without_loss() {
    let (mut world, _, addresses) = joined(3, quiet());
    let arrived = flow(&mut world, &addresses, 18_000, Duration::from_millis(100));
    assert_eq!(arrived, (0..18_000).collect::<Vec<_>>());
}

#[test]
fn a_sparse_flow_is_delivered_although_its_keys_end_in_between() {
    let (mut world, _, addresses) = joined(3, quiet());
    let arrived = flow(&mut world, &addresses, 20, Duration::from_secs(400));
    assert!(arrived.len() >= 19, "{arrived:?}");
    assert!(arrived.windows(2).all(|pair| pair[0] < pair[1]), "{arrived:?}");
}

#[test]
fn loss_reordering_and_duplication_of_the_network_show_but_nothing_arrives_twice() {
    let network = Network { loss_permille: 50, duplicate_permille: 50, reorder_permille: 100, jitter_ms: 60, ..quiet() };
    let (mut world, _, addresses) = joined(3, network);
    let mut arrived = flow(&mut world, &addresses, 5_000, Duration::from_millis(20));
    let count = arrived.len();
    arrived.sort_unstable();
    arrived.dedup();
    assert_eq!(arrived.len(), count, "a packet arrived twice");
    assert!((4_600..=4_900).contains(&count), "{count} of 5000 arrived at 5 % loss");
}

#[test]
fn a_host_that_roams_keeps_its_session_and_its_flow() {
    let (mut world, _, addresses) = joined(3, quiet());
    assert_eq!(flow(&mut world, &addresses, 50, Duration::from_millis(50)).len(), 50);
    world.take_events();
    world.roam(0, SocketAddr::from(([9, 9, 9, 9], 999)));
    let arrived = flow(&mut world, &addresses, 200, Duration::from_millis(50));
    assert_eq!(arrived.len(), 200, "what the roaming host sends arrives at once: its session is known");
    assert!(!world.take_events().iter().any(|(_, event)| matches!(event, Event::PeerDown { .. })), "no session was lost");
    world.packet(1, &packet(addresses[1], addresses[0], 7));
    world.run(Duration::from_secs(1));
    assert_eq!(numbers(&world.take_delivered(), 0), [7], "and it is reached at its new address");
}

#[test]
fn a_clock_set_back_or_forward_within_the_certificate_changes_nothing() {
    let (mut world, _, addresses) = joined(3, quiet());
    for wall in [UnixTime(1_000), WALL_START.plus_secs(20 * 24 * 3600), WALL_START] {
        world.command(0, Command::WallClock(wall));
        world.run(Duration::from_secs(5));
        assert_eq!(flow(&mut world, &addresses, 20, Duration::from_millis(50)).len(), 20, "at {wall}");
    }
}

#[test]
fn a_certificate_that_ends_ends_its_sessions_and_both_sides_say_so() {
    let rng = master(12);
    let mut world = World::new(quiet(), &rng);
    let mut group = Group::new(&rng).expect("a group can be made");
    let start = world.now();
    let first = group.host(0, group.config(Vec::new()), start).expect("a member can be made");
    world.add(first, start);
    let brief = group.identity_with("brief", 60).expect("a member can be made");
    let config = group.config(vec![World::address_of(0)]);
    let second = group.host_as(1, brief, config, start).expect("a member can be made");
    world.add(second, start);
    world.run(Duration::from_secs(10));
    assert!(world.hosts().iter().all(|host| host.node().is_joined()));
    world.take_events();
    world.run(Duration::from_secs(120));
    let events = world.take_events();
    let refused = |host: HostId, ours: bool| {
        events.iter().any(|(id, event)| *id == host && matches!(event, Event::Refused { ours: told, .. } if *told == ours))
    };
    assert!(refused(0, false), "the member notes whom it refuses: {events:?}");
    assert!(refused(1, true), "the refused one is told: {events:?}");
    assert!(events.iter().any(|(id, event)| *id == 0 && matches!(event, Event::PeerDown { .. })));
}

#[test]
fn strangers_get_silence_and_the_member_notes_them() {
    let (mut world, _, _) = joined(2, quiet());
    world.take_events();
    let before = world.events();
    let mut rng = Rng::new([5; 32]);
    let stranger = SocketAddr::from(([8, 8, 8, 8], 53));
    for first in [0x90, 0xa0, 0xb0, 0xc0, 0x00, 0xff] {
        for len in [1usize, 28, 29, 64, 1_200, 1_400] {
            let mut datagram = vec![0; len];
            datagram.iter_mut().for_each(|byte| *byte = rng.next_u32() as u8);
            datagram[0] = first;
            world.inject(stranger, World::address_of(1), &datagram);
        }
    }
    world.run(Duration::from_millis(1));
    assert!(world.events() > before);
    assert!(world.take_events().iter().any(|(id, event)| *id == 1 && matches!(event, Event::Strangers { from, .. } if *from == stranger)));
    assert_eq!(world.undeliverable(), 0, "nothing was sent to the stranger");
}
