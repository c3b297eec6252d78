//! Routing modes, requests, traces, cut messages, links on demand, and nodes that lie.

use core::net::SocketAddr;
use core::time::Duration;

use bytes::Bytes;

use super::Net;
use crate::id::NodeId;
use crate::io::{Candidates, DropReason};
use crate::overlay::{HOP_LIMIT, Mode, OverlayAction, RequestError, Roles};
use crate::shard::table::PeerId;
use crate::wire::overlay::{Entry, METHOD_ECHO, METHOD_NEIGHBOURS, Status};
use crate::wire::routed::{Content, Part, RouteMode, RoutedHeader};
use crate::wire::rpc::{ERROR_BUSY, ERROR_NO_HANDLER, Request};

const METHOD: u8 = 0x21;

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn right_ring(seed: u8, count: usize) -> Net {
    let mut net = Net::new(seed);
    net.add_many(count, 3);
    net.run_until_right(secs(60));
    net.run(secs(40));
    for index in 0..count {
        net.take_actions(index);
    }
    net
}

/// Answers all waiting requests with the node's own ID; who was asked, and how often.
fn answer_requests(net: &mut Net) -> Vec<usize> {
    let mut asked = Vec::new();
    for index in net.living() {
        for action in net.take_actions(index) {
            match action {
                OverlayAction::Request { method, body, reply, .. } => {
                    assert_eq!((method, &body[..]), (METHOD, &b"question"[..]));
                    asked.push(index);
                    let id = net.nodes[index].id;
                    net.with(index, |overlay, now| overlay.reply(reply, Ok(Bytes::copy_from_slice(&id.0)), now));
                }
                other => net.nodes[index].actions.push(other),
            }
        }
    }
    asked
}

fn replies(net: &mut Net, index: usize) -> Vec<Result<Bytes, RequestError>> {
    let actions = net.take_actions(index);
    actions
        .into_iter()
        .filter_map(|action| match action {
            OverlayAction::Reply { body, .. } => Some(body),
            _ => None,
        })
        .collect()
}

fn ask(net: &mut Net, from: usize, to: NodeId, mode: Mode) -> (Vec<usize>, Vec<Result<Bytes, RequestError>>) {
    net.with(from, |overlay, now| overlay.request(to, mode, METHOD, Bytes::from_static(b"question"), now));
    let mut asked = Vec::new();
    for _ in 0..70 {
        net.run(Duration::from_millis(100));
        asked.extend(answer_requests(net));
    }
    asked.sort_unstable();
    (asked, replies(net, from))
}

#[test]
fn a_request_reaches_whom_its_mode_names_and_each_answers_once() {
    let mut net = right_ring(31, 40);
    let order = net.sorted();
    net.loss = 50;
    net.duplication = 200;
    for round in 0..8usize {
        let from = order[round * 5];
        let point = NodeId([(round * 31) as u8; 20]);
        let behind = order.iter().position(|&index| net.nodes[index].id > point).unwrap_or(0);
        let (before, after) = (order[(behind + order.len() - 1) % order.len()], order[behind]);
        let closest = if point.closer(&net.nodes[before].id, &net.nodes[after].id).is_lt() { before } else { after };
        let (asked, answers) = ask(&mut net, from, point, Mode::Closest);
        assert_eq!(asked, [closest]);
        assert_eq!(answers, [Ok(Bytes::copy_from_slice(&net.nodes[closest].id.0))]);
        let (asked, answers) = ask(&mut net, from, point, Mode::Bracket);
        let mut both = [before, after];
        both.sort_unstable();
        // One of two answers may be lost for good: nobody asks again once somebody has answered.
        assert!(asked.iter().all(|index| both.contains(index)) && !asked.is_empty() && asked.len() <= 2, "{asked:?} of {both:?}");
        assert!(!answers.is_empty());
        let target = order[(round * 7 + 3) % order.len()];
        let id = net.nodes[target].id;
        let (asked, answers) = ask(&mut net, from, id, Mode::Exact);
        assert_eq!((asked, answers), (vec![target], vec![Ok(Bytes::copy_from_slice(&id.0))]));
        for (clockwise, hops) in [(true, 1), (false, 3)] {
            let place = order.iter().position(|&index| index == from).expect("in the ring");
            let steps = usize::from(hops);
            let expected = order[if clockwise { place + steps } else { place + order.len() - steps } % order.len()];
            let (asked, _) = ask(&mut net, from, NodeId::default(), Mode::Directional { clockwise, hops });
            assert_eq!(asked, [expected]);
        }
    }
}

