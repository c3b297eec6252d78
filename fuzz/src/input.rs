//! Choices out of the fuzzer's bytes.

/// Takes choices from the front of an input; every choice behind its end is 0.
#[derive(Clone, Debug)]
pub(crate) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn u8(&mut self) -> u8 {
        let Some((&first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        first
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.u8(), self.u8()])
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from(self.u16()) << 16 | u32::from(self.u16())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from(self.u32()) << 32 | u64::from(self.u32())
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.u8() & 1 == 1
    }

    /// A number below `bound`, 0 when `bound` is 0. One byte where that is enough.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let choice = if bound <= 256 { usize::from(self.u8()) } else { usize::from(self.u16()) };
        choice % bound.max(1)
    }

    /// Up to `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// A byte string behind its length: one byte, and two from 255 on.
    pub(crate) fn chunk(&mut self) -> &'a [u8] {
        let len = match self.u8() {
            255 => usize::from(self.u16()),
            len => usize::from(len),
        };
        self.take(len)
    }

    /// `N` bytes, zeros where the input ends.
    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let taken = self.take(N);
        out[..taken.len()].copy_from_slice(taken);
        out
    }
}

/// Changes bytes as the input says: single bits and bytes, cuts, insertions.
pub(crate) fn edit(bytes: &mut Vec<u8>, input: &mut Input<'_>) {
    for _ in 0..=input.u8() % 4 {
        let at = usize::from(input.u16()) % (bytes.len() + 1);
        match input.u8() % 6 {
            0 if at < bytes.len() => bytes[at] ^= 1 << (input.u8() % 8),
            1 if at < bytes.len() => bytes[at] = input.u8(),
            2 => bytes.truncate(at),
            3 => {
                let with = input.chunk();
                bytes.splice(at..at, with.iter().copied());
            }
            4 => {
                let with = input.chunk();
                let end = (at + with.len()).min(bytes.len());
                bytes[at..end].copy_from_slice(&with[..end - at]);
            }
            _ => {
                let end = (at + usize::from(input.u8())).min(bytes.len());
                bytes.drain(at..end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_the_end_every_choice_is_zero() {
        let mut input = Input::new(&[7]);
        assert_eq!((input.u16(), input.u8(), input.below(5), input.chunk()), (0x700, 0, 0, &[][..]));
        assert!(input.is_empty());
        assert_eq!(Input::new(&[1, 2]).array::<4>(), [1, 2, 0, 0]);
    }

    #[test]
    fn a_chunk_stands_behind_its_length() {
        let mut long = vec![255, 1, 0];
        long.extend([9; 300]);
        let mut input = Input::new(&long);
        assert_eq!(input.chunk(), [9; 256]);
        assert_eq!(Input::new(&[2, 5, 6, 7]).chunk(), [5, 6]);
        assert_eq!(Input::new(&[9, 5]).chunk(), [5]);
    }

    #[test]
    fn edits_stay_within_the_bytes() {
        for seed in 0..2_000u32 {
            let program: Vec<u8> = (0..24).map(|i| (seed.wrapping_mul(2_654_435_761) >> (i % 25)) as u8 ^ i as u8).collect();
            for len in [0, 1, 40] {
                edit(&mut vec![0; len], &mut Input::new(&program));
            }
        }
    }
}
