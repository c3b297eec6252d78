//! The search for the size of a path, by itself over a simulated path and within peers.

use proptest::prelude::*;

use super::super::search::Search;
use super::*;
use crate::rng::Rng;

/// Overhead of a direct path over IPv4.
const OVERHEAD: u16 = 52;
const BASE: u16 = 1280 - OVERHEAD;
const FULL: u16 = TUNNEL_MTU;
const RTT: Duration = ms(40);
const TIMEOUT: Duration = ms(200);

/// A path that carries so much, and the search at one of its ends.
struct Road {
    search: Search,
    /// Inner bytes that pass.
    carries: u16,
    /// Permille of round trips that are lost.
    loss: u64,
    /// Whether data is sent.
    busy: bool,
    /// Answers on their way.
    answers: Vec<(Instant, u64)>,
    rng: Rng,
    now: Instant,
    /// Large probes sent.
    probes: u32,
    /// Sizes in use, with the time from which on.
    sizes: Vec<(Instant, u16)>,
}

impl Road {
    fn new(carries: u16, loss: u64) -> Self {
        let now = Instant::from_secs(1000);
        let search = Search::new(FULL, OVERHEAD, now);
        let sizes = vec![(now, search.size())];
        Self { search, carries, loss, busy: true, answers: Vec::new(), rng: Rng::new([3; 32]), now, probes: 0, sizes }
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.now += ms(10);
            let now = self.now;
            if self.busy {
                self.search.note_use(now);
            }
            let (due, later) = self.answers.iter().copied().partition(|(at, _)| *at <= now);
            self.answers = later;
            for (_, token) in due {
                self.search.answered(token, now);
            }
            if self.search.due(now).is_some_and(|due| due <= now) {
                let rng = &mut self.rng;
                for probe in self.search.run(TIMEOUT, (self.loss as u16).min(1000), || rng.next_u64(), now) {
                    assert!(probe.size <= FULL, "{probe:?}");
                    self.probes += u32::from(probe.size > 0);
                    if probe.size <= self.carries && rng.below(1000) >= self.loss {
                        self.answers.push((now + RTT, probe.token));
                    }
                }
                assert!(self.search.due(now).is_none_or(|due| due > now), "it wants to be called again at once");
            }
            let size = self.search.size();
            if self.sizes.last().is_some_and(|(_, last)| *last != size) {
                self.sizes.push((now, size));
            }
        }
    }

    fn settled(&self) -> u16 {
        assert!(self.search.is_settled());
        self.search.size()
    }
}

#[test]
fn one_probe_is_enough_on_a_path_that_carries_the_tunnel_s_mtu() {
    let mut road = Road::new(FULL, 0);
    road.run(ms(1000));
    assert_eq!((road.probes, road.settled()), (1, FULL));
    road.run(Duration::from_secs(9));
    assert_eq!((road.probes, road.sizes.len()), (4, 1), "and one for each 3 s of use");
    road.busy = false;
    road.run(Duration::from_secs(20));
    let before = road.probes;
    road.run(Duration::from_secs(3600));
    assert_eq!(road.probes, before, "an idle path costs nothing");
    assert_eq!(road.search.due(road.now), None);
}

#[test]
fn sizes_that_paths_are_known_to_have_are_found_with_few_probes() {
    for outer in [1280, 1400, 1420] {
        let mut road = Road::new(outer - OVERHEAD, 0);
        road.run(Duration::from_secs(10));
        assert_eq!(road.settled(), outer - OVERHEAD);
        assert!(road.probes <= 26, "{} probes for {outer}", road.probes);
        assert!(
            road.sizes[1].0.saturating_since(road.sizes[0].0) < Duration::from_secs(2),
            "the black hole is noticed at once: {:?}",
            road.sizes
        );
    }
}

#[test]
fn a_black_hole_that_opens_under_a_flow_is_left_within_seconds() {
    let mut road = Road::new(FULL, 0);
    road.run(Duration::from_secs(100));
    road.carries = 1300;
    let opened = road.now;
    road.run(Duration::from_secs(12));
    let left = road.sizes[1];
    assert_eq!(left.1, BASE);
    assert!(left.0.saturating_since(opened) < Duration::from_secs(5), "{:?}", left.0.saturating_since(opened));
    assert!((1292..=1300).contains(&road.settled()), "{}", road.settled());
    // And again, from there.
    road.carries = BASE;
    road.run(Duration::from_secs(10));
    assert_eq!(road.settled(), BASE);
}

#[test]
fn a_path_that_grows_again_is_used_after_ten_minutes_and_at_once_when_the_network_changes() {
    let mut road = Road::new(1300, 0);
    road.run(Duration::from_secs(20));
    let small = road.settled();
    road.carries = FULL;
    road.run(Duration::from_secs(400));
    assert_eq!(road.settled(), small);
    road.run(Duration::from_secs(250));
    assert_eq!(road.settled(), FULL);

    let mut road = Road::new(1300, 0);
    road.run(Duration::from_secs(20));
    road.carries = FULL;
    road.search.begin_anew();
    road.run(ms(500));
    assert_eq!(road.settled(), FULL);
}

#[test]
fn nobody_is_told_of_a_size_that_is_still_searched_for() {
    let mut road = Road::new(1348, 0);
    let mut told = Vec::new();
    for _ in 0..2000 {
        road.run(ms(10));
        if road.search.is_settled() && told.last() != Some(&road.search.size()) {
            told.push(road.search.size());
        }
    }
    assert_eq!(told, [FULL, 1348]);
    assert!(road.sizes.len() > 2, "{:?}", road.sizes);
}

