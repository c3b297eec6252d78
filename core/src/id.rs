//! Positions on the ring: 160-bit node IDs and their arithmetic.

use core::cmp::Ordering;
use core::fmt;
use core::str::FromStr;

/// Bytes of a node ID.
pub const NODE_ID_LEN: usize = 20;

/// A 160-bit position on the ring, big-endian. Bound to a node's key by its certificate.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; NODE_ID_LEN]);

impl NodeId {
    /// The first 64 bits: what comparisons look at first.
    #[must_use]
    pub const fn prefix(&self) -> u64 {
        let b = &self.0;
        u64::from_be_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])
    }

    /// Distance from `self` clockwise (in the direction of growing IDs) to `other`; zero to itself.
    #[must_use]
    pub fn clockwise_to(&self, other: &Self) -> Distance {
        Distance(other.minus(self))
    }

    /// The shorter of both ways round.
    #[must_use]
    pub fn distance_to(&self, other: &Self) -> Distance {
        self.clockwise_to(other).min(other.clockwise_to(self))
    }

    /// Whether `self` lies strictly between `from` and `to`, going clockwise. Between a point and itself lies the whole rest of the ring.
    #[must_use]
    pub fn is_between(&self, from: &Self, to: &Self) -> bool {
        if self == from || self == to {
            return false;
        }
        if from == to {
            return true;
        }
        from.clockwise_to(self) < from.clockwise_to(to)
    }

    /// Orders `a` and `b` by their distance to `self`. Ties (equal distances on both sides) go to the clockwise one, so all nodes agree.
    #[must_use]
    pub fn closer(&self, a: &Self, b: &Self) -> Ordering {
        self.distance_to(a).cmp(&self.distance_to(b)).then_with(|| self.clockwise_to(a).cmp(&self.clockwise_to(b)))
    }

    /// The point that lies `distance` clockwise of `self`.
    #[must_use]
    pub fn plus(&self, distance: &Distance) -> Self {
        let mut out = [0; NODE_ID_LEN];
        let mut carry = 0u16;
        for i in (0..NODE_ID_LEN).rev() {
            let sum = u16::from(self.0[i]) + u16::from(distance.0[i]) + carry;
            out[i] = sum as u8;
            carry = sum >> 8;
        }
        Self(out)
    }

    /// The point that lies `distance` counter-clockwise of `self`.
    #[must_use]
    pub fn less(&self, distance: &Distance) -> Self {
        Self(self.minus(&Self(distance.0)))
    }

    /// The distance of both in a binary tree over their bits: `self XOR other` (Maymounkov, Mazieres: "Kademlia", 2002).
    #[must_use]
    pub fn xor(&self, other: &Self) -> Distance {
        let mut out = self.0;
        out.iter_mut().zip(other.0).for_each(|(byte, other)| *byte ^= other);
        Distance(out)
    }

    /// Length in bits of the common prefix of `self` and `other` (0 to 160).
    #[must_use]
    pub fn common_prefix_len(&self, other: &Self) -> u32 {
        for i in 0..NODE_ID_LEN {
            let differing = self.0[i] ^ other.0[i];
            if differing != 0 {
                return i as u32 * 8 + differing.leading_zeros();
            }
        }
        160
    }

    fn minus(&self, other: &Self) -> [u8; NODE_ID_LEN] {
        let mut out = [0; NODE_ID_LEN];
        let mut borrow = 0i16;
        for i in (0..NODE_ID_LEN).rev() {
            let mut difference = i16::from(self.0[i]) - i16::from(other.0[i]) - borrow;
            borrow = i16::from(difference < 0);
            if difference < 0 {
                difference += 256;
            }
            out[i] = difference as u8;
        }
        out
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}{:02x}{:02x}{:02x}", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

/// A text is not a node ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a node ID is 40 hexadecimal digits")]
pub struct ParseNodeIdError;

impl FromStr for NodeId {
    type Err = ParseNodeIdError;
    fn from_str(text: &str) -> Result<Self, ParseNodeIdError> {
        if text.len() != 2 * NODE_ID_LEN || !text.is_ascii() {
            return Err(ParseNodeIdError);
        }
        let mut out = [0; NODE_ID_LEN];
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| ParseNodeIdError)?;
        }
        Ok(Self(out))
    }
}

/// A distance on the ring, 160 bits big-endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Distance(pub [u8; NODE_ID_LEN]);

impl Distance {
    /// The largest distance.
    pub const MAX: Self = Self([0xff; NODE_ID_LEN]);

    /// The first 64 bits.
    #[must_use]
    pub const fn prefix(&self) -> u64 {
        NodeId(self.0).prefix()
    }

    /// Bits in front of the highest one that is set (0 to 160): the length of the common prefix of two nodes that lie this far apart by XOR.
    #[must_use]
    pub fn leading_zeros(&self) -> u32 {
        NodeId(self.0).common_prefix_len(&NodeId::default())
    }

    /// A distance whose first 64 bits are `prefix`, zero below.
    #[must_use]
    pub fn from_prefix(prefix: u64) -> Self {
        let mut out = [0; NODE_ID_LEN];
        out[..8].copy_from_slice(&prefix.to_be_bytes());
        Self(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_id() -> impl Strategy<Value = NodeId> {
        any::<[u8; NODE_ID_LEN]>().prop_map(NodeId)
    }

    proptest! {
        #[test]
        fn going_there_and_back_is_a_full_circle(a in any_id(), b in any_id()) {
            prop_assume!(a != b);
            prop_assert_eq!(a.plus(&a.clockwise_to(&b)), b);
            prop_assert_eq!(b.plus(&b.clockwise_to(&a)), a);
            prop_assert_eq!(b.less(&a.clockwise_to(&b)), a);
            prop_assert_eq!(a.distance_to(&b), b.distance_to(&a));
        }

        #[test]
        fn a_third_point_lies_on_exactly_one_side(a in any_id(), b in any_id(), c in any_id()) {
            prop_assume!(a != b && b != c && a != c);
            prop_assert!(c.is_between(&a, &b) != c.is_between(&b, &a));
        }

        #[test]
        fn closer_is_a_strict_order_without_ties(target in any_id(), a in any_id(), b in any_id()) {
            prop_assert_eq!(target.closer(&a, &b) == Ordering::Equal, a == b);
            prop_assert_eq!(target.closer(&a, &b), target.closer(&b, &a).reverse());
        }

        #[test]
        fn text_round_trips(a in any_id()) {
            prop_assert_eq!(a.to_string().parse::<NodeId>(), Ok(a));
        }
    }
}
