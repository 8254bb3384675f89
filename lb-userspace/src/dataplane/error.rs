//! Why the dataplane could not be opened, as the operator is told.

use std::{error::Error, io};

use lb_ebpf::ObjectError;

use super::{directory::DirectoryError, maps::CapacityError};

/// Why [`Dataplane::open`](super::Dataplane::open) failed. What was attached before still forwards.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Capacity(#[from] CapacityError),
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error(
        "the kernel does not let this process load BPF programs. Run as root (or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON); \
         on a kernel before 5.11 also raise the limit of locked memory (ulimit -l unlimited, LimitMEMLOCK=infinity); under kernel lockdown \
         or in a container BPF may be forbidden altogether"
    )]
    NotPermitted(#[source] Box<dyn Error + Send + Sync>),
    #[error(
        "the tables need {bytes} bytes of kernel memory, which it does not have: lower dataplane.max_slots, max_backends or max_services"
    )]
    Memory {
        bytes: u64,
        source: Box<dyn Error + Send + Sync>,
    },
    #[error(
        "the kernel refused the program: {0}. It is tried on Linux 6.18; an object named by FUTAGO_BPF_OBJECT has to come from the sources of this build"
    )]
    Load(#[source] Box<dyn Error + Send + Sync>),
    #[error(
        "the BPF object does not fit this build of futago ({0}); build both from the same sources"
    )]
    Mismatch(String),
    #[error("cannot map the tables into memory: {0}")]
    Map(#[source] io::Error),
}

impl OpenError {
    /// What a failure to load comes from, told from the error number somewhere in its chain. `bytes`: size of the tables.
    pub(super) fn load(error: impl Error + Send + Sync + 'static, bytes: u64) -> Self {
        let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
        let mut number = None;
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                number = error.raw_os_error();
            }
            cause = error.source();
        }
        match number {
            Some(libc::EPERM) => Self::NotPermitted(Box::new(error)),
            Some(libc::ENOMEM) => Self::Memory {
                bytes,
                source: Box::new(error),
            },
            _ => Self::Load(Box::new(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use aya::{EbpfError, maps::MapError};

    use super::*;

    fn creation_failed(number: i32) -> OpenError {
        let error = EbpfError::MapError(MapError::CreateError {
            name: "SLOTS".to_owned(),
            io_error: io::Error::from_raw_os_error(number),
        });
        OpenError::load(error, 4711)
    }

    #[test]
    fn the_error_number_decides_what_is_said() {
        let text = creation_failed(libc::EPERM).to_string();
        assert!(text.contains("Run as root"), "{text}");
        let text = creation_failed(libc::ENOMEM).to_string();
        assert!(text.contains("4711 bytes"), "{text}");
        assert!(matches!(creation_failed(libc::EINVAL), OpenError::Load(_)));
    }
}
