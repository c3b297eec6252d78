//! Loss of probes on one path, and how many unanswered ones mean that nobody is there.

/// One in this many of the display estimate is the newest probe.
const MEAN_GAIN: u32 = 16;
/// A lost probe moves the cautious estimate by this part of the way.
const RISE_GAIN: u32 = 8;
/// An answered probe moves the cautious estimate by this part of the way: doubt comes faster than trust.
const FALL_GAIN: u32 = 32;
/// Estimates are kept in 1/64 permille, so that small steps are not rounded away.
const SCALE: u32 = 64;
/// The cautious estimate before anything was measured, in permille: as if 30 % were lost in each direction.
const FIRST_CAUTIOUS: u16 = 550;

/// Fewest unanswered probes that mean death. A path that has been clean and suddenly loses 30 % in each direction leaves this many unanswered
/// with probability 0.51^16 = 2e-5, and by the next time the estimate has risen.
pub(super) const MIN_PROBES: u8 = 16;
/// Most unanswered probes that are waited for: 0.51^32 = 4e-10. A path that loses more than 30 % in each direction is false-alarm prone, not unusable.
pub(super) const MAX_PROBES: u8 = 32;

/// `(q, n)`: up to a round-trip loss of `q` permille, `n` probes are all lost with probability below 1e-9 (`q^n <= 1e-9`, so `q = 10^(-9/n)`).
const NEEDED: [(u16, u8); 8] = [(273, MIN_PROBES), (316, 18), (354, 20), (389, 22), (421, 24), (450, 26), (477, 28), (501, 30)];

/// Two estimates of the share of probes that stay unanswered (round trip).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Loss {
    mean: u16,
    cautious: u16,
}

impl Default for Loss {
    fn default() -> Self {
        Self { mean: 0, cautious: FIRST_CAUTIOUS * SCALE as u16 }
    }
}

impl Loss {
    /// A probe was answered.
    pub(super) fn answered(&mut self) {
        self.mean = towards(self.mean, 0, MEAN_GAIN);
        self.cautious = towards(self.cautious, 0, FALL_GAIN);
    }

    /// A probe was not answered in time.
    pub(super) fn lost(&mut self) {
        self.mean = towards(self.mean, 1000, MEAN_GAIN);
        self.cautious = towards(self.cautious, 1000, RISE_GAIN);
    }

    /// Share of probes that stay unanswered, 0 to 1000 permille.
    pub(super) const fn permille(&self) -> u16 {
        self.mean / SCALE as u16
    }

    /// How many probes in a row must stay unanswered before nobody is there, [`MIN_PROBES`] to [`MAX_PROBES`].
    pub(super) fn needed(&self) -> u8 {
        let cautious = self.cautious / SCALE as u16;
        NEEDED.iter().find(|(upto, _)| cautious <= *upto).map_or(MAX_PROBES, |&(_, probes)| probes)
    }
}

/// `from`, moved `1 / gain` of the way to `to` permille.
fn towards(from: u16, to: u32, gain: u32) -> u16 {
    ((u32::from(from) * (gain - 1) + to * SCALE) / gain) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// Plays `probes` probes over a path that loses `one_way` permille in each direction; returns the lowest number needed in the second half.
    fn fewest_needed(one_way: u64, probes: u32, seed: u8) -> (u8, u16) {
        let mut rng = Rng::new([seed; 32]);
        let mut loss = Loss::default();
        let mut fewest = u8::MAX;
        for i in 0..probes {
            let there = rng.below(1000) >= one_way;
            if there && rng.below(1000) >= one_way {
                loss.answered()
            } else {
                loss.lost()
            }
            if i > probes / 2 {
                fewest = fewest.min(loss.needed());
            }
        }
        (fewest, loss.permille())
    }

    #[test]
    fn at_thirty_percent_loss_the_number_never_falls_below_twenty_four() {
        for seed in 0..20 {
            let (fewest, permille) = fewest_needed(300, 100_000, seed);
            assert!(fewest >= 24, "{fewest} with seed {seed}");
            assert!((150..=850).contains(&permille), "{permille}");
        }
    }

    #[test]
    fn a_clean_path_needs_the_fewest_and_a_new_one_the_most() {
        assert_eq!(Loss::default().needed(), MAX_PROBES);
        assert_eq!(Loss::default().permille(), 0);
        assert_eq!(fewest_needed(0, 200, 1), (MIN_PROBES, 0));
        let (fewest, _) = fewest_needed(50, 10_000, 1);
        assert!(fewest >= 8, "the issue asks for at least 8 at 5 %");
    }

    #[test]
    fn every_row_of_the_table_keeps_its_promise() {
        // q^n <= 1e-9, in logarithms; floats are fine in a test.
        for (permille, probes) in NEEDED {
            let logarithm = f64::from(probes) * (f64::from(permille) / 1000.0).log10();
            assert!(logarithm <= -9.0, "{permille} {probes}: {logarithm}");
        }
        assert!(0.51f64.powi(MAX_PROBES.into()) < 1e-9);
    }

    #[test]
    fn a_sudden_loss_is_believed_within_a_few_probes() {
        let mut loss = Loss::default();
        for _ in 0..500 {
            loss.answered();
        }
        assert_eq!(loss.needed(), MIN_PROBES);
        for _ in 0..6 {
            loss.lost();
        }
        assert_eq!(loss.needed(), MAX_PROBES);
    }
}
