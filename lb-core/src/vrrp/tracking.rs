//! From what a node observes about itself to the priority it may claim.

/// A node's standing in one virtual router's election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// 1..=255; 255 only for the owner of the addresses.
    pub priority: u8,
    /// Takes no part in the election.
    pub fault: bool,
}

impl Standing {
    #[must_use]
    pub const fn at(priority: u8) -> Self {
        Self {
            priority,
            fault: false,
        }
    }

    /// Standing of a sync group: as bad as its worst member's.
    #[must_use]
    pub fn worst(self, other: Self) -> Self {
        Self {
            priority: self.priority.min(other.priority),
            fault: self.fault || other.fault,
        }
    }
}

/// What a tracked thing costs while it is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Lowers the priority by this much, to 1 at the least.
    Lower(u8),
    /// Takes the virtual router out of the election.
    Fault,
}

/// A tracked thing: link, gateway, script, file, a service's healthy backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Track {
    pub effect: Effect,
    pub up: bool,
}

/// The standing that follows from a configured priority and what is tracked.
///
/// `ready` is false until the node's state is complete. Such a node claims priority 1: it never preempts, the ready
/// node preempts it, and it still serves when there is nobody else.
#[must_use]
pub fn standing(configured: u8, ready: bool, tracks: &[Track]) -> Standing {
    let mut priority = configured.max(1);
    let mut fault = false;
    for track in tracks.iter().filter(|track| !track.up) {
        match track.effect {
            Effect::Lower(by) => priority = priority.saturating_sub(by).max(1),
            Effect::Fault => fault = true,
        }
    }
    if !ready {
        priority = 1;
    }
    Standing { priority, fault }
}

/// What to believe of something that is asked again and again.
#[derive(Clone, Copy, Debug)]
pub struct Streak {
    fall: u8,
    rise: u8,
    up: Option<bool>,
    /// Answers in a row that contradict `up`.
    against: u8,
}

impl Streak {
    /// `fall` failures in a row, and `rise` successes, are believed.
    #[must_use]
    pub const fn new(fall: u8, rise: u8) -> Self {
        Self {
            fall,
            rise,
            up: None,
            against: 0,
        }
    }

    /// Takes an answer; what is believed now, if that is news. The first answer is believed at once.
    pub fn take(&mut self, well: bool) -> Option<bool> {
        if self.up == Some(well) {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        let enough = if well { self.rise } else { self.fall };
        if self.up.is_some() && self.against < enough {
            return None;
        }
        self.against = 0;
        self.up = Some(well);
        self.up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streak_is_believed_after_so_many_in_a_row() {
        let mut streak = Streak::new(3, 2);
        let answers = [
            true, false, false, true, false, false, false, true, false, true, true,
        ];
        let news: Vec<Option<bool>> = answers.map(|well| streak.take(well)).to_vec();
        let mut expected = vec![None; answers.len()];
        expected[0] = Some(true);
        expected[6] = Some(false);
        expected[10] = Some(true);
        assert_eq!(news, expected);
        assert_eq!(
            Streak::new(3, 2).take(false),
            Some(false),
            "the first decides alone"
        );
    }

    #[test]
    fn what_is_down_lowers_and_what_is_vital_faults() {
        let lower = Track {
            effect: Effect::Lower(60),
            up: false,
        };
        let vital = Track {
            effect: Effect::Fault,
            up: false,
        };
        let fine = Track {
            effect: Effect::Fault,
            up: true,
        };
        assert_eq!(standing(150, true, &[fine]), Standing::at(150));
        assert_eq!(standing(150, true, &[lower, fine]), Standing::at(90));
        assert_eq!(standing(100, true, &[lower, lower]), Standing::at(1));
        assert!(standing(150, true, &[lower, vital]).fault);
        assert_eq!(standing(255, false, &[fine]), Standing::at(1));
    }
}
