//! The one thing that the data path changes in TCP: the largest segment that the two ends agree on.

use super::ip::IpHeader;

/// Bytes of a TCP header without options.
const TCP_HEADER: usize = 20;
/// The flag of the segments that may carry the option (RFC 9293, section 3.7.1).
const SYN: u8 = 0x02;
/// Kinds of options: end of the list, padding, maximum segment size.
const END: u8 = 0;
const PADDING: u8 = 1;
const MSS: u8 = 2;

/// Lowers the maximum segment size that a SYN or SYN-ACK announces so that full segments are IP packets of at most `mtu` bytes, and mends the checksum.
///
/// `packet` is exactly one TCP packet with this `header` and no fragment; any other segment, one without the option, and one whose options are not well
/// formed stay as they are. Headers count without options (RFC 6691). It is never raised. Tells whether something was changed.
pub fn clamp_mss(packet: &mut [u8], header: &IpHeader, mtu: u16) -> bool {
    let ip_header: u16 = if header.destination.is_ipv4() { 20 } else { 40 };
    let most = mtu.saturating_sub(ip_header + TCP_HEADER as u16);
    let Some(segment) = packet.get_mut(usize::from(header.payload)..) else { return false };
    let Some(&[.., offset, flags]) = segment.first_chunk::<14>() else { return false };
    let end = usize::from(offset >> 4) * 4;
    if flags & SYN == 0 || end < TCP_HEADER || end > segment.len() {
        return false;
    }
    let Some(at) = find_mss(&segment[..end]) else { return false };
    if u16::from_be_bytes([segment[at], segment[at + 1]]) <= most {
        return false;
    }
    // The words of the checksum lie on even places; an option may lie across two.
    let words = at & !1..(at + 3) & !1;
    let before = sum(&segment[words.clone()]);
    segment[at..at + 2].copy_from_slice(&most.to_be_bytes());
    let after = sum(&segment[words]);
    // RFC 1624, equation 3, with up to two words at once.
    let old = u16::from_be_bytes([segment[16], segment[17]]);
    let new = !fold(u32::from(!old) + u32::from(!fold(before)) + after);
    segment[16..18].copy_from_slice(&new.to_be_bytes());
    true
}

/// Where the value of the option lies in a TCP header; `None` also when the list is malformed before or behind it.
fn find_mss(header: &[u8]) -> Option<usize> {
    let (mut at, mut found) = (TCP_HEADER, None);
    while let Some(&kind) = header.get(at) {
        match kind {
            END => break,
            PADDING => at += 1,
            _ => {
                let len = usize::from(*header.get(at + 1)?);
                if len < 2 || at + len > header.len() || (kind == MSS && (len != 4 || found.is_some())) {
                    return None;
                }
                if kind == MSS {
                    found = Some(at + 2);
                }
                at += len;
            }
        }
    }
    found
}

fn sum(words: &[u8]) -> u32 {
    words.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum()
}

fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};
    use proptest::prelude::*;

    fn segment(v6: bool, syn: bool, options: &[u8]) -> Vec<u8> {
        let builder =
            if v6 { PacketBuilder::ipv6([0xfd; 16], [0xfc; 16], 60) } else { PacketBuilder::ipv4([10, 1, 2, 3], [10, 3, 2, 1], 60) };
        let mut tcp = builder.tcp(1000, 2000, 0x0102_0304, 64_000).options_raw(options).expect("fits");
        if syn {
            tcp = tcp.syn();
        }
        let mut out = Vec::new();
        tcp.write(&mut out, &[]).expect("writes to memory");
        out
    }

    fn clamped(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
        let header = IpHeader::parse(packet).expect("a packet");
        let mut out = packet.to_vec();
        clamp_mss(&mut out, &header, mtu).then_some(out)
    }

    fn mss_and_sum(packet: &[u8]) -> (Option<u16>, bool) {
        let sliced = SlicedPacket::from_ip(packet).expect("a packet");
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP") };
        let mss = tcp.options_iterator().find_map(|option| match option {
            Ok(TcpOptionElement::MaximumSegmentSize(mss)) => Some(mss),
            _ => None,
        });
        let right = match sliced.net.expect("IP") {
            etherparse::NetSlice::Ipv4(ip) => {
                tcp.to_header().calc_checksum_ipv4_raw(ip.header().source(), ip.header().destination(), tcp.payload())
            }
            etherparse::NetSlice::Ipv6(ip) => {
                tcp.to_header().calc_checksum_ipv6_raw(ip.header().source(), ip.header().destination(), tcp.payload())
            }
            etherparse::NetSlice::Arp(_) => panic!("no IP"),
        };
        (mss, right.expect("short") == tcp.checksum())
    }

    proptest! {
        #[test]
        fn the_mss_is_lowered_where_it_is_too_large_and_the_checksum_stays_right(v6 in any::<bool>(), before in 0usize..5, mss in any::<u16>(), mtu in 100u16..1500) {
            // Padding in front moves the option to odd places, too.
            let mut options = vec![PADDING; before];
            options.extend([MSS, 4, (mss >> 8) as u8, mss as u8, 4, 2]);
            let packet = segment(v6, true, &options);
            let most = mtu - if v6 { 60 } else { 40 };
            match clamped(&packet, mtu) {
                Some(out) => {
                    prop_assert!(mss > most);
                    prop_assert_eq!(mss_and_sum(&out), (Some(most), true));
                    let changed = out.iter().zip(&packet).filter(|(new, old)| new != old).count();
                    prop_assert!(changed <= 4, "{changed} bytes changed");
                }
                None => prop_assert!(mss <= most),
            }
        }

        #[test]
        fn any_bytes_behind_an_ip_header_never_panic_and_nothing_but_mss_and_sum_changes(
            bytes in proptest::collection::vec(any::<u8>(), 0..80), offset in 0u8..16, mtu in any::<u16>(),
        ) {
            let mut packet = segment(false, true, &[]);
            packet.truncate(20);
            packet.extend(&bytes);
            let len = packet.len() as u16;
            packet[2..4].copy_from_slice(&len.to_be_bytes());
            if packet.len() > 33 {
                packet[32] = offset << 4;
                packet[33] |= SYN;
            }
            if let Some(out) = clamped(&packet, mtu) {
                let changed: Vec<usize> = (0..packet.len()).filter(|at| packet[*at] != out[*at]).collect();
                prop_assert!(changed.iter().all(|at| matches!(at, 36 | 37) || *at >= 40), "{changed:?}");
            }
        }
    }

    #[test]
    fn segments_that_do_not_open_a_connection_are_left_alone() {
        assert_eq!(clamped(&segment(false, false, &[MSS, 4, 0x05, 0xb4]), 1300), None);
        assert!(clamped(&segment(false, true, &[MSS, 4, 0x05, 0xb4]), 1300).is_some());
    }

    #[test]
    fn malformed_options_are_left_alone() {
        for options in [
            &[MSS, 3, 0xff, 0xff][..],
            &[MSS, 4, 0xff, 0xff, MSS, 4, 0xff, 0xff],
            &[MSS, 4, 0xff, 0xff, 8, 1],
            &[MSS, 4, 0xff, 0xff, 8, 200],
            &[PADDING, PADDING, PADDING, MSS],
            &[END, MSS, 4, 0xff, 0xff, 0, 0, 0],
        ] {
            // The builder checks nothing of raw options; lengths are filled up to whole words.
            assert_eq!(clamped(&segment(false, true, options), 1300), None, "{options:?}");
        }
    }
}
