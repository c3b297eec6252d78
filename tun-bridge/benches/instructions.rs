//! What `scripts/instructions` counts: each phase sends batches through the whole path without a system call. Under callgrind only what is called inside
//! [`counted`] is collected, and each phase ends with a dump named by [`phase`]; run alone, it only proves that all packets arrive.

mod common;

use common::{Load, World};

/// Batches of each phase.
const BATCHES: usize = 100;

/// Collection is on inside.
#[inline(never)]
fn counted(world: &mut World, side: fn(&mut World)) {
    side(std::hint::black_box(world));
}

/// Callgrind writes what was collected since the phase before when this returns.
#[inline(never)]
fn phase(name: &str, packets: usize) {
    report(name, packets);
}

#[allow(clippy::print_stdout)]
fn report(name: &str, packets: usize) {
    println!("{} {packets}", std::hint::black_box(name));
}

fn main() {
    let mut world = World::new();
    for (load, name) in [(Load::Bulk, "bulk"), (Load::Small, "small"), (Load::ManyFlows, "flows"), (Load::Alone, "alone")] {
        // The first batches fill tables and caches of their own.
        for _ in 0..4 {
            run(&mut world, load, World::seal, World::open, World::pass);
        }
        let packets = BATCHES * load.packets();
        for _ in 0..BATCHES {
            run(&mut world, load, |world| counted(world, World::seal), World::open, World::pass);
        }
        phase(&format!("{name}-seal"), packets);
        for _ in 0..BATCHES {
            run(&mut world, load, World::seal, |world| counted(world, World::open), World::pass);
        }
        phase(&format!("{name}-open"), packets);
        for _ in 0..BATCHES {
            run(&mut world, load, World::seal, World::open, |world| counted(world, World::pass));
        }
        phase(&format!("{name}-relay"), packets);
    }
}

/// One batch from the near host to the far one and the same through the relay.
fn run(world: &mut World, load: Load, seal: fn(&mut World), open: fn(&mut World), pass: fn(&mut World)) {
    world.load(load);
    seal(world);
    assert_eq!(world.datagrams()[0], load.packets(), "each packet is sealed and sent");
    world.carry_to_relay();
    pass(world);
    assert_eq!(world.datagrams()[1], load.packets(), "each datagram is passed on");
    world.carry();
    open(world);
    assert_eq!(world.far.wire.written.0, load.packets(), "each packet arrives");
    assert!(load != Load::Bulk || world.far.wire.written.1 == 1, "what was one super-packet is one again");
}
