//! How many flows each service and each backend has, by how far they have come.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    directory::{Directory, FlowState},
    tables::Flow,
};

/// All services that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    pub services: Vec<ServiceCount>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCount {
    pub service: String,
    pub total: u64,
    pub backends: Vec<BackendCount>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendCount {
    /// Address and port; `None`: one that has left the service.
    pub backend: Option<String>,
    pub total: u64,
    /// States without flows are left out.
    pub states: BTreeMap<FlowState, u64>,
}

/// A count that is under way.
pub(super) type Tally = [u64; FlowState::ALL.len()];

/// Counts flows.
pub struct Counter<'d> {
    directory: &'d Directory,
    /// By service and by the backend's number, where 0 is for those that are not known.
    tallies: Vec<Vec<Tally>>,
}

impl<'d> Counter<'d> {
    pub fn new(directory: &'d Directory) -> Self {
        let tallies = directory
            .services()
            .iter()
            .map(|service| vec![Tally::default(); service.backends.len() + 1])
            .collect();
        Self { directory, tallies }
    }

    pub fn add(&mut self, flow: &Flow) {
        let Some(at) = self.directory.shows(flow) else {
            return;
        };
        let known = self.directory.services()[at].backend(flow.value.backend);
        let number = known.map_or(0, |_| usize::from(flow.value.backend));
        if let Some(tally) = self.tallies[at].get_mut(number) {
            tally[FlowState::from(flow.phase) as usize] += 1;
        }
    }

    /// What was counted; services and backends without flows too, if the filter names them or names none.
    pub fn finish(self) -> Count {
        let services = self.directory.services().iter().zip(self.tallies);
        let services = services.filter_map(|(service, tallies)| {
            let mut backends = Vec::new();
            for (number, tally) in (0_u16..).zip(&tallies) {
                let backend = service.backend(number);
                let total: u64 = tally.iter().sum();
                if total == 0 && backend.is_none_or(|key| !self.directory.names(service, key)) {
                    continue;
                }
                let states = FlowState::ALL.into_iter().zip(*tally);
                backends.push(BackendCount {
                    backend: backend.map(|key| key.to_string()),
                    total,
                    states: states.filter(|(_, count)| *count > 0).collect(),
                });
            }
            let is_shown = !backends.is_empty() || self.directory.names_service(service);
            is_shown.then(|| ServiceCount {
                service: service.name.clone(),
                total: backends.iter().map(|backend| backend.total).sum(),
                backends,
            })
        });
        Count {
            services: services.collect(),
        }
    }
}
