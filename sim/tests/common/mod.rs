//! Worlds that several tests begin with.

use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;

use annulus_sim::core::rng::Rng;
use annulus_sim::net::{Latency, Network};
use annulus_sim::scenario::{Group, master};
use annulus_sim::world::{HostId, World};

/// A world of `nodes` members that all begin with host 0, after they have joined and have addresses.
pub(crate) fn joined(nodes: u32, network: Network) -> (World, Group, Vec<Ipv6Addr>) {
    let rng: Rng = master(11);
    let mut world = World::new(network, &rng);
    let mut group = Group::new(&rng).expect("a group can be made");
    for id in 0..nodes {
        let bootstrap = if id == 0 { Vec::new() } else { vec![World::address_of(0)] };
        let start = world.now();
        let host = group.host(id, group.config(bootstrap), start).expect("a member can be made");
        world.add(host, start);
    }
    world.run(Duration::from_secs(10));
    let addresses = (0..nodes).map(|id| ipv6_of(&world, id)).collect();
    world.take_delivered();
    (world, group, addresses)
}

/// A network that loses nothing, 20 ms one way.
pub(crate) fn quiet() -> Network {
    Network { latency: Latency::Constant { ms: 20 }, ..Network::default() }
}

/// The IPv6 address of a member in the VPN.
pub(crate) fn ipv6_of(world: &World, id: HostId) -> Ipv6Addr {
    let addresses = world.hosts()[id as usize].node().status(world.now()).addresses;
    let found = addresses.into_iter().find_map(|address| if let IpAddr::V6(v6) = address { Some(v6) } else { None });
    found.expect("every member has an IPv6 address")
}
