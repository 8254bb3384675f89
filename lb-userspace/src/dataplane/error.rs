//! Why the dataplane could not be opened, as the operator is told.

use std::{error::Error, io};

use aya::{EbpfError, maps::MapError, programs::ProgramError};

use super::{directory::DirectoryError, maps::CapacityError, object::ObjectError};

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
    #[error("the tables need {bytes} bytes of kernel memory, which it does not have: lower dataplane.max_slots, max_backends or max_services")]
    Memory {
        bytes: u64,
        source: Box<dyn Error + Send + Sync>,
    },
    #[error("the kernel refused the program: {0}. Futago needs Linux 5.15 or later; `futago` and its BPF object have to come from one build")]
    Load(#[source] Box<dyn Error + Send + Sync>),
    #[error("the BPF object does not fit this build of futago ({0}); build both from the same sources")]
    Object2(String),
    #[error("cannot map the tables into memory: {0}")]
    Map(#[source] io::Error),
}
