//! Rings in virtual time: they form, route and repair themselves, and a run replays.

use annulus_sim::scenario::{Crypto, Report, Scenario};

fn ring_1000() -> Scenario {
    Scenario::parse(include_str!("../scenarios/ring-1000.toml")).expect("a valid scenario")
}

fn small(nodes: u32) -> Scenario {
    Scenario {
        name: format!("ring-{nodes}"),
        nodes,
        contacts: nodes.saturating_sub(1).clamp(1, 3),
        crash_percent: 0,
        crypto: Crypto::StandIn,
        ..ring_1000()
    }
}

fn run(scenario: &Scenario, seed: u64) -> Report {
    scenario.run(seed, &|| 0.0, &mut |_| {}).expect("a group can be made")
}

#[test]
fn rings_of_few_nodes_form_and_everybody_reaches_everybody() {
    for nodes in [1, 2, 3, 4, 5, 9, 17, 64] {
        for seed in 1..=3 {
            let report = run(&small(nodes), seed);
            assert!(report.ring_correct && report.stalls == 0, "{nodes} nodes, seed {seed}: {report:?}");
            assert!((report.reachable - 1.0).abs() < f64::EPSILON, "{nodes} nodes, seed {seed}: {report:?}");
        }
    }
}

#[test]
fn one_contact_is_enough_to_join() {
    for seed in 1..=3 {
        let report = run(&Scenario { contacts: 1, nodes: 12, time_limit_s: 200, ..small(12) }, seed);
        // One random contact each may leave islands that cannot know of each other; whoever can know is in the ring.
        assert!(report.stalls == 0 && report.reachable > 0.0, "seed {seed}: {report:?}");
    }
}

#[test]
fn one_seed_gives_one_trace_and_another_seed_another() {
    let scenario = small(24);
    assert_eq!(run(&scenario, 5), run(&scenario, 5));
    assert_ne!(run(&scenario, 5).trace_hash, run(&scenario, 6).trace_hash);
}

#[test]
fn real_and_stand_in_crypto_give_the_same_events_in_the_same_order() {
    let stand_in = Scenario { nodes: 100, ..ring_1000() };
    let real = Scenario { crypto: Crypto::Real, ..stand_in.clone() };
    assert_eq!(run(&stand_in, 3), run(&real, 3));
}

#[test]
fn a_thousand_nodes_form_a_ring_and_survive_the_loss_of_a_tenth() {
    let report = run(&ring_1000(), 7);
    assert!(report.ring_correct && report.stalls == 0, "{report:?}");
    assert!((report.reachable - 1.0).abs() < f64::EPSILON, "{report:?}");
    insta::assert_snapshot!(format!(
        "nodes {}\nalive {}\nformed after {:.1} s\nrepaired after {:.1} s\nmean hops {:.3}\nmost hops {}",
        report.nodes,
        report.alive,
        report.formed_s.unwrap_or(f64::NAN),
        report.repaired_s.unwrap_or(f64::NAN),
        report.mean_hops,
        report.max_hops
    ));
}
