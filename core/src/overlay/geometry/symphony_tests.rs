use super::*;
use crate::overlay::known::Known;
use crate::rng::Rng;
use crate::shard::table::PeerId;
use crate::time::Instant;
use proptest::prelude::*;

/// The tables of a right ring of random nodes: near links and some random long ones, with look-ahead.
fn ring(count: usize, long: usize, seed: u8) -> Vec<(NodeId, Vec<Link>)> {
    let mut rng = Rng::new([seed; 32]);
    let mut ids: Vec<NodeId> = (0..count).map(|_| NodeId(rng.bytes())).collect();
    ids.sort_unstable();
    let mut links: Vec<Vec<usize>> = vec![Vec::new(); count];
    let mut join = |a: usize, b: usize| {
        if a != b && !links[a].contains(&b) {
            links[a].push(b);
            links[b].push(a);
        }
    };
    for index in 0..count {
        for step in 1..=NEAR_PER_SIDE.min(count - 1) {
            join(index, (index + step) % count);
        }
        for _ in 0..long {
            let prefix = harmonic(count as u64, &mut rng);
            let point = ids[index].plus(&Distance::from_prefix(prefix));
            let place = ids.partition_point(|id| *id < point) % count;
            join(index, place);
        }
    }
    let prefix = |index: usize| (ids[index].prefix() >> 32) as u32;
    (0..count)
        .map(|index| {
            let mut table: Vec<Link> = links[index]
                .iter()
                .map(|&other| {
                    let mut link = Link::new(PeerId(other as u32), ids[other], Instant::ZERO);
                    link.joined = true;
                    link.prefixes = links[other].iter().map(|&further| prefix(further)).collect();
                    link.reported = Some((ids[(other + count - 1) % count], ids[(other + 1) % count]));
                    link
                })
                .collect();
            table.sort_unstable_by_key(|link| link.node);
            (ids[index], table)
        })
        .collect()
}

fn view(node: &(NodeId, Vec<Link>)) -> View<'_> {
    View { local: node.0, joined: true, links: &node.1, known: &[] }
}

/// Routes one message; who delivers it, and after how many hops at most. Panics when it goes in a circle or back.
fn route(ring: &[(NodeId, Vec<Link>)], from: usize, target: &NodeId, mode: RouteMode) -> (Vec<usize>, usize) {
    let source = Some(ring[from].0);
    let mut delivered = Vec::new();
    let mut longest = 0;
    let mut ways = vec![(from, mode, None, 0)];
    while let Some((at, mode, sender, hops)) = ways.pop() {
        assert!(hops <= ring.len(), "a circle");
        longest = longest.max(hops);
        let avoid = if hops == 0 { [None, None] } else { [sender, source] };
        let step = Symphony.step(&view(&ring[at]), target, mode, avoid);
        if step.deliver {
            delivered.push(at);
        }
        if let Some((index, mode)) = step.next {
            let next = ring[at].1[index].node;
            assert!(Some(next) != sender, "back to the sender");
            let place = ring.iter().position(|(id, _)| *id == next).expect("a node of the ring");
            ways.push((place, mode, Some(ring[at].0), hops + 1));
        }
    }
    delivered.sort_unstable();
    (delivered, longest)
}

#[test]
fn every_pair_is_routed_in_few_hops_in_rings_of_all_sizes() {
    for count in [1, 2, 3, 5, 9, 10, 50, 200] {
        let ring = ring(count, if count > 10 { 4 } else { 0 }, count as u8);
        let (mut total, mut pairs) = (0, 0);
        for from in 0..count {
            for to in 0..count {
                let (delivered, hops) = route(&ring, from, &ring[to].0, RouteMode::Exact);
                assert_eq!(delivered, [to]);
                (total, pairs) = (total + hops, pairs + 1);
            }
        }
        eprintln!("{count} nodes: {:.2} hops", total as f64 / pairs as f64);
        assert!(total <= 3 * pairs);
    }
}

#[test]
fn a_thousand_nodes_need_three_and_a_half_hops_with_look_ahead() {
    let ring = ring(1000, 5, 1);
    let mut rng = Rng::new([2; 32]);
    let mut total = 0;
    for _ in 0..2000 {
        let (from, to) = (rng.below(1000) as usize, rng.below(1000) as usize);
        let (delivered, hops) = route(&ring, from, &ring[to].0, RouteMode::Exact);
        assert_eq!(delivered, [to]);
        total += hops;
    }
    let mean = total as f64 / 2000.0;
    eprintln!("1000 nodes, 5 long links each: {mean:.2} hops");
    assert!(mean < 3.6, "{mean}");
}

#[test]
fn long_links_are_drawn_evenly_over_the_octaves() {
    let mut rng = Rng::new([4; 32]);
    let (size, draws) = (1024u64, 20_000);
    let mut octaves = [0u32; 9];
    for _ in 0..draws {
        let distance = harmonic(size, &mut rng);
        assert!(distance >= u64::MAX / size && distance < 1 << 63);
        octaves[(distance.leading_zeros() - 1) as usize] += 1;
    }
    for (octave, &count) in octaves.iter().enumerate() {
        assert!((1950..2500).contains(&count), "octave {octave}: {octaves:?}");
    }
    // Within an octave density falls as 1/x: log2(1.5) = 58.5 % of it lie below one and a half times its beginning.
    let lower = (0..draws).map(|_| harmonic(size, &mut rng)).map(|distance| distance << distance.leading_zeros());
    let lower = lower.filter(|mantissa| mantissa >> 62 == 2).count();
    assert!((11_400..12_000).contains(&lower), "{lower} of {draws}");
}

