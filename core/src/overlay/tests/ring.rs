//! Forming, repairing, leaving and merging.

use core::time::Duration;

use super::Net;

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Every living node sends a datagram to every other; what arrived.
fn route_all_pairs(net: &mut Net) -> (usize, usize) {
    let living = net.living();
    for &index in &living {
        net.take_actions(index);
    }
    let mut sent = 0;
    for &from in &living {
        for &to in &living {
            if from != to {
                let id = net.nodes[to].id;
                let body = (from as u32).to_be_bytes();
                net.with(from, |overlay, now| overlay.send_datagram(id, &body, now)).expect("routable");
                sent += 1;
            }
        }
    }
    net.run(secs(5));
    let mut arrived = 0;
    for &to in &living {
        for action in net.take_actions(to) {
            if let crate::overlay::OverlayAction::Datagram { from, bytes } = action {
                assert_eq!(bytes, (net.index_of(&from) as u32).to_be_bytes());
                arrived += 1;
            }
        }
    }
    (sent, arrived)
}

#[test]
fn a_single_node_is_a_ring_at_once_or_when_nobody_answers() {
    let mut net = Net::new(1);
    net.add(&[]);
    net.run(secs(1));
    assert!(net.is_right(), "{}", net.complaints());
    let mut net = Net::new(1);
    net.add_with_id(crate::id::NodeId([1; 20]), (0..9).map(|port| core::net::SocketAddr::from(([192, 0, 2, 1], port))).collect());
    net.run(secs(1));
    assert!(!net.nodes[0].overlay.view().consistent);
    net.run(secs(20));
    assert!(net.is_right(), "{}", net.complaints());
}

#[test]
fn rings_of_all_sizes_form_from_one_contact_each() {
    for count in [2, 3, 5, 10, 64] {
        let mut net = Net::new(count as u8);
        net.add(&[]);
        for index in 1..count {
            net.add(&[index / 2]);
        }
        let took = net.run_until_right(secs(60));
        println!("{count} nodes from one contact: {took:?} {} messages {} dials {:?}", net.messages, net.dials, net.drops);
        let (sent, arrived) = route_all_pairs(&mut net);
        assert_eq!(sent, arrived, "{count} nodes");
    }
}

#[test]
fn three_hundred_nodes_that_start_together_form_one_ring_and_every_pair_routes() {
    let mut net = Net::new(7);
    net.add_many(300, 5);
    let took = net.run_until_right(secs(120));
    println!("300 nodes from five contacts: {took:?} {} messages {} dials {:?}", net.messages, net.dials, net.drops);
    net.run(secs(60));
    assert!(net.is_right(), "{}", net.complaints());
    let (sent, arrived) = route_all_pairs(&mut net);
    assert_eq!(sent, arrived);
}
