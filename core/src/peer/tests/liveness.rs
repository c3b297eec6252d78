//! Keep-alive, death, and no false alarm.

use super::*;

const SEC: fn(u64) -> Duration = Duration::from_secs;

fn lossy(loss: u64, delay_ms: u64) -> Wire {
    Wire { loss: [loss, loss], ..Wire::new(1, PathKind::Direct, delay_ms) }
}

/// Lets B die after `warm` s of being a `use_` (with traffic each 100 ms if `busy`); returns how long A needs to notice.
fn detection(seed: u8, loss: u64, delay_ms: u64, use_: Use, busy: bool) -> Duration {
    let mut world = World::linked(seed, &[lossy(loss, delay_ms)]);
    world.keep_sent = false;
    world.set_use(use_);
    let steps = 300 * 10 + u64::from(seed) * 7;
    for _ in 0..steps {
        if busy {
            world.traffic(1, true);
        }
        world.run(ms(100));
    }
    assert_eq!(world.deaths(), 0);
    world.dead[B] = true;
    let died = world.now;
    for _ in 0..1300 {
        if busy && world.now < died + SEC(8) {
            // The host goes on sending into the void.
            world.nodes[A].activity(SessionId(1), 0, 1000, world.now);
        }
        world.run(ms(100));
        if let Some(noticed) = world.died_at(A) {
            return noticed.saturating_since(died);
        }
    }
    panic!("not noticed");
}

#[test]
fn a_dead_peer_in_use_is_noticed_within_five_seconds_at_any_loss() {
    for (loss, delay) in [(0, 5), (0, 100), (50, 20), (50, 100), (300, 20), (300, 100)] {
        for seed in 0..6 {
            let took = detection(seed, loss, delay, Use::Link, true);
            assert!((SEC(2)..=SEC(5)).contains(&took), "{took:?} at {loss} permille, {delay} ms");
        }
    }
}

#[test]
fn a_dead_idle_neighbour_is_noticed_within_fifteen_seconds_at_any_loss() {
    for (loss, delay) in [(0, 5), (50, 20), (50, 100), (300, 20), (300, 100)] {
        for seed in 0..6 {
            let took = detection(seed, loss, delay, Use::Near, false);
            assert!(took <= SEC(15), "{took:?} at {loss} permille, {delay} ms");
        }
    }
}

#[test]
fn a_dead_idle_link_is_noticed_within_a_minute() {
    for loss in [0, 50, 300] {
        let took = detection(1, loss, 30, Use::Link, false);
        assert!(took <= SEC(60), "{took:?} at {loss} permille");
    }
    assert!(detection(2, 0, 30, Use::Idle, false) <= SEC(120));
}

#[test]
fn traffic_towards_a_peer_that_died_while_idle_finds_it_dead_within_five_seconds() {
    for seed in 0..20 {
        let mut world = World::linked(seed, &[lossy(0, 30)]);
        world.set_use(Use::Near);
        world.run(ms(300_000 + u64::from(seed) * 431));
        world.dead[B] = true;
        world.run(ms(u64::from(seed) * 300));
        let began = world.now;
        for _ in 0..50 {
            world.nodes[A].activity(SessionId(1), 0, 1000, world.now);
            world.run(ms(100));
        }
        let noticed = world.died_at(A).expect("noticed");
        assert!(noticed.saturating_since(began) <= SEC(5));
    }
}

#[test]
fn a_suspected_dead_peer_is_given_up_within_five_seconds_and_a_live_one_is_not() {
    let mut world = World::linked(1, &[lossy(0, 30)]);
    world.run(SEC(300));
    let peer = world.peer(A).unwrap();
    let pings = world.sent_kind(A, PING).len();
    world.nodes[A].suspect(peer, world.now);
    world.drain();
    assert_eq!(world.sent_kind(A, PING).len(), pings + 1, "it is asked at once");
    world.run(SEC(10));
    assert_eq!(world.deaths(), 0);
    world.dead[B] = true;
    let began = world.now;
    world.nodes[A].suspect(peer, world.now);
    world.run(SEC(10));
    assert!(world.died_at(A).expect("noticed").saturating_since(began) <= SEC(5));
}

