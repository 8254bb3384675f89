//! Which backends take no new flows because somebody said so, until when they keep those that they have, and what becomes of
//! these then.
//!
//! ```text
//!            file: drain = true, or `futago drain`           deadline
//!  (serves) ───────────────────────────────────────► draining ───────► over: its flows are reset, or moved
//!     ▲                                                 │                │
//!     └─────── file without it, or `futago undrain` ────┴────────────────┘
//! ```
//! Nothing of this outlives the daemon: with the next one the time of a drain from the file begins anew, and one by command is
//! forgotten.

use core::time::Duration;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{BackendKey, Model, OnDrainEnd, Service, ServiceKey};

/// A backend of a service.
pub type Id = (ServiceKey, BackendKey);

/// Who asked for a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// `drain = true`
    File,
    /// `futago drain`
    Command,
}

/// A drain, as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    pub origin: Origin,
    pub since: Duration,
    /// `None`: until its flows end by themselves.
    pub until: Option<Duration>,
    /// What becomes of the flows that are left at `until`.
    pub at_end: OnDrainEnd,
    /// `until` has passed.
    pub over: bool,
}

/// Why a drain cannot be ended by command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotUndrained {
    #[error("it is not drained")]
    NotDrained,
    #[error("the file drains it: remove `drain = true` there, and `futago reload`")]
    ByFile,
}

/// All drains.
#[derive(Clone, Debug, Default)]
pub struct Drains {
    entries: BTreeMap<Id, Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    drain: Drain,
    /// A deadline of its own, for this long after `since`; else the service's.
    own: Option<Duration>,
    /// Whether the file drains it as well.
    in_file: bool,
}

impl Drains {
    /// Follows a model: what its file drains is drained from now on unless it is already, deadlines are those of its services, and
    /// backends that it has not are forgotten.
    pub fn follow(&mut self, now: Duration, model: &Model) {
        let before = core::mem::take(&mut self.entries);
        for service in &model.services {
            for backend in &service.backends {
                let id = (service.key(), backend.key());
                let entry = match (before.get(&id), backend.drain) {
                    (Some(old), in_file) if in_file || old.drain.origin == Origin::Command => {
                        Entry { in_file, ..*old }
                    }
                    (_, true) => Entry::new(now, Origin::File, None, service),
                    (_, false) => continue,
                };
                self.entries.insert(id, entry.following(now, service));
            }
        }
    }

    /// Drains a backend by command; `keep` is for how long it keeps its flows, where that is not what its service says.
    pub fn begin(
        &mut self,
        now: Duration,
        service: &Service,
        backend: BackendKey,
        keep: Option<Duration>,
    ) {
        let id = (service.key(), backend);
        let in_file = self.entries.get(&id).is_some_and(|old| old.in_file);
        let entry = Entry {
            in_file,
            ..Entry::new(now, Origin::Command, keep, service)
        };
        self.entries.insert(id, entry.following(now, service));
    }

    /// Ends a drain by command.
    pub fn end(&mut self, id: &Id) -> Result<(), NotUndrained> {
        match self.entries.get(id) {
            None => Err(NotUndrained::NotDrained),
            Some(entry) if entry.in_file => Err(NotUndrained::ByFile),
            Some(_) => {
                self.entries.remove(id);
                Ok(())
            }
        }
    }

    pub fn get(&self, id: &Id) -> Option<&Drain> {
        self.entries.get(id).map(|entry| &entry.drain)
    }

    /// When the next drain is over.
    pub fn next_deadline(&self) -> Option<Duration> {
        let open = self.entries.values().filter(|entry| !entry.drain.over);
        open.filter_map(|entry| entry.drain.until).min()
    }

    /// Ends what is due; the backends whose drain is over since.
    pub fn poll(&mut self, now: Duration) -> Vec<Id> {
        let mut ended = Vec::new();
        for (id, Entry { drain, .. }) in &mut self.entries {
            if !drain.over && drain.until.is_some_and(|until| until <= now) {
                drain.over = true;
                ended.push(*id);
            }
        }
        ended
    }
}

impl Entry {
    fn new(now: Duration, origin: Origin, own: Option<Duration>, service: &Service) -> Self {
        Self {
            drain: Drain {
                origin,
                since: now,
                until: None,
                at_end: service.drain.at_end,
                over: false,
            },
            own,
            in_file: origin == Origin::File,
        }
    }

