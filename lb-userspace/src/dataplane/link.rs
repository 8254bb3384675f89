//! Attaching the program to interfaces by pinned links, so that nothing forgets to forward when a process ends.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::programs::{ProgramError, links::LinkType, loaded_links, loaded_programs};
use lb_core::model::XdpMode;
use serde::Serialize;

use super::{
    directory::{DirectoryError, ignore_missing},
    interface::{self, Attached, AttachedMode},
    sys,
};

/// Why an interface does not run the program. If it ran an earlier one, it still does, unless the text says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("there is no interface {0} in this network namespace (see: ip link)")]
    NoInterface(String),
    #[error(
        "interface {interface} already runs the XDP program {program} (id {id}, {mode} mode), and Futago does not chain programs. \
             Remove it: {remove}"
    )]
    Occupied {
        interface: String,
        program: String,
        id: u32,
        mode: AttachedMode,
        /// The command that removes it.
        remove: String,
    },
    #[error("interface {interface} does not take the program in {mode} mode: {source}. {advice}")]
    Refused {
        interface: String,
        mode: AttachedMode,
        advice: &'static str,
        source: io::Error,
    },
    #[error(
        "cannot replace the program on interface {interface}: {source}. The earlier one goes on"
    )]
    Replace {
        interface: String,
        source: io::Error,
    },
    #[error("cannot read the loaded program back, for interface {interface}: {source}")]
    Program {
        interface: String,
        source: Box<ProgramError>,
    },
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("cannot {what} for interface {interface}: {source}")]
    System {
        what: &'static str,
        interface: String,
        source: io::Error,
    },
}

/// An interface that runs the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InterfaceReport {
    pub name: String,
    pub ifindex: u32,
    pub mode: AttachedMode,
    pub program_id: u32,
    /// The kernel's digest of the program's instructions, 16 hexadecimal digits; the same for the same program.
    pub tag: String,
}

/// The program that links shall lead to.
#[derive(Clone, Copy)]
pub struct Program<'a> {
    pub descriptor: BorrowedFd<'a>,
}

/// A link that is pinned. Dropping it changes nothing.
#[derive(Debug)]
pub struct PinnedLink {
    interface: String,
    path: PathBuf,
    descriptor: OwnedFd,
    mode: AttachedMode,
}

impl PinnedLink {
    /// Attaches the program, or replaces the program of the link that is pinned at `path`.
    pub fn attach(
        path: &Path,
        interface: &str,
        wanted: XdpMode,
        program: Program<'_>,
    ) -> Result<Self, AttachError> {
        let ifindex = interface::index(interface)
            .ok_or_else(|| AttachError::NoInterface(interface.to_owned()))?;
        let running =
            interface::attached(ifindex).map_err(system("ask for the XDP program", interface))?;
        let Some(mut link) = Self::open(path, interface)? else {
            return Self::create(path, interface, ifindex, wanted, program, running);
        };
        let info = link.info()?;
        // The interface may have been made anew under its name since; then its number or its program differs.
        let alive = running.filter(|running| {
            info.kind == sys::LINK_TYPE_XDP
                && info.ifindex == ifindex
                && info.program_id == running.program_id
        });
        let Some(running) = alive else {
            link.remove()?;
            let running = interface::attached(ifindex)
                .map_err(system("ask for the XDP program", interface))?;
            return Self::create(path, interface, ifindex, wanted, program, running);
        };
        link.mode = running.mode;
        let other_mode = match wanted {
            XdpMode::Auto => false,
            XdpMode::Native => running.mode != AttachedMode::Native,
            XdpMode::Generic => running.mode != AttachedMode::Generic,
        };
        if other_mode {
            return link.change_mode(ifindex, wanted, program);
        }
        sys::link_update(link.descriptor.as_fd(), program.descriptor).map_err(|source| {
            AttachError::Replace {
                interface: interface.to_owned(),
                source,
            }
        })?;
        Ok(link)
    }

