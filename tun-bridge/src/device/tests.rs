//! What can be tested without making a device; the rest is in `tests/device.rs`.

use super::*;

#[test]
fn packets_are_placed_with_room_for_header_and_tag_and_sealed_ones_lie_back_to_back() {
    use annulus_core::batch::{HEADROOM, OVERLAP, TAILROOM};
    let (mut buf, mut slots) = (vec![0; 1000], vec![Slot::default(); 10]);
    let mut placer = Placer::new(&mut buf, &mut slots);
    while let Some(room) = placer.room(200) {
        room.fill(1);
        placer.placed(200);
    }
    assert_eq!(placer.count, 4, "4 * (8 + 200 + 16) + 4 = 900, and 16 to spread them");
    for (index, slot) in slots[..4].iter().enumerate() {
        assert_eq!(slot.start as usize, index * (HEADROOM - OVERLAP + 200 + TAILROOM) + HEADROOM);
        assert_eq!(slot.len, 200);
    }
}

#[test]
fn impossible_configurations_are_refused_before_any_device_is_made() {
    let config = TunConfig { backend: Backend::TunTap, queues: 2, ..TunConfig::default() };
    assert!(matches!(open(&config), Err(OpenError::Config(_))));
    assert!(matches!(open(&TunConfig { queues: 0, ..TunConfig::default() }), Err(OpenError::Config(_))));
    assert!(matches!(open(&TunConfig { mtu: 1000, ..TunConfig::default() }), Err(OpenError::Config(_))));
}
