//! Time as certificates write it.

use core::fmt;
use core::time::Duration;

use der::DateTime;
use x509_cert::time::{Time, Validity};

use crate::time::UnixTime;

/// The last second that a certificate can name: 9999-12-31T23:59:59Z.
const LAST: u64 = 253_402_300_799;

/// A time in the form that people read.
#[derive(Clone, Copy, Debug)]
pub struct Utc(UnixTime);

/// `time` for a text that people read.
#[must_use]
pub const fn utc(time: &UnixTime) -> Utc {
    Utc(*time)
}

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&date_time(self.0), f)
    }
}

fn date_time(time: UnixTime) -> DateTime {
    DateTime::from_unix_duration(Duration::from_secs(time.0.min(LAST))).expect("every second up to 9999 is a date")
}

/// Both ends, included, as a certificate writes them; what lies behind the year 9999 becomes its last second.
pub(super) fn encode(not_before: UnixTime, not_after: UnixTime) -> Validity {
    Validity::new(Time::from(date_time(not_before)), Time::from(date_time(not_after)))
}

/// Both ends, included; `None` when the end lies before the start.
pub(super) fn decode(validity: &Validity) -> Option<(UnixTime, UnixTime)> {
    let ends = (UnixTime(validity.not_before.to_unix_duration().as_secs()), UnixTime(validity.not_after.to_unix_duration().as_secs()));
    (ends.0 <= ends.1).then_some(ends)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_time_is_shown_as_a_date() {
        assert_eq!(utc(&UnixTime(1_795_334_903)).to_string(), "2026-11-22T08:08:23Z");
        assert_eq!(utc(&UnixTime(u64::MAX)).to_string(), "9999-12-31T23:59:59Z");
    }

    proptest! {
        #[test]
        fn both_ends_read_back_as_written(from in 0..=LAST, to in 0..=LAST) {
            let ends = (UnixTime(from), UnixTime(to));
            prop_assert_eq!(decode(&encode(ends.0, ends.1)), (from <= to).then_some(ends));
        }
    }
}
