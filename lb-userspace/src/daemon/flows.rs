//! The recorded flows, as they are shown to those who ask.

use lb_common::{flow_table::Table, steering::FlowTable, tables::Key, tracking::Tracker};
use lb_core::{
    flows::{Directory, Filter, FlowTables, Known},
    model::{BackendKey, NotFound},
};

use super::owner::Owner;
use crate::{
    api::flows::{FlowQuery, View},
    dataplane::flows::{MappedFlows, MappedSets, ticks},
};

/// The mapped tables, to be gone through. Cheap.
pub(super) fn tables(flows: &MappedFlows) -> FlowTables<MappedSets> {
    let settings = flows.settings();
    let (mask, half_open, seed) = (settings.flow_mask, settings.half_open_mask, settings.seed);
    FlowTables {
        ipv4: Tracker {
            flows: Table::new(flows.memory(FlowTable::Flows4), mask, seed),
            half_open: Table::new(flows.memory(FlowTable::HalfOpen4), half_open, seed),
        },
        ipv6: Tracker {
            flows: Table::new(flows.memory(FlowTable::Flows6), mask, seed),
            half_open: Table::new(flows.memory(FlowTable::HalfOpen6), half_open, seed),
        },
        snat_ipv4: None,
        snat_ipv6: None,
    }
}

impl Owner {
    pub(super) fn flows(&self, query: &FlowQuery) -> Result<View, String> {
        let filter = self.filter(query).map_err(|error| error.to_string())?;
        let services = self.model.services.iter().map(|service| Known {
            name: service.name.to_string(),
            key: service.key(),
            backends: self.layout.numbered(&Key::from(&service.key())),
        });
        Ok(View {
            source: Box::new(tables(self.dataplane.tables().flows())),
            directory: Directory::new(services.collect(), filter),
            now: ticks(),
        })
    }

    fn filter(&self, query: &FlowQuery) -> Result<Filter, NotFound> {
        let service = query.service.as_deref();
        let service = service.map(|name| self.model.service_named(name));
        let service = service.transpose()?;
        let backend = match (&query.backend, service) {
            (None, _) => None,
            (Some(name), Some(service)) => Some(vec![service.backend_named(name)?.key()]),
            (Some(name), None) => Some(self.backends_named(name)?),
        };
        Ok(Filter {
            service: service.map(|service| service.name.to_string()),
            backend,
            client: query.client,
            protocol: query.protocol,
            state: query.state,
        })
    }

    /// Those of all services that are named so.
    fn backends_named(&self, name: &str) -> Result<Vec<BackendKey>, NotFound> {
        let mut found = Vec::new();
        let mut last = None;
        for service in &self.model.services {
            match service.backends_named(name) {
                Ok(backends) => found.extend(backends.iter().map(|backend| backend.key())),
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(error) if found.is_empty() => Err(error),
            _ => Ok(found),
        }
    }
}
