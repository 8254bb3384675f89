//! What the echo knows about the peers' dataplanes, reduced to evidence for one virtual router's election.
//!
//! Every peer is asked over every path. An answer proves that the peer's kernel forwards, and carries the role that its
//! lease table holds. A path is silent when several questions in a row got no answer in time.
//!
//! | the peer's dataplane, over any path | adverts from it | verdict | what a backup does |
//! |---|---|---|---|
//! | never answered (echo off, keepalived, no program) | – | [`Absent`] | plain VRRP: takes over when the timer expires |
//! | answers "active" | come | [`Held`] | nothing |
//! | answers "active" | stopped: daemon starved or restarting, or the advert path broken | [`Held`] | waits, says so: forwarding goes on, and two actives would be worse |
//! | answers "expired": the daemon has not renewed its lease | stopped | [`Expired`] | takes over as soon as an advert is overdue; the peer no longer answers ARP/ND |
//! | answers "yielding" | priority 0 | [`Yielding`] | takes over after the skew |
//! | answers "backup", "fault" or "none" | – | [`Free`] | plain VRRP |
//! | the active is silent on every path | overdue by a quarter interval | [`Silent`] | takes over at once, before the timer |
//! | the active is silent on every path | still come | [`Silent`] | nothing: the adverts count |
//! | the active is silent on one path of several | – | as the other path says | nothing; the path is reported |
//!
//! The grace time of a dead daemon is its lease, and the lease is judged by the peer's own program with the peer's own
//! clock: the backup takes over because it was told, not because it guessed how long the other one waits.
//! An active whose peer answers "active" with a better claim steps back, even if no advert gets through.
//!
//! [`Absent`]: Verdict::Absent
//! [`Held`]: Verdict::Held
//! [`Expired`]: Verdict::Expired
//! [`Yielding`]: Verdict::Yielding
//! [`Free`]: Verdict::Free
//! [`Silent`]: Verdict::Silent

use core::time::Duration;

use super::echo::{Answer, EchoReject, FRAME_LEN, Key, Question, Role};

/// How the peers are asked about one virtual router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EchoConfig {
    /// Time between questions on one path; several to an advertisement interval.
    pub period: Duration,
    /// How many unanswered questions in a row make a path silent. At least 2.
    pub misses: u32,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Node numbers of the peers, and how many paths lead to each; path 0 is the interface of the adverts.
    pub peers: Vec<(u8, u8)>,
}

impl EchoConfig {
    /// Five questions per interval, four misses.
    #[must_use]
    pub fn for_interval(interval: Duration, peers: Vec<(u8, u8)>) -> Self {
        let period = interval / 5;
        Self {
            period,
            misses: 4,
            timeout: period,
            peers,
        }
    }
}

/// What the peers' dataplanes say, taken together: the greatest, so that what forbids to take over weighs most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    #[default]
    Absent,
    Free,
    Silent,
    Expired,
    Yielding,
    Held,
}

/// News for a router's state machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    pub verdict: Verdict,
    /// The active does not answer on the path that the adverts take: it would not hear ours.
    pub active_deaf: bool,
    /// Priority and rank of the best peer whose dataplane says that it is active.
    pub rival: Option<(u8, u64)>,
    /// How many peers there are.
    pub peers: u8,
}

/// A path went silent or came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathChange {
    pub peer: u8,
    pub path: u8,
    pub up: bool,
}

/// A question to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    pub peer: u8,
    pub path: u8,
    pub frame: [u8; FRAME_LEN],
}

/// The echo of one virtual router.
#[derive(Clone, Debug)]
pub struct Watch {
    config: EchoConfig,
    key: Key,
    node: u8,
    router: u16,
    epoch: u64,
    sequence: u32,
    next: Duration,
    peers: Vec<Peer>,
}

#[derive(Clone, Debug)]
struct Peer {
    node: u8,
    /// Latest answer and when its question was sent.
    said: Option<(Answer, Duration)>,
    paths: Vec<Path>,
}

#[derive(Clone, Debug, Default)]
struct Path {
    up: bool,
    unanswered: u32,
    silent_at: Option<Duration>,
    /// Questions that may still be answered: sequence and time.
    asked: [Option<(u32, Duration)>; 16],
}

impl Watch {
    /// `epoch` is random, drawn anew at each start of the daemon.
    #[must_use]
    pub fn new(config: EchoConfig, key: Key, node: u8, router: u16, epoch: u64) -> Self {
        let peers = config
            .peers
            .iter()
            .map(|&(node, paths)| Peer {
                node,
                said: None,
                paths: vec![Path::default(); paths.into()],
            })
            .collect();
        Self {
            config,
            key,
            node,
            router,
            epoch,
            sequence: 0,
            next: Duration::ZERO,
            peers,
        }
    }

