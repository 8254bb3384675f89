//! When the active repeats its gratuitous ARP / unsolicited NA: once is lost too easily, for ever is noise.

use core::time::Duration;

/// How often addresses are announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnnounceConfig {
    /// Announcements after becoming active, the first one at once. At least 1.
    pub repeats: u8,
    /// Time between them.
    pub gap: Duration,
    /// Repeat for as long as the node is active, for switches and hosts that forget.
    pub refresh: Option<Duration>,
}

impl Default for AnnounceConfig {
    fn default() -> Self {
        Self {
            repeats: 5,
            gap: Duration::from_millis(200),
            refresh: Some(Duration::from_secs(60)),
        }
    }
}

/// The announcements that are still to come.
#[derive(Clone, Debug)]
pub(super) struct Announcer {
    config: AnnounceConfig,
    left: u8,
    next: Option<Duration>,
    last: Option<Duration>,
}

impl Announcer {
    pub(super) fn new(config: AnnounceConfig) -> Self {
        Self {
            config,
            left: 0,
            next: None,
            last: None,
        }
    }

    /// Starts a series at `at`; a series that is under way is replaced.
    pub(super) fn start(&mut self, at: Duration) {
        self.left = self.config.repeats.max(1);
        self.next = Some(at);
    }

    /// Starts a series unless one began within `quiet`: what a rival's every advert may ask for.
    pub(super) fn restart(&mut self, now: Duration, at: Duration, quiet: Duration) {
        let recent = self.last.is_some_and(|last| now < last + quiet);
        if !recent && self.next.is_none_or(|next| next > at) {
            self.start(at);
        }
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.next
    }

    /// Whether an announcement is due; at most one, however late the call.
    pub(super) fn due(&mut self, now: Duration) -> bool {
        if self.next.is_none_or(|next| now < next) {
            return false;
        }
        self.last = Some(now);
        self.left = self.left.saturating_sub(1);
        self.next = if self.left > 0 {
            Some(now + self.config.gap)
        } else {
            self.config.refresh.map(|r| now + r)
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn repeats_then_refreshes_and_never_bursts() {
        let config = AnnounceConfig {
            repeats: 3,
            gap: 10 * MS,
            refresh: Some(100 * MS),
        };
        let mut announcer = Announcer::new(config);
        assert!(!announcer.due(5 * MS));
        announcer.start(Duration::ZERO);
        let times: Vec<u32> = (0..400).filter(|&t| announcer.due(t * MS)).collect();
        assert_eq!(times, [0, 10, 20, 120, 220, 320]);

        assert!(announcer.due(5000 * MS));
        assert!(!announcer.due(5000 * MS), "a stall is not made up for");
    }

    #[test]
    fn a_rival_cannot_make_it_announce_all_the_time() {
        let mut announcer = Announcer::new(AnnounceConfig {
            repeats: 1,
            gap: MS,
            refresh: None,
        });
        let sent = (0..100)
            .filter(|&t| {
                announcer.restart(t * MS, t * MS, 30 * MS);
                announcer.due(t * MS)
            })
            .count();
        assert_eq!(sent, 4);
    }
}