#[test]
fn without_loss_a_bracket_request_has_two_replies_and_a_lone_node_answers_itself() {
    let mut net = right_ring(32, 30);
    let (asked, answers) = ask(&mut net, 0, NodeId([77; 20]), Mode::Bracket);
    assert_eq!((asked.len(), answers.len()), (2, 2));
    let mut lone = right_ring(33, 1);
    let own = lone.nodes[0].id;
    for (mode, point) in [(Mode::Closest, NodeId([1; 20])), (Mode::Bracket, NodeId([1; 20])), (Mode::Exact, own)] {
        let (asked, answers) = ask(&mut lone, 0, point, mode);
        assert_eq!((asked, answers), (vec![0], vec![Ok(Bytes::copy_from_slice(&own.0))]));
    }
    let (asked, answers) = ask(&mut lone, 0, NodeId([1; 20]), Mode::Exact);
    assert_eq!((asked, answers), (vec![], vec![Err(RequestError::Unroutable)]));
}

#[test]
fn errors_come_back_and_silence_is_a_timeout_after_five_seconds() {
    let mut net = right_ring(34, 20);
    let id = net.nodes[9].id;
    net.with(0, |overlay, now| overlay.request(id, Mode::Exact, 0x77, Bytes::new(), now));
    net.run(secs(1));
    assert_eq!(replies(&mut net, 0), [Err(RequestError::Remote(ERROR_NO_HANDLER))]);
    net.with(0, |overlay, now| overlay.request(id, Mode::Exact, METHOD, Bytes::new(), now));
    net.run(secs(1));
    let Some(OverlayAction::Request { reply, .. }) = net.take_actions(9).pop() else { panic!("a request") };
    net.with(9, |overlay, now| overlay.reply(reply, Err(ERROR_BUSY), now));
    net.run(secs(1));
    assert_eq!(replies(&mut net, 0), [Err(RequestError::Remote(ERROR_BUSY))]);
    net.with(0, |overlay, now| overlay.request(NodeId([3; 20]), Mode::Exact, METHOD, Bytes::new(), now));
    net.run(Duration::from_millis(4600));
    assert_eq!(replies(&mut net, 0), []);
    net.run(Duration::from_millis(500));
    assert_eq!(replies(&mut net, 0), [Err(RequestError::Timeout)]);
    net.with(0, |overlay, now| overlay.request(id, Mode::Exact, METHOD, Bytes::from(vec![0; 5000]), now));
    assert_eq!(replies(&mut net, 0), [Err(RequestError::Unroutable)]);
}

#[test]
fn echo_and_neighbours_are_answered_by_the_overlay_itself() {
    let mut net = right_ring(35, 20);
    let id = net.nodes[9].id;
    net.with(0, |overlay, now| overlay.request(id, Mode::Exact, METHOD_ECHO, Bytes::from_static(b"ping"), now));
    net.run(secs(1));
    assert_eq!(replies(&mut net, 0), [Ok(Bytes::from_static(b"ping"))]);
    net.with(0, |overlay, now| overlay.request(id, Mode::Exact, METHOD_NEIGHBOURS, Bytes::new(), now));
    net.run(secs(1));
    let answer = replies(&mut net, 0).pop().expect("an answer").expect("no error");
    let status = Status::parse(&answer).expect("well formed");
    let view = net.nodes[9].overlay.view();
    assert_eq!(status.successors.iter().map(|entry| entry.node).collect::<Vec<_>>(), view.successors);
    assert!(status.joined && status.candidates[0] == Net::address(9));
}

