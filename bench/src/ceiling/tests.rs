//! What the device gives is cut, sealed, opened and merged again: the bytes are those that went in.

use std::fs::File;
use std::io::{Read, Seek};

use super::checksum::{fold, pseudo_header, sum};
use super::*;

/// A TCP super-packet over IPv4 as a device gives it, with `payload` bytes to be cut every `segment` bytes.
fn super_packet(payload: usize, segment: u16) -> Vec<u8> {
    let mut read = vec![1, 1, 40, 0, 0, 0, 20, 0, 16, 0];
    read[4..6].copy_from_slice(&segment.to_ne_bytes());
    let len = 40 + payload as u16;
    read.extend([0x45, 0, (len >> 8) as u8, len as u8, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    read.extend([0x30, 0x39, 0x14, 0x51, 0, 0, 0, 100, 0, 0, 0, 7, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
    read.extend((0..payload).map(|index| (index * 7 + index / 251) as u8));
    read
}

fn key() -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &KEY).unwrap())
}

#[test]
fn a_cut_packet_is_complete_and_only_the_last_one_pushes() {
    let mut out = vec![0; 2 * REGION];
    let pieces = split::split(&mut super_packet(3000, 1400), &mut out).unwrap();
    assert_eq!(pieces, split::Pieces { stride: HEADER + 1440 + TAG, total: 3 * (HEADER + 40 + TAG) + 3000 });
    for (index, datagram) in out[..pieces.total].chunks(pieces.stride).enumerate() {
        let packet = &datagram[HEADER..datagram.len() - TAG];
        assert_eq!(fold(sum(&packet[..20], 0)), u16::MAX, "IP header of packet {index}");
        assert_eq!(fold(sum(&packet[20..], pseudo_header(packet, false, 6, packet.len() - 20))), u16::MAX, "TCP of packet {index}");
        assert_eq!(packet[33] & 8 != 0, index == 2);
        assert_eq!(packet[24..28], (100 + 1400 * index as u32).to_be_bytes());
    }
}

#[test]
fn what_contradicts_its_virtio_header_is_left_out() {
    let mut out = vec![0; 2 * REGION];
    let whole = super_packet(3000, 1400);
    for len in [0, 9, 10, 29, 40, 49] {
        assert_eq!(split::split(&mut whole[..len].to_vec(), &mut out), None, "{len} bytes");
    }
    let mut far = whole;
    far[6..8].copy_from_slice(&60_000u16.to_ne_bytes());
    assert_eq!(split::split(&mut far, &mut out), None);
}

#[test]
fn cut_packets_are_merged_to_what_was_cut() {
    let mut out = vec![0; 2 * REGION];
    let read = super_packet(3000, 1400);
    let pieces = split::split(&mut read.clone(), &mut out).unwrap();
    let mut file: File = tempfile::tempfile().unwrap();
    let mut merge = Merge::new();
    let mut at = 0;
    while at < pieces.total {
        let end = (at + pieces.stride).min(pieces.total);
        merge.push(&file, &out, (at + HEADER, end - TAG));
        at = end;
    }
    merge.flush(&file, &out);
    let mut written = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut written).unwrap();
    assert_eq!(written.len(), read.len());
    assert_eq!((written[0], written[1]), (1, 1));
    // All but the virtio header's hint and both checksums, which are made anew.
    assert_eq!(written[10..20], read[10..20]);
    assert_eq!(written[22..46], read[22..46]);
    assert_eq!(written[50..], read[50..]);
    assert_eq!(fold(sum(&written[10..30], 0)), u16::MAX);
}

#[test]
fn a_gap_in_the_stream_is_not_merged() {
    let mut out = vec![0; 2 * REGION];
    let pieces = split::split(&mut super_packet(4200, 1400), &mut out).unwrap();
    let mut file: File = tempfile::tempfile().unwrap();
    let mut merge = Merge::new();
    for index in [0, 2] {
        merge.push(&file, &out, (index * pieces.stride + HEADER, (index + 1) * pieces.stride - TAG));
    }
    merge.flush(&file, &out);
    let mut written = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut written).unwrap();
    assert_eq!(written.len(), 2 * (VNET + 1440));
    assert_eq!(written[..VNET], [0; VNET], "a lone packet needs no help of the kernel");
}

#[test]
fn only_what_was_sealed_under_the_key_opens() {
    let key = key();
    let mut datagram = vec![0; HEADER + 100 + TAG];
    datagram[15] = 5;
    let (header, rest) = datagram.split_at_mut(HEADER);
    let (packet, tag) = rest.split_at_mut(100);
    tag.copy_from_slice(key.seal_in_place_separate_tag(nonce(5u64.to_be_bytes()), Aad::from(&*header), packet).unwrap().as_ref());
    let mut wrong = datagram.clone();
    wrong[14] ^= 1;
    assert_eq!(open(&key, &mut wrong), None);
    assert_eq!(open(&key, &mut datagram), Some(100));
    assert_eq!(open(&key, &mut [0; 15]), None);
    assert_eq!(open(&key, &mut [0; 20]), None);
}
