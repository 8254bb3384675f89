//! How people name a service and a backend of it on the command line.

use core::net::{IpAddr, SocketAddr};

use super::{Backend, Model, Service};

/// Why what was named is not there, with what is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    #[error("there is no service `{name}`; there are: {}", .known.join(", "))]
    Service { name: String, known: Vec<String> },
    #[error("service `{service}` has no backend `{name}`; it has: {}", .known.join(", "))]
    Backend {
        service: String,
        name: String,
        known: Vec<String>,
    },
    #[error("`{name}` is several backends of service `{service}`: {}; name one", .meant.join(", "))]
    Ambiguous {
        service: String,
        name: String,
        meant: Vec<String>,
    },
}

impl Model {
    pub fn service_named(&self, name: &str) -> Result<&Service, NotFound> {
        let services = || self.services.iter();
        services()
            .find(|service| service.name.as_str() == name)
            .ok_or_else(|| NotFound::Service {
                name: name.to_owned(),
                known: services().map(|service| service.name.to_string()).collect(),
            })
    }
}

impl Service {
    /// By its address, its address and port, or its name.
    pub fn backend_named(&self, name: &str) -> Result<&Backend, NotFound> {
        match self.backends_named(name)?.as_slice() {
            [backend] => Ok(backend),
            meant => Err(NotFound::Ambiguous {
                service: self.name.to_string(),
                name: name.to_owned(),
                meant: meant
                    .iter()
                    .map(|backend| backend.key().to_string())
                    .collect(),
            }),
        }
    }

    /// At least one.
    pub fn backends_named(&self, name: &str) -> Result<Vec<&Backend>, NotFound> {
        let is_meant = |backend: &&Backend| {
            backend.name.as_deref() == Some(name)
                || name.parse::<IpAddr>() == Ok(backend.address)
                || name.parse::<SocketAddr>() == Ok(SocketAddr::new(backend.address, backend.port))
        };
        let meant: Vec<&Backend> = self.backends.iter().filter(is_meant).collect();
        if meant.is_empty() {
            let known = self
                .backends
                .iter()
                .map(|backend| backend.key().to_string());
            return Err(NotFound::Backend {
                service: self.name.to_string(),
                name: name.to_owned(),
                known: known.collect(),
            });
        }
        Ok(meant)
    }
}

#[cfg(test)]
mod tests {
    use crate::{config, model::Model};

    fn model() -> Model {
        let text = r#"
node.n.interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
mode = "nat"
backend = [
  { address = "10.0.0.1", name = "a" },
  { address = "10.0.0.2", port = 8080 },
  { address = "10.0.0.2", port = 8081 },
]
"#;
        config::parse("f", text).expect("it is right").model
    }

    #[test]
    fn a_backend_is_named_by_what_tells_it_apart() {
        let model = model();
        let service = model.service_named("web").expect("it is there");
        let find = |name: &str| {
            let found = service.backend_named(name);
            found
                .map(|backend| backend.key().to_string())
                .map_err(|error| error.to_string())
        };
        for name in ["a", "10.0.0.1", "10.0.0.1:80"] {
            assert_eq!(find(name).as_deref(), Ok("10.0.0.1:80"));
        }
        assert_eq!(find("10.0.0.2:8081").as_deref(), Ok("10.0.0.2:8081"));
        assert_eq!(
            find("10.0.0.2").expect_err("two"),
            "`10.0.0.2` is several backends of service `web`: 10.0.0.2:8080, 10.0.0.2:8081; name one"
        );
        assert_eq!(
            find("b").expect_err("none"),
            "service `web` has no backend `b`; it has: 10.0.0.1:80, 10.0.0.2:8080, 10.0.0.2:8081"
        );
        assert_eq!(
            model.service_named("wbe").expect_err("none").to_string(),
            "there is no service `wbe`; there are: web"
        );
    }
}