#[test]
fn a_trace_names_each_node_on_the_way_and_ends_at_the_target() {
    let mut net = right_ring(36, 120);
    let mut longest = 0;
    for to in (1..120).step_by(7) {
        let id = net.nodes[to].id;
        net.with(0, |overlay, now| overlay.trace(id, now));
        net.run(secs(2));
        let mut hops = Vec::new();
        let mut done = false;
        for action in net.take_actions(0) {
            match action {
                OverlayAction::TraceHop { node, hops: count, reached, .. } => hops.push((count, node, reached)),
                OverlayAction::TraceDone { reached, .. } => done = reached,
                _ => {}
            }
        }
        assert!(done);
        hops.sort_unstable();
        longest = longest.max(hops.len());
        for (place, (count, node, reached)) in hops.iter().enumerate() {
            assert_eq!(usize::from(*count), place + 1);
            assert_eq!(*reached, *node == id);
        }
        assert_eq!(hops.last().map(|hop| hop.1), Some(id));
    }
    assert!(longest >= 2);
    net.with(0, |overlay, now| overlay.trace(NodeId([5; 20]), now));
    net.run(secs(6));
    assert!(net.take_actions(0).iter().any(|action| matches!(action, OverlayAction::TraceDone { reached: false, .. })));
}

#[test]
fn a_datagram_too_long_for_one_part_is_cut_once_and_joined_by_its_destination() {
    let mut net = right_ring(37, 40);
    let id = net.nodes[20].id;
    for len in [1, 1000, 1114, 1115, 1424, 2200] {
        let datagram: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
        let before = net.messages;
        net.with(3, |overlay, now| overlay.send_datagram(id, &datagram, now)).expect("routable");
        assert_eq!(net.messages - before, if len > crate::wire::routed::MAX_PART_LEN { 2 } else { 1 });
        net.run(secs(1));
        let from = net.nodes[3].id;
        assert_eq!(net.take_actions(20), [OverlayAction::Datagram { from, bytes: datagram }]);
    }
    let too_long = vec![0; crate::wire::routed::MAX_BODY_LEN + 1];
    assert_eq!(net.with(3, |overlay, now| overlay.send_datagram(id, &too_long, now)), Err(DropReason::TooBig));
}

#[test]
fn a_message_at_its_hop_limit_goes_no_further_and_garbage_changes_nothing() {
    let mut net = right_ring(38, 60);
    let neighbour = net.nodes[0].overlay.links(net.now).next().expect("linked").peer;
    let far = net.nodes.iter().map(|node| node.id).find(|id| net.nodes[0].overlay.link(id, net.now).is_none() && *id != net.nodes[0].id);
    let header = RoutedHeader {
        mode: RouteMode::Exact,
        trace: false,
        hops: HOP_LIMIT,
        limit: HOP_LIMIT,
        content: Content::Datagram,
        part: Part::Whole,
        source: NodeId([9; 20]),
        destination: far.expect("not everybody is linked"),
        agent: None,
    };
    let message = |header: &RoutedHeader, body: &[u8]| {
        let mut out = Vec::new();
        header.write(&mut out);
        out.extend_from_slice(body);
        out
    };
    let mut hand = |payload: Vec<u8>| net.with(0, |overlay, now| overlay.handle_message(neighbour, &payload, now));
    assert_eq!(hand(message(&header, b"x")), Err(DropReason::HopLimit));
    assert_eq!(hand(message(&RoutedHeader { hops: HOP_LIMIT - 1, ..header }, b"x")), Ok(()));
    assert_eq!(hand(vec![]), Err(DropReason::Malformed));
    assert_eq!(hand(vec![0x11; 30]), Err(DropReason::Malformed));
    assert_eq!(hand(vec![0x01]), Err(DropReason::UnknownType));
    let mut request = Vec::new();
    Request { id: 1, method: 0x01, body: b"garbage" }.write(&mut request);
    let own = net.nodes[0].id;
    let to_us = RoutedHeader { hops: 1, destination: own, content: Content::Request, ..header };
    let payload = message(&to_us, &request);
    let _ = net.with(0, |overlay, now| overlay.handle_message(neighbour, &payload, now));
    let from_us = message(&RoutedHeader { source: own, ..header }, b"x");
    assert_eq!(net.with(0, |overlay, now| overlay.handle_message(neighbour, &from_us, now)), Err(DropReason::NotOurs));
    net.run(secs(5));
    assert!(net.is_right());
}

