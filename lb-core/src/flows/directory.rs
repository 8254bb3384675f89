//! What the numbers in a flow's record mean, and which flows somebody wants to see.

use core::net::IpAddr;
use std::collections::HashMap;

use lb_common::{address::Address, flow_state::Phase, tables::Key};
use serde::{Deserialize, Serialize};

use super::tables::Flow;
use crate::model::{BackendKey, Protocol, ServiceKey};

/// How far a flow has come, in the words of the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlowState {
    HalfOpen,
    Established,
    Closing,
    Closed,
    Reset,
    Udp,
}

impl FlowState {
    pub const ALL: [Self; 6] = [
        Self::HalfOpen,
        Self::Established,
        Self::Closing,
        Self::Closed,
        Self::Reset,
        Self::Udp,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            Self::HalfOpen => "half-open",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Udp => "udp",
        }
    }
}

impl From<Phase> for FlowState {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::HalfOpen => Self::HalfOpen,
            Phase::Established => Self::Established,
            Phase::Closing => Self::Closing,
            Phase::Closed => Self::Closed,
            Phase::Reset => Self::Reset,
            Phase::Datagram => Self::Udp,
        }
    }
}

/// A service whose flows may be in the tables.
#[derive(Clone, Debug)]
pub struct Known {
    pub name: String,
    pub key: ServiceKey,
    /// By number − 1; those that have left the service too, for as long as they have flows.
    pub backends: Vec<Option<BackendKey>>,
}

/// Which flows are shown: those that fit all that is said.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Name of a service.
    pub service: Option<String>,
    /// In each service that has it.
    pub backend: Option<Vec<BackendKey>>,
    pub client: Option<IpAddr>,
    pub protocol: Option<Protocol>,
    pub state: Option<FlowState>,
}

/// Services by what their flows are recorded with.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    services: Vec<Known>,
    by_key: HashMap<Key, usize>,
    filter: Filter,
    client: Option<Address>,
}

impl Directory {
    pub fn new(services: Vec<Known>, filter: Filter) -> Self {
        let by_key = services
            .iter()
            .enumerate()
            .map(|(at, service)| (Key::from(&service.key), at))
            .collect();
        Self {
            services,
            by_key,
            client: filter.client.map(Address::from),
            filter,
        }
    }

    pub fn services(&self) -> &[Known] {
        &self.services
    }

    /// The flow's service, by its place among [`services`](Self::services), if the flow is to be shown. A flow of no service is of
    /// one that has just been removed: nobody waits for it.
    pub(super) fn shows(&self, flow: &Flow) -> Option<usize> {
        let filter = &self.filter;
        if self
            .client
            .is_some_and(|client| client != flow.key.source.address)
            || filter
                .state
                .is_some_and(|state| state != FlowState::from(flow.phase))
            || filter
                .protocol
                .is_some_and(|protocol| protocol.number() != flow.key.protocol)
        {
            return None;
        }
        let destination = flow.key.destination;
        let key = Key::new(destination.address, flow.key.protocol, destination.port);
        let at = *self.by_key.get(&key)?;
        let service = &self.services[at];
        if filter
            .service
            .as_ref()
            .is_some_and(|name| *name != service.name)
        {
            return None;
        }
        if let Some(wanted) = &filter.backend
            && !service
                .backend(flow.value.backend)
                .is_some_and(|backend| wanted.contains(&backend))
        {
            return None;
        }
        Some(at)
    }
}

impl Directory {
    /// Whether the filter leaves room for flows of the service.
    pub(super) fn names_service(&self, service: &Known) -> bool {
        let filter = &self.filter;
        filter
            .service
            .as_ref()
            .is_none_or(|name| *name == service.name)
            && filter
                .protocol
                .is_none_or(|protocol| protocol == service.key.protocol)
            && filter.backend.is_none()
    }

    /// Whether the filter leaves room for flows of the service's backend.
    pub(super) fn names(&self, service: &Known, backend: BackendKey) -> bool {
        let filter = &self.filter;
        filter
            .service
            .as_ref()
            .is_none_or(|name| *name == service.name)
            && filter
                .protocol
                .is_none_or(|protocol| protocol == service.key.protocol)
            && filter
                .backend
                .as_ref()
                .is_none_or(|wanted| wanted.contains(&backend))
    }
}

impl Known {
    pub fn backend(&self, number: u16) -> Option<BackendKey> {
        let at = usize::from(number).checked_sub(1)?;
        self.backends.get(at).copied().flatten()
    }
}