#[test]
fn a_range_is_split_so_that_a_broadcast_reaches_everybody_exactly_once() {
    for count in [1, 2, 3, 10, 100, 300] {
        let ring = ring(count, 5, count as u8);
        let mut reached = vec![0; count];
        let mut messages = 0;
        let whole = Range { start: ring[0].0, end: ring[0].0 };
        let mut work = vec![(0, whole)];
        while let Some((at, range)) = work.pop() {
            reached[at] += 1;
            let mut parts = Vec::new();
            Symphony.split(&view(&ring[at]), range, &mut parts);
            for (index, part) in parts {
                let next = ring.iter().position(|(id, _)| *id == ring[at].1[index].node).expect("a node of the ring");
                messages += 1;
                work.push((next, part));
            }
        }
        assert!(reached.iter().all(|&times| times == 1), "{count}: {reached:?}");
        assert_eq!(messages, count - 1);
    }
}

#[test]
fn neighbours_agree_on_who_is_responsible() {
    let ring = ring(50, 3, 3);
    let mut rng = Rng::new([5; 32]);
    for _ in 0..200 {
        let point = NodeId(rng.bytes());
        let responsible: Vec<usize> = (0..50).filter(|&at| Symphony.is_responsible(&view(&ring[at]), &point)).collect();
        let mut order: Vec<usize> = (0..50).collect();
        order.sort_by(|&a, &b| point.closer(&ring[a].0, &ring[b].0));
        assert_eq!(responsible, order[..1]);
        let mut set = Vec::new();
        Symphony.responsible_set(&view(&ring[order[0]]), &point, 3, &mut set);
        assert_eq!(set, order[..3].iter().map(|&at| ring[at].0).collect::<Vec<_>>());
    }
}

#[test]
fn a_position_is_consistent_when_both_neighbours_name_us_and_nobody_stands_between() {
    let mut ring = ring(20, 0, 6);
    for node in &ring {
        assert!(Symphony.is_consistent(&view(node)));
    }
    let local = ring[7].0;
    let stranger = local.plus(&Distance::from_prefix(1));
    let next = ring[8].0;
    let link = ring[7].1.iter_mut().find(|link| link.node == next).expect("the successor is linked");
    link.reported = Some((stranger, link.reported.expect("reported").1));
    assert!(!Symphony.is_consistent(&view(&ring[7])));
    assert!(!Symphony.is_consistent(&View { local, joined: true, links: &[], known: &[] }));
}

proptest! {
    #[test]
    fn whatever_links_nodes_have_no_message_goes_in_a_circle_or_back(
        ids in proptest::collection::vec(any::<[u8; 20]>(), 2..20), edges in proptest::collection::vec((any::<u8>(), any::<u8>(), any::<bool>(), any::<[u32; 3]>()), 0..60),
        target in any::<[u8; 20]>(), from in any::<prop::sample::Index>(), mode in 0usize..7, joined in any::<bool>(), sender in any::<prop::sample::Index>()) {
        let mut ids: Vec<NodeId> = ids.into_iter().map(NodeId).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut tables: Vec<Vec<Link>> = vec![Vec::new(); ids.len()];
        for (a, b, link_joined, prefixes) in edges {
            let (a, b) = (usize::from(a) % ids.len(), usize::from(b) % ids.len());
            if a != b && !tables[a].iter().any(|link| link.node == ids[b]) {
                let mut link = Link::new(PeerId(b as u32), ids[b], Instant::ZERO);
                link.joined = link_joined;
                link.prefixes = Box::new(prefixes);
                tables[a].push(link);
            }
        }
        for table in &mut tables {
            table.sort_unstable_by_key(|link| link.node);
        }
        use RouteMode::{After, Before, Bracket, Clockwise, Closest, CounterClockwise, Exact};
        let mode = [Exact, Closest, Bracket, Before, After, Clockwise, CounterClockwise][mode];
        let start = from.index(ids.len());
        let target = if mode.is_directional() { ids[start] } else { NodeId(target) };
        let source = ids[sender.index(ids.len())];
        let known: [Known; 0] = [];
        let (mut at, mut mode, mut hops, mut previous) = (start, mode, 0, None);
        loop {
            let view = View { local: ids[at], joined, links: &tables[at], known: &known };
            let step = Symphony.step(&view, &target, mode, [previous, Some(source)]);
            let Some((index, next_mode)) = step.next else { break };
            let next = tables[at][index].node;
            prop_assert!(Some(next) != previous && next != source);
            previous = Some(ids[at]);
            at = ids.binary_search(&next).expect("a node");
            mode = next_mode;
            hops += 1;
            prop_assert!(hops <= 2 * ids.len(), "a circle");
        }
    }
}