/// Simulated days at 30 % loss in each direction. At a false-alarm rate of 4e-10 per series and 10,000 series a day, all of them together find one with
/// probability below 1e-3; without the cautious number of probes (8 instead of 32: 0.5 %) each would find dozens.
#[test]
fn no_false_alarm_in_a_simulated_day_at_thirty_percent_loss() {
    for seed in 0..16 {
        let mut world = World::linked(seed, &[lossy(300, 10 + u64::from(seed) * 10)]);
        world.keep_sent = false;
        world.set_use(if seed % 4 == 3 { Use::Link } else { Use::Near });
        world.run(SEC(86_400));
        assert_eq!(world.deaths(), 0, "with seed {seed}: {:?}", world.log.last());
        let loss = world.view(A).paths[0].loss_permille;
        assert!((150..=900).contains(&loss), "{loss}: the loss was there");
    }
}

/// The hardest case: we send all day, and nothing but answers to probes comes back.
#[test]
fn no_false_alarm_in_a_day_of_one_way_traffic_at_thirty_percent_loss() {
    for seed in 0..3 {
        let mut world = World::linked(seed, &[lossy(300, 25)]);
        world.keep_sent = false;
        let end = world.now + SEC(86_400);
        while world.now < end {
            world.traffic(1, false);
            world.run(SEC(5));
        }
        assert_eq!(world.deaths(), 0, "with seed {seed}");
    }
}

#[test]
fn a_loss_that_jumps_from_nothing_to_thirty_percent_kills_nobody() {
    for seed in 0..200 {
        let mut world = World::linked(seed, &[lossy(0, 20)]);
        world.keep_sent = false;
        world.set_use(Use::Near);
        world.run(SEC(1200));
        world.wires[0].loss = [300, 300];
        world.run(SEC(1200));
        assert_eq!(world.deaths(), 0, "with seed {seed}");
    }
}

#[test]
fn an_outage_of_three_seconds_is_not_death() {
    for seed in 0..20 {
        let mut world = World::linked(seed, &[lossy(0, 20)]);
        for step in 0..2000u64 {
            world.wires[0].loss = if step % 200 < 30 { [1000, 1000] } else { [0, 0] };
            world.traffic(1, step % 200 >= 30);
            world.run(ms(100));
        }
        assert_eq!(world.deaths(), 0);
    }
}

#[test]
fn probes_are_evenly_spaced() {
    let mut world = World::linked(1, &[lossy(0, 20)]);
    world.set_use(Use::Near);
    world.run(SEC(400));
    world.dead[B] = true;
    world.sent.clear();
    world.run(SEC(15));
    let at: Vec<Instant> = world.sent_kind(A, PING).iter().map(|(at, _)| *at).collect();
    assert!(at.len() >= 16, "{}", at.len());
    let gaps: Vec<Duration> = at.windows(2).map(|pair| pair[1].saturating_since(pair[0])).collect();
    let (least, most) = (gaps[1..].iter().min().unwrap(), gaps[1..].iter().max().unwrap());
    assert!(most.saturating_sub(*least) <= ms(1), "{gaps:?}");
}

#[test]
fn a_clean_idle_neighbour_costs_one_probe_per_quiet_time() {
    let mut world = World::linked(1, &[lossy(0, 150)]);
    world.set_use(Use::Near);
    world.run(SEC(60));
    world.sent.clear();
    world.run(SEC(3600));
    // One end's ping and the other's pong are life for both.
    let pings = world.sent_kind(A, PING).len() + world.sent_kind(B, PING).len();
    assert!((350..=560).contains(&pings), "{pings} pings an hour");
}

#[test]
fn a_keep_alive_leaves_after_twenty_to_twenty_five_seconds_without_a_packet() {
    let mut world = World::linked(1, &[lossy(0, 20)]);
    world.run(SEC(60));
    world.sent.clear();
    world.run(SEC(3600));
    for end in [A, B] {
        let sent: Vec<Instant> = world.sent.iter().filter(|(_, who, ..)| *who == end).map(|(at, ..)| *at).collect();
        let gaps: Vec<Duration> = sent.windows(2).map(|pair| pair[1].saturating_since(pair[0])).collect();
        assert!(gaps.iter().all(|gap| *gap <= SEC(25)), "a mapping may have closed: {gaps:?}");
        for (at, _) in world.sent_kind(end, KEEP_ALIVE) {
            let before = sent.iter().rev().find(|sent| **sent < at);
            assert!(before.is_none_or(|before| at.saturating_since(*before) >= SEC(20)));
        }
        let distinct: std::collections::BTreeSet<u128> = gaps.iter().map(Duration::as_millis).collect();
        assert!(distinct.len() > 20, "there is jitter");
        assert!(world.sent_kind(end, KEEP_ALIVE).len() > 80 && world.sent_kind(end, PING).len() < 80);
    }
}

