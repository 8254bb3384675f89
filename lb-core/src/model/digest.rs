//! One number for "both nodes read the same configuration": equal for files that mean the same, whatever their
//! comments and order.

use core::fmt;

use sha2::{Digest as _, Sha256};

use super::Model;

/// SHA-256 of the model in canonical order; printed as 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Model {
    /// Independent of the order of services and backends, which decides nothing. It covers every field that is
    /// serialized: a field added later should be skipped at its default, or two versions never agree.
    pub fn digest(&self) -> Digest {
        let mut canonical = self.clone();
        canonical.services.sort_by_key(super::Service::key);
        for service in &mut canonical.services {
            service.backends.sort_by_key(super::Backend::key);
        }
        let bytes = serde_json::to_vec(&canonical)
            .expect("strings, numbers and maps with string keys serialize");
        Digest(Sha256::digest(&bytes).into())
    }
}