#[test]
fn an_attempt_at_more_on_a_path_that_has_not_grown_costs_few_probes_and_no_size() {
    let mut road = Road::new(1300, 0);
    road.run(Duration::from_secs(20));
    let (probes, sizes) = (road.probes, road.sizes.len());
    road.run(Duration::from_secs(1200));
    let confirmations = 1200 / 3 + 1;
    assert!(road.probes - probes <= confirmations + 2 * 7, "{}", road.probes - probes);
    assert_eq!(road.sizes.len(), sizes);
}

#[test]
fn what_the_system_refuses_counts_at_once_but_never_below_the_base() {
    let mut road = Road::new(FULL, 0);
    road.run(Duration::from_secs(5));
    road.search.refused(1353, road.now);
    assert_eq!(road.search.size(), BASE);
    road.carries = 1352;
    road.run(Duration::from_secs(5));
    assert!((1345..=1352).contains(&road.settled()), "{}", road.settled());
    let settled = road.settled();
    for claim in [0, 500, BASE] {
        road.search.refused(claim, road.now);
        assert_eq!(road.search.size(), settled, "anybody could have claimed {claim}");
    }
    road.search.refused(FULL + 1, road.now);
    assert_eq!(road.search.size(), settled);
}

#[test]
fn a_path_that_answers_nothing_at_all_is_not_taken_for_a_small_one() {
    let mut road = Road::new(FULL, 0);
    road.run(Duration::from_secs(5));
    road.loss = 1000;
    road.run(Duration::from_secs(30));
    assert_eq!(road.sizes.len(), 1);
    assert!(road.probes < 50, "and is probed ever more seldom: {}", road.probes);
    road.loss = 0;
    road.run(Duration::from_secs(5));
    assert_eq!(road.settled(), FULL);
}

#[test]
fn five_percent_of_loss_each_way_shrink_nothing_in_a_day() {
    let mut road = Road::new(FULL, 98);
    road.run(Duration::from_secs(24 * 3600));
    assert_eq!(road.sizes.len(), 1, "{:?}", road.sizes);
    assert!(road.probes > 28_000);
}

/// How often an end has told of a new size, and the size of its active path; 0 where none is known.
fn sizes(world: &World, end: usize) -> [u16; 2] {
    let changed = |(_, who, action): &(Instant, usize, PeerAction)| *who == end && matches!(action, PeerAction::SizeChanged { .. });
    let size = world.nodes[end].size(world.peer(end).expect("still there"), world.active(end));
    [world.log.iter().filter(|entry| changed(entry)).count() as u16, size.map_or(0, |(size, _)| size)]
}

fn flow(world: &mut World, tenths: usize) {
    for _ in 0..tenths {
        world.traffic(1, true);
        world.run(ms(100));
    }
}

#[test]
fn peers_find_out_the_size_of_the_path_that_carries_data_and_of_no_other() {
    let narrow = Wire { carries: 1300, ..Wire::new(1, PathKind::Direct, 20) };
    let mut world = World::linked(1, &[narrow]);
    world.run(Duration::from_secs(600));
    assert!(world.sent.iter().all(|(.., payload)| payload.len() < 100), "no data, no probe");
    assert_eq!(sizes(&world, A), [0, 0]);
    flow(&mut world, 100);
    for end in [A, B] {
        let [changes, size] = sizes(&world, end);
        assert!(changes >= 2 && (1292..=1300).contains(&size), "{changes} {size}");
    }
    assert!(world.sent.iter().all(|(.., payload)| payload.len() <= usize::from(TUNNEL_MTU)));
    assert_eq!(world.deaths(), 0);
}

#[test]
fn a_new_path_is_looked_at_at_once_when_data_moves_to_it() {
    let relay = Wire { carries: 1204, ..Wire::new(1, PathKind::Relay, 50) };
    let direct = Wire::new(2, PathKind::Direct, 20);
    let mut world = World::linked(2, &[relay, direct]);
    flow(&mut world, 100);
    assert_eq!(sizes(&world, A)[1], 1204, "1,280 less IPv6, UDP, relay header and 24");
    let peer = world.peer(A).expect("still there");
    world.nodes[A].add_path(peer, path(2), PathKind::Direct, world.now);
    world.run(ms(200));
    assert_eq!((world.active(A), sizes(&world, A)[1]), (path(2), TUNNEL_MTU));
    let now = world.now;
    world.nodes[A].refused(peer, path(2), 1300, now);
    world.drain();
    assert_eq!(sizes(&world, A)[1], 1228, "the path's family is IPv4");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_found_passes_and_is_at_most_a_step_too_small(carries in BASE..=FULL, loss in 0u64..200) {
        let mut road = Road::new(carries, loss);
        road.run(Duration::from_secs(60));
        prop_assert!(road.settled() <= carries);
        prop_assert!(road.settled() + 8 >= carries, "{} of {carries}", road.settled());
    }

    #[test]
    fn any_order_of_events_keeps_the_size_between_base_and_full(events in proptest::collection::vec((0u8..6, any::<u16>()), 0..200)) {
        let mut road = Road::new(FULL, 0);
        for (event, number) in events {
            match event {
                0 => road.search.refused(number, road.now),
                1 => road.search.begin_anew(),
                2 => road.carries = number % 1500,
                3 => road.loss = u64::from(number % 1001),
                4 => road.busy = number % 2 == 0,
                _ => road.run(ms(u64::from(number) % 5000)),
            }
            prop_assert!((BASE..=FULL).contains(&road.search.size()));
        }
    }
}
