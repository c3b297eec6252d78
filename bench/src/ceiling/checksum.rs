//! The Internet checksum (RFC 1071).

/// Adds `bytes` to `initial` in independent lanes, so that the compiler can use vectors. Byte order does not matter until the result is stored.
#[inline]
pub(super) fn sum(bytes: &[u8], initial: u64) -> u64 {
    let mut lanes = [0u64; 8];
    let (rounds, rest) = bytes.as_chunks::<32>();
    for round in rounds {
        let (words, _) = round.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let (pairs, odd) = rest.as_chunks::<2>();
    let pairs: u64 = pairs.iter().map(|pair| u64::from(u16::from_ne_bytes(*pair))).sum();
    let odd = odd.first().map_or(0, |last| u64::from(u16::from_ne_bytes([*last, 0])));
    initial + lanes.iter().sum::<u64>() + pairs + odd
}

/// Folds a sum into 16 bits; store it with `to_ne_bytes`, complemented where it is a checksum.
pub(super) const fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of the pseudo header for the IP header at the front of `packet` with `len` bytes behind it.
pub(super) fn pseudo_header(packet: &[u8], v6: bool, protocol: u8, len: usize) -> u64 {
    let addresses = if v6 { &packet[8..40] } else { &packet[12..20] };
    sum(addresses, u64::from(u16::from(protocol).to_be()) + u64::from((len as u16).to_be()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_the_rfc_at_any_length() {
        // RFC 1071, section 3.
        let words = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&words, 0)).to_ne_bytes(), [0xdd, 0xf2]);
        let bytes: Vec<u8> = (0..101).collect();
        let plain: u64 = bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))).sum();
        assert_eq!(fold(sum(&bytes, 0)).to_ne_bytes(), fold(plain).to_be_bytes());
    }
}
