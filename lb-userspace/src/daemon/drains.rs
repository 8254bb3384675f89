//! Backends that are drained by command.

use std::time::Duration;

use lb_core::model::Service;
use tracing::info;

use super::owner::Owner;
use crate::api::{Drain, Drained, Undrain};

impl Owner {
    pub(super) fn drain(&mut self, wanted: &Drain) -> Result<Drained, String> {
        let (service, backend) = self.named(&wanted.service, &wanted.backend)?;
        let keep = wanted.deadline_s.map(Duration::from_secs);
        let now = self.now();
        self.drains.begin(now, &service, backend, keep);
        let until = self
            .drains
            .get(&(service.key(), backend))
            .and_then(|drain| drain.until);
        let deadline_s = until.map(|until| until.saturating_sub(now).as_secs());
        match deadline_s {
            Some(seconds) => info!(
                "{} {backend}: drained for {seconds} s, by command",
                service.name
            ),
            None => info!(
                "{} {backend}: drained until its flows end, by command",
                service.name
            ),
        }
        self.mark(service.key());
        Ok(Drained {
            service: service.name.to_string(),
            backend: backend.to_string(),
            deadline_s,
        })
    }

    pub(super) fn undrain(&mut self, wanted: &Undrain) -> Result<Undrain, String> {
        let (service, backend) = self.named(&wanted.service, &wanted.backend)?;
        self.drains
            .end(&(service.key(), backend))
            .map_err(|error| format!("{} {backend}: {error}", service.name))?;
        info!(
            "{} {backend}: not drained any more, by command",
            service.name
        );
        self.mark(service.key());
        Ok(Undrain {
            service: service.name.to_string(),
            backend: backend.to_string(),
        })
    }

    /// Drains whose time is over.
    pub(super) fn end_drains(&mut self, now: Duration) {
        for (service, backend) in self.drains.poll(now) {
            info!("{service} {backend}: the drain is over");
            self.mark(service);
        }
    }

    fn named(
        &self,
        service: &str,
        backend: &str,
    ) -> Result<(Service, lb_core::model::BackendKey), String> {
        let service = self
            .model
            .service_named(service)
            .map_err(|error| error.to_string())?;
        let backend = service
            .backend_named(backend)
            .map_err(|error| error.to_string())?;
        Ok((service.clone(), backend.key()))
    }
}