    /// When [`poll`](Self::poll) is due.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        let silent = self
            .paths()
            .filter(|path| path.up)
            .filter_map(|path| path.silent_at)
            .min();
        silent.map_or(self.next, |at| at.min(self.next))
    }

    /// Questions that are due, and paths that went silent. To be called when received answers have been delivered.
    pub fn poll(&mut self, now: Duration, asks: &mut Vec<Ask>, changes: &mut Vec<PathChange>) {
        let stalled = now > self.next + self.config.period * self.config.misses;
        if stalled {
            // We did not run, so what we did not hear says nothing about the peer.
            self.forgive();
        }
        for peer in &mut self.peers {
            for (number, path) in (0u8..).zip(&mut peer.paths) {
                if path.up && path.silent_at.is_some_and(|at| at <= now) {
                    path.up = false;
                    changes.push(PathChange {
                        peer: peer.node,
                        path: number,
                        up: false,
                    });
                }
            }
        }
        if now < self.next {
            return;
        }
        let on_time = now < self.next + self.config.period;
        self.next = if on_time {
            self.next + self.config.period
        } else {
            now + self.config.period
        };
        self.sequence = self.sequence.wrapping_add(1);
        for peer in &mut self.peers {
            for (number, path) in (0u8..).zip(&mut peer.paths) {
                let question = Question {
                    asking: self.node,
                    answering: peer.node,
                    router: self.router,
                    epoch: self.epoch,
                    sequence: self.sequence,
                    path: number,
                };
                path.asked.rotate_right(1);
                path.asked[0] = Some((self.sequence, now));
                path.unanswered = path.unanswered.saturating_add(1);
                if path.unanswered >= self.config.misses && path.silent_at.is_none() {
                    path.silent_at = Some(now + self.config.timeout);
                }
                asks.push(Ask {
                    peer: peer.node,
                    path: number,
                    frame: question.frame(&self.key),
                });
            }
        }
    }

    /// Takes an answer that [`Answer::decode`] authenticated and that names this router.
    ///
    /// # Errors
    /// The reason to count.
    pub fn answered(
        &mut self,
        now: Duration,
        answer: &Answer,
    ) -> Result<Option<PathChange>, EchoReject> {
        let question = answer.question;
        let asked = question.asking == self.node
            && question.epoch == self.epoch
            && question.router == self.router;
        let peer = self
            .peers
            .iter_mut()
            .find(|peer| peer.node == question.answering && asked);
        let peer = peer.ok_or(EchoReject::NotAsked)?;
        let path = peer
            .paths
            .get_mut(usize::from(question.path))
            .ok_or(EchoReject::NotAsked)?;
        let slot = path
            .asked
            .iter()
            .position(|slot| slot.is_some_and(|(sequence, _)| sequence == question.sequence));
        let slot = slot.ok_or(EchoReject::Stale)?;
        let sent = path.asked[slot]
            .take()
            .map_or(Duration::ZERO, |(_, sent)| sent);
        // Old news is not a sign of life.
        if now > sent + self.config.period * self.config.misses + self.config.timeout {
            return Err(EchoReject::Stale);
        }
        // Questions before this one no longer matter, those after it are still open.
        let later = path.asked.iter().take(slot).flatten().count();
        path.asked
            .iter_mut()
            .skip(slot)
            .for_each(|slot| *slot = None);
        path.unanswered = u32::try_from(later).unwrap_or(0).min(path.unanswered);
        path.silent_at = None;
        // Two paths answer out of order: the question asked last decides what the role is.
        if peer.said.is_none_or(|(_, before)| before <= sent) {
            peer.said = Some((*answer, sent));
        }
        let came_up = !core::mem::replace(&mut path.up, true);
        Ok(came_up.then_some(PathChange {
            peer: question.answering,
            path: question.path,
            up: true,
        }))
    }

    /// Forgets what was missed: this node itself did not run.
    pub fn forgive(&mut self) {
        for path in self.peers.iter_mut().flat_map(|peer| &mut peer.paths) {
            path.unanswered = 0;
            path.silent_at = None;
        }
    }

    /// What the answers mean to a router that hears adverts from the node with this [`rank`](super::rank).
    #[must_use]
    pub fn evidence(&self, active: Option<u64>) -> Evidence {
        let mut evidence = Evidence {
            peers: u8::try_from(self.peers.len()).unwrap_or(u8::MAX),
            ..Evidence::default()
        };
        for peer in &self.peers {
            let Some((said, _)) = peer.said else { continue };
            let is_active = active == Some(said.rank);
            let answers = peer.paths.iter().any(|path| path.up);
            let verdict = match (answers, said.role) {
                (true, Role::Active) => {
                    evidence.rival = evidence.rival.max(Some((said.priority, said.rank)));
                    Verdict::Held
                }
                // Only of the node that is active now: another one may have died or yielded long ago.
                (true, Role::Yielding) if is_active => Verdict::Yielding,
                (true, Role::Expired) if is_active => Verdict::Expired,
                (false, Role::Active | Role::Yielding | Role::Expired) if is_active => {
                    Verdict::Silent
                }
                _ => Verdict::Free,
            };
            evidence.verdict = evidence.verdict.max(verdict);
            evidence.active_deaf |= is_active && !peer.paths.first().is_some_and(|path| path.up);
        }
        evidence
    }

    /// Peer, path and whether it answers: for status and metrics.
    pub fn path_states(&self) -> impl Iterator<Item = PathChange> + '_ {
        self.peers.iter().flat_map(|peer| {
            (0u8..).zip(&peer.paths).map(|(path, state)| PathChange {
                peer: peer.node,
                path,
                up: state.up,
            })
        })
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        self.peers.iter().flat_map(|peer| &peer.paths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vrrp::echo::{self, Lease};

    const KEY: Key = Key { k0: 1, k1: 2 };
    const RANK: u64 = 0xc000_0202;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Two paths to node 2, asked every 2 ms, four misses, 2 ms for an answer.
    fn watch() -> Watch {
        let config = EchoConfig::for_interval(ms(10), vec![(2, 2)]);
        Watch::new(config, KEY, 1, 51, 0xfeed)
    }

    fn poll(watch: &mut Watch, now: u64) -> (Vec<Ask>, Vec<PathChange>) {
        let (mut asks, mut changes) = (vec![], vec![]);
        watch.poll(ms(now), &mut asks, &mut changes);
        (asks, changes)
    }

    fn reply(ask: &Ask, role: Role) -> Answer {
        let mut frame = ask.frame;
        let lease = |_| Lease::new(u64::MAX, RANK, role, 200);
        assert!(echo::answer(&mut frame, &KEY, 2, 0, lease));
        Answer::decode(&frame, &KEY).expect("an answer")
    }

    fn answer_path(watch: &mut Watch, now: u64, path: u8, role: Role) {
        let (asks, _) = poll(watch, now);
        let ask = asks
            .iter()
            .find(|ask| ask.path == path)
            .expect("every path is asked");
        watch
            .answered(ms(now), &reply(ask, role))
            .expect("accepted");
    }

    fn verdict(watch: &Watch) -> Verdict {
        watch.evidence(Some(RANK)).verdict
    }

    #[test]
    fn silent_is_only_an_active_that_answers_on_no_path() {
        let mut watch = watch();
        assert_eq!(verdict(&watch), Verdict::Absent);
        answer_path(&mut watch, 0, 0, Role::Active);
        answer_path(&mut watch, 2, 1, Role::Active);
        for now in [4, 6, 8] {
            assert_eq!(poll(&mut watch, now).1, []);
        }
        assert_eq!(
            poll(&mut watch, 10).1,
            [PathChange {
                peer: 2,
                path: 0,
                up: false
            }]
        );
        assert_eq!(
            verdict(&watch),
            Verdict::Held,
            "the other path still counts"
        );
        assert!(
            watch.evidence(Some(RANK)).active_deaf,
            "but adverts do not travel there"
        );
        assert_eq!(
            poll(&mut watch, 12).1,
            [PathChange {
                peer: 2,
                path: 1,
                up: false
            }]
        );
        assert_eq!(verdict(&watch), Verdict::Silent);
        assert_eq!(
            watch.evidence(Some(RANK + 1)).verdict,
            Verdict::Free,
            "another node is the active"
        );
    }

    #[test]
    fn what_it_did_not_hear_while_it_did_not_run_says_nothing() {
        let mut watch = watch();
        answer_path(&mut watch, 0, 0, Role::Active);
        for now in [2, 4, 6, 8] {
            poll(&mut watch, now);
        }
        assert_eq!(poll(&mut watch, 500).1, []);
        assert_eq!(verdict(&watch), Verdict::Held);
        for now in [502, 504, 506] {
            poll(&mut watch, now);
        }
        assert_eq!(
            poll(&mut watch, 508).1.len(),
            1,
            "silence after that counts again"
        );
    }

    #[test]
    fn old_repeated_and_foreign_answers_are_refused() {
        let mut watch = watch();
        let (asks, _) = poll(&mut watch, 0);
        let answer = reply(&asks[0], Role::Active);
        assert_eq!(watch.answered(ms(11), &answer), Err(EchoReject::Stale));
        let (asks, _) = poll(&mut watch, 12);
        let answer = reply(&asks[0], Role::Active);
        assert_eq!(
            watch.answered(ms(12), &answer),
            Ok(Some(PathChange {
                peer: 2,
                path: 0,
                up: true
            }))
        );
        assert_eq!(
            watch.answered(ms(12), &answer),
            Err(EchoReject::Stale),
            "replayed"
        );
        let mut other = Watch::new(
            EchoConfig::for_interval(ms(10), vec![(2, 2)]),
            KEY,
            1,
            51,
            0xbeef,
        );
        poll(&mut other, 0);
        assert_eq!(
            other.answered(ms(0), &answer),
            Err(EchoReject::NotAsked),
            "of a former life"
        );
    }

    #[test]
    fn the_latest_question_decides_the_role_whichever_path_answers_last() {
        let mut watch = watch();
        let (old, _) = poll(&mut watch, 0);
        let (new, _) = poll(&mut watch, 2);
        watch
            .answered(ms(3), &reply(&new[0], Role::Backup))
            .expect("accepted");
        watch
            .answered(ms(3), &reply(&old[1], Role::Active))
            .expect("accepted");
        assert_eq!(verdict(&watch), Verdict::Free);
    }
}
