//! The intervals that VRRP derives from an advertisement interval and a priority.

use core::time::Duration;

use super::codec::Version;

/// How much later than others a node of this priority acts.
///
/// v3: `(256 - priority) × interval / 256` (RFC 9568 §6.1), not rounded to centiseconds.
/// v2: `(256 - priority) / 256` **seconds**, whatever the interval (RFC 3768 §6.1).
#[must_use]
pub fn skew(version: Version, interval: Duration, priority: u8) -> Duration {
    let unit = match version {
        Version::V2 => Duration::from_secs(1),
        Version::V3 => interval,
    };
    unit * (256 - u32::from(priority)) / 256
}

/// How long a backup waits for an advert: `3 × interval + skew` (RFC 9568 §6.1 Active_Down_Interval).
#[must_use]
pub fn active_down(version: Version, interval: Duration, priority: u8) -> Duration {
    3 * interval + skew(version, interval, priority)
}

/// When an advert is late enough to mean something together with a silent echo: a quarter of an interval past due.
#[must_use]
pub fn overdue(interval: Duration) -> Duration {
    interval + interval / 4
}

/// How long an active that yields waits to hear its successor: the successor's longest skew, and three adverts.
#[must_use]
pub fn handover_wait(version: Version, interval: Duration) -> Duration {
    active_down(version, interval, 0) + Duration::from_millis(50)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v3_skew_scales_with_the_interval_and_keeps_microseconds() {
        let ten = Duration::from_millis(10);
        assert_eq!(skew(Version::V3, ten, 100), Duration::from_nanos(6_093_750));
        assert_eq!(
            active_down(Version::V3, ten, 100),
            Duration::from_nanos(36_093_750)
        );
        assert_eq!(skew(Version::V3, ten, 255), Duration::from_nanos(39_062));
    }

    #[test]
    fn v2_skew_is_a_fraction_of_a_second() {
        let interval = Duration::from_secs(10);
        assert_eq!(skew(Version::V2, interval, 128), Duration::from_millis(500));
        assert_eq!(
            active_down(Version::V2, interval, 128),
            Duration::from_millis(30_500)
        );
    }
}