    /// With the deadline that it and its service say. One that has passed is over at the next look, and one that was put off
    /// is not over any more.
    fn following(mut self, now: Duration, service: &Service) -> Self {
        let keep = self.own.or_else(|| {
            service
                .drain
                .deadline_s
                .map(|s| Duration::from_secs(s.into()))
        });
        self.drain.until = keep.map(|keep| self.drain.since.saturating_add(keep));
        self.drain.at_end = service.drain.at_end;
        self.drain.over &= self.drain.until.is_some_and(|until| until <= now);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn model(service: &str, backend: &str) -> Model {
        let text = format!(
            "node.n.interfaces = [\"eth0\"]\n[[service]]\nname = \"a\"\nvip = \"192.0.2.1\"\nport = 80\nmode = \"nat\"\n{service}\n\
             [[service.backend]]\naddress = \"10.0.0.1\"\n{backend}\n[[service.backend]]\naddress = \"10.0.0.2\"\n"
        );
        let loaded = config::parse("f", &text);
        loaded.unwrap_or_else(|report| panic!("{report}")).model
    }

    fn id(model: &Model) -> Id {
        let service = &model.services[0];
        (service.key(), service.backends[0].key())
    }

    fn until(drains: &Drains, id: &Id) -> Option<Option<Duration>> {
        drains.get(id).map(|drain| drain.until)
    }

    #[test]
    fn a_drain_of_the_file_runs_from_when_it_was_read_to_its_deadline() {
        let model = model("drain_s = 60", "drain = true");
        let id = id(&model);
        let mut drains = Drains::default();
        drains.follow(at(10), &model);
        drains.follow(at(30), &model);
        assert_eq!(until(&drains, &id), Some(Some(at(70))));
        assert_eq!(drains.next_deadline(), Some(at(70)));
        assert_eq!(drains.poll(at(69)), []);
        assert_eq!(drains.poll(at(70)), [id]);
        assert_eq!(drains.poll(at(71)), []);
        assert_eq!(drains.next_deadline(), None);
        let drain = drains.get(&id).expect("it is");
        assert!(drain.over);
        assert_eq!(drain.at_end, OnDrainEnd::Rehash);
        drains.follow(at(80), &model);
        assert!(
            drains.get(&id).expect("it is").over,
            "a reload changes nothing"
        );
    }

    #[test]
    fn a_reload_ends_it_or_changes_its_deadline() {
        let mut drains = Drains::default();
        let drained = model("drain_s = 60\non_drain_end = \"reset\"", "drain = true");
        let id = id(&drained);
        drains.follow(at(0), &drained);
        drains.poll(at(60));
        let longer = model("drain_s = 90", "drain = true");
        drains.follow(at(61), &longer);
        let drain = drains.get(&id).expect("it is");
        assert_eq!((drain.until, drain.over), (Some(at(90)), false));
        assert_eq!(drain.at_end, OnDrainEnd::Rehash);
        drains.follow(at(62), &model("", "drain = true"));
        assert_eq!(until(&drains, &id), Some(None));
        drains.follow(at(63), &model("", ""));
        assert_eq!(until(&drains, &id), None);
    }

    #[test]
    fn a_drain_by_command_lasts_through_reloads() {
        let model = model("drain_s = 60", "");
        let id = id(&model);
        let mut drains = Drains::default();
        drains.follow(at(0), &model);
        assert_eq!(drains.end(&id), Err(NotUndrained::NotDrained));
        drains.begin(at(5), &model.services[0], id.1, None);
        assert_eq!(until(&drains, &id), Some(Some(at(65))));
        drains.begin(at(6), &model.services[0], id.1, Some(at(4)));
        drains.follow(at(7), &model);
        assert_eq!(until(&drains, &id), Some(Some(at(10))));
        assert_eq!(drains.end(&id), Ok(()));
        assert_eq!(until(&drains, &id), None);
    }

    #[test]
    fn what_the_file_drains_no_command_undrains() {
        let drained = model("", "drain = true");
        let id = id(&drained);
        let mut drains = Drains::default();
        drains.follow(at(0), &drained);
        drains.begin(at(1), &drained.services[0], id.1, Some(at(9)));
        assert_eq!(drains.get(&id).map(|d| d.origin), Some(Origin::Command));
        assert_eq!(drains.end(&id), Err(NotUndrained::ByFile));
        drains.follow(at(2), &model("", ""));
        assert_eq!(
            until(&drains, &id),
            Some(Some(at(10))),
            "the command stands"
        );
        assert_eq!(drains.end(&id), Ok(()));
    }

    #[test]
    fn what_the_model_has_not_is_forgotten() {
        let drained = model("", "drain = true");
        let mut drains = Drains::default();
        drains.follow(at(0), &drained);
        let mut smaller = drained.clone();
        smaller.services.clear();
        drains.follow(at(1), &smaller);
        assert_eq!(drains.get(&id(&drained)), None);
    }
}