    /// The link at `path`, if one is pinned there.
    pub fn open(path: &Path, interface: &str) -> Result<Option<Self>, AttachError> {
        match sys::open_pinned(path) {
            Ok(descriptor) => Ok(Some(Self {
                interface: interface.to_owned(),
                path: path.to_owned(),
                descriptor,
                mode: AttachedMode::Other,
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(system("open the pinned link", interface)(error)),
        }
    }

    /// Detaches the program, if the interface is still there, and removes the pin.
    pub fn remove(self) -> Result<(), AttachError> {
        if self.info()?.ifindex != 0 {
            let detached = sys::link_detach(self.descriptor.as_fd());
            // The interface may vanish at any time.
            if let Err(error) = detached
                && self.info()?.ifindex != 0
            {
                return Err(system("detach the program", &self.interface)(error));
            }
        }
        ignore_missing(fs::remove_file(&self.path))
            .map_err(system("remove the pinned link", &self.interface))
    }

    /// `None` if the interface is gone.
    pub fn report(&self, tag: &str) -> Option<InterfaceReport> {
        let info = self.info().ok()?;
        (info.ifindex != 0).then(|| InterfaceReport {
            name: self.interface.clone(),
            ifindex: info.ifindex,
            mode: self.mode,
            program_id: info.program_id,
            tag: tag.to_owned(),
        })
    }

    fn info(&self) -> Result<sys::LinkInfo, AttachError> {
        sys::link_info(self.descriptor.as_fd()).map_err(system("read the link", &self.interface))
    }

    fn create(
        path: &Path,
        interface: &str,
        ifindex: u32,
        wanted: XdpMode,
        program: Program<'_>,
        running: Option<Attached>,
    ) -> Result<Self, AttachError> {
        if let Some(other) = running {
            return Err(occupied(interface, other));
        }
        let native = || link(interface, ifindex, AttachedMode::Native, program);
        let generic = || link(interface, ifindex, AttachedMode::Generic, program);
        let (mode, descriptor) = match wanted {
            XdpMode::Native => (AttachedMode::Native, native()?),
            XdpMode::Generic => (AttachedMode::Generic, generic()?),
            XdpMode::Auto => match native() {
                Ok(descriptor) => (AttachedMode::Native, descriptor),
                Err(error) if error.is_lack_of_driver() => {
                    let descriptor = generic()?;
                    tracing::warn!(
                        interface,
                        %error,
                        "using generic XDP: the kernel makes a socket buffer of every packet first, so forwarding is about as slow as the kernel's own"
                    );
                    (AttachedMode::Generic, descriptor)
                }
                Err(error) => return Err(error),
            },
        };
        sys::pin(descriptor.as_fd(), path).map_err(system("pin the link", interface))?;
        Ok(Self {
            interface: interface.to_owned(),
            path: path.to_owned(),
            descriptor,
            mode,
        })
    }

    /// A link's mode is fixed, and the kernel takes only one mode at a time: between the two nothing is forwarded.
    fn change_mode(
        self,
        ifindex: u32,
        wanted: XdpMode,
        program: Program<'_>,
    ) -> Result<Self, AttachError> {
        let (path, interface) = (self.path.clone(), self.interface.clone());
        let before = match self.mode {
            AttachedMode::Generic => XdpMode::Generic,
            _ => XdpMode::Native,
        };
        tracing::warn!(
            interface,
            from = %self.mode,
            "changing the XDP mode: packets of the next milliseconds are not forwarded"
        );
        self.remove()?;
        let create = |mode| Self::create(&path, &interface, ifindex, mode, program, None);
        create(wanted).inspect_err(|_| {
            if let Err(error) = create(before) {
                tracing::error!(interface, %error, "the interface does not forward any more");
            }
        })
    }
}

impl AttachError {
    /// Whether another mode may work.
    fn is_lack_of_driver(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if !matches!(
            source.raw_os_error(),
            Some(libc::EPERM | libc::ENODEV | libc::ENOMEM | libc::EBUSY | libc::EEXIST)
        ))
    }
}

fn link(
    interface: &str,
    ifindex: u32,
    mode: AttachedMode,
    program: Program<'_>,
) -> Result<OwnedFd, AttachError> {
    let (flags, advice) = match mode {
        AttachedMode::Generic => (sys::GENERIC, "See the kernel's log (dmesg) for its reason"),
        _ => (
            sys::NATIVE,
            "Its driver may have no XDP, or not with its present MTU, number of queues or offloads (dmesg tells); \
             `xdp = \"generic\"` works with any driver, slowly",
        ),
    };
    sys::link_create(program.descriptor, ifindex, flags).map_err(|source| AttachError::Refused {
        interface: interface.to_owned(),
        mode,
        advice,
        source,
    })
}

fn occupied(interface: &str, other: Attached) -> AttachError {
    let id = other.program_id;
    let program = loaded_programs()
        .flatten()
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(str::to_owned))
        .unwrap_or_else(|| "of unknown name".to_owned());
    let link = loaded_links()
        .flatten()
        .find(|link| link.program_id() == id && matches!(link.link_type(), Ok(LinkType::Xdp)));
    AttachError::Occupied {
        interface: interface.to_owned(),
        program,
        id,
        mode: other.mode,
        remove: match link {
            Some(link) => format!(
                "end the process that holds link {0}, or: bpftool link detach id {0}",
                link.id()
            ),
            None if other.mode == AttachedMode::Generic => {
                format!("ip link set dev {interface} xdpgeneric off")
            }
            None => format!("ip link set dev {interface} xdp off"),
        },
    }
}

fn system(what: &'static str, interface: &str) -> impl FnOnce(io::Error) -> AttachError {
    let interface = interface.to_owned();
    move |source| AttachError::System {
        what,
        interface,
        source,
    }
}