#[test]
fn traffic_makes_a_direct_link_that_ends_after_five_quiet_minutes() {
    let mut net = right_ring(39, 80);
    let unlinked = (1..80).find(|&index| net.nodes[0].overlay.link(&net.nodes[index].id, net.now).is_none());
    let other = unlinked.expect("not everybody is linked");
    let id = net.nodes[other].id;
    net.with(0, |overlay, now| overlay.traffic(id, now));
    net.run(secs(1));
    let link = net.nodes[0].overlay.link(&id, net.now).expect("linked");
    assert!(link.roles.has(Roles::ON_DEMAND));
    for _ in 0..4 {
        net.run(secs(200));
        net.with(0, |overlay, now| overlay.traffic(id, now));
    }
    assert!(net.nodes[0].overlay.link(&id, net.now).is_some());
    net.run(secs(400));
    assert!(net.nodes[0].overlay.link(&id, net.now).is_none_or(|link| !link.roles.has(Roles::ON_DEMAND)));
    // A link that died while traffic wants it comes back by itself.
    net.with(0, |overlay, now| overlay.want_link(id, now));
    net.run(secs(1));
    net.with(0, |overlay, now| overlay.link_down(PeerId(other as u32), now));
    net.with(other, |overlay, now| overlay.link_down(PeerId(0), now));
    assert!(net.nodes[0].overlay.link(&id, net.now).is_none());
    net.forget_session(0, other);
    net.run(secs(3));
    assert!(net.nodes[0].overlay.link(&id, net.now).is_some());
}

#[test]
fn a_neighbour_that_names_nodes_that_do_not_exist_costs_a_bounded_number_of_dials() {
    let mut net = right_ring(40, 30);
    let victim = 0;
    let own = net.nodes[victim].id;
    let liar = net.nodes[victim].overlay.links(net.now).next().expect("linked").peer;
    let (before, dials) = (net.now, net.dials);
    for round in 0..120u16 {
        let fake = |n: u8| Entry {
            node: own.plus(&crate::id::Distance::from_prefix(u64::from(round) * 16 + u64::from(n) + 1)),
            hearsay: false,
            addresses: Candidates::from_slice(&[SocketAddr::from(([203, 0, 113, 1], 9))]),
        };
        let status = Status {
            number: 1000 + round,
            joined: true,
            roles: 1,
            predecessors: (0..4).map(fake).collect(),
            successors: (4..8).map(fake).collect(),
            further: (8..16).map(fake).collect(),
            ..Status::default()
        };
        let payload = status.payload();
        net.with(victim, |overlay, now| overlay.handle_message(liar, &payload, now)).expect("well formed");
        net.run(Duration::from_millis(500));
        assert!(net.nodes[victim].overlay.view().known.len() <= 40);
    }
    let seconds = net.now.saturating_since(before).as_secs();
    let dials = net.dials - dials;
    eprintln!("a lying neighbour made {dials} dials in {seconds} s");
    assert!(dials <= 16 * seconds / 5 + 60, "{dials} dials in {seconds} s");
    let (sent, arrived) = super::ring::route_all_pairs(&mut net);
    assert_eq!(sent, arrived);
}

#[test]
fn a_node_costs_few_kilobytes() {
    let net = right_ring(41, 100);
    let mut total = 0;
    for node in &net.nodes {
        let links: Vec<_> = node.overlay.links.iter().map(|link| size_of_val(link) + 4 * link.prefixes.len() + 16).collect();
        let known = node.overlay.known.entries().len() * (size_of::<crate::overlay::Known>() + 16);
        total += size_of_val(&node.overlay) + links.iter().sum::<usize>() + known;
    }
    let mean = total / net.nodes.len();
    eprintln!(
        "overlay state per node: {mean} bytes, of which {} fixed; link {}",
        size_of::<crate::overlay::Overlay>(),
        size_of::<crate::overlay::Link>()
    );
    assert!(mean < 10_000, "{mean} bytes");
}