#[test]
fn no_keep_alive_leaves_while_something_else_does() {
    let mut world = World::linked(1, &[lossy(0, 20)]);
    world.run(SEC(60));
    world.sent.clear();
    for _ in 0..360 {
        world.run(SEC(10));
        for end in [A, B] {
            let at = world.now;
            world.nodes[end].sent(World::id(end, 1), path(1), 100, at);
        }
    }
    assert!(world.sent_kind(A, KEEP_ALIVE).is_empty() && world.sent_kind(B, KEEP_ALIVE).is_empty());
}

#[test]
fn a_routed_path_gets_no_keep_alive() {
    let mut world = World::linked(1, &[Wire::new(1, PathKind::Routed, 100)]);
    world.set_use(Use::Idle);
    world.run(SEC(3600));
    assert!(world.sent_kind(A, KEEP_ALIVE).is_empty());
    assert_eq!(world.deaths(), 0);
}

#[test]
fn a_night_of_suspend_kills_nobody() {
    for told in [true, false] {
        let mut world = World::new(1, &[]);
        for index in 0..50u32 {
            let node = NodeId([10 + index as u8; 20]);
            let peer = world.nodes[A].session_up(node, SessionId(index), path(index), PathKind::Direct, true, None, world.now).unwrap();
            world.nodes[A].set_use(peer, Use::Near, world.now);
        }
        // Answers for every ping, but only from 3 s after the resume on: the Wi-Fi needs its time.
        let mut deaths = 0;
        let suspended = world.now + SEC(60);
        let resumed = suspended + SEC(8 * 3600);
        let mut first_pings = 0;
        let mut now = world.now;
        while now < resumed + SEC(120) {
            now += ms(50);
            if now > suspended && now < resumed {
                now = resumed;
                if told {
                    world.nodes[A].resumed(now);
                }
            }
            world.nodes[A].handle_timeout(now);
            while let Some(action) = world.nodes[A].poll_action() {
                match action {
                    PeerAction::Send { session, path, payload } if payload[0] == PING && (now < suspended || now > resumed + SEC(3)) => {
                        let pong = LinkMessage::Pong { token: u64::from_be_bytes(payload[1..9].try_into().unwrap()) }.to_payload();
                        world.nodes[A].received(session, path, PathKind::Direct, true, 9, now);
                        world.nodes[A].handle_link(session, path, PathKind::Direct, None, &pong, now).unwrap();
                    }
                    PeerAction::Send { .. } if now < resumed + ms(600) && now >= resumed => first_pings += 1,
                    PeerAction::Dead { .. } => deaths += 1,
                    _ => {}
                }
            }
        }
        assert_eq!(deaths, 0, "told: {told}");
        assert!(first_pings >= 50, "all are asked at once: {first_pings}");
    }
}

#[test]
fn those_who_died_during_a_suspend_are_noticed_after_the_grace() {
    let mut world = World::linked(1, &[lossy(0, 20)]);
    world.run(SEC(60));
    world.dead[B] = true;
    world.now += SEC(3600);
    let resumed = world.now;
    world.nodes[A].resumed(resumed);
    world.run(SEC(20));
    let took = world.died_at(A).expect("noticed").saturating_since(resumed);
    assert!((SEC(10)..=SEC(12)).contains(&took), "{took:?}");
}

#[test]
fn a_late_first_answer_after_congestion_is_life_and_teaches_the_new_time() {
    let mut world = World::linked(1, &[lossy(0, 20)]);
    world.set_use(Use::Near);
    world.run(SEC(300));
    world.wires[0].delay = ms(1200);
    world.run(SEC(300));
    assert_eq!(world.deaths(), 0);
    assert!(world.view(A).paths[0].rtt.unwrap() > ms(1500));
}
