//! The node's part in the election: sockets, addresses and leases around [`lb_core::vrrp`], on a thread of their own, so that
//! nothing that the owner loop does delays an advert.
//!
//! ```text
//!  owner loop ─► commands ─► driver (real-time thread) ─► adverts, echo, leases
//!             ◄── events ──┘        └─► hands (second thread: netlink, announcements)
//! ```

pub mod clock;
mod driver;
mod hands;
mod realtime;
mod socket;
pub mod status;

use std::{
    io,
    os::unix::net::UnixStream,
    sync::{Arc, mpsc as std_mpsc},
    thread::JoinHandle,
    time::Duration,
};

use lb_core::{
    model::Model,
    vrrp::{
        liveness::PathChange,
        router::{Change, Notice},
        setup::{Interface, Setup, SetupError},
    },
};
use tokio::sync::{mpsc, oneshot};

use crate::{dataplane::LeaseTable, net::links::Links};

/// Something to log, and to tell the hook.
#[derive(Debug)]
pub enum Event {
    Changed {
        router: String,
        change: Change,
    },
    Notice {
        router: String,
        notice: Notice,
    },
    Path {
        router: String,
        change: PathChange,
    },
    /// A script or gateway that a router tracks is well, or no longer: numbers of the router and of the track.
    Tracked {
        router: usize,
        track: usize,
        well: bool,
    },
    /// Something that should have worked did not.
    Trouble(String),
}

/// What a handover came to.
pub type HandoverOutcome = Result<(), String>;

enum Command {
    Links(Arc<Links>),
    /// For each router, for each of its tracks, interfaces left out of account; and whether the node's state is complete.
    Tracks {
        tracks: Vec<Vec<bool>>,
        ready: bool,
    },
    Status(oneshot::Sender<status::Election>),
    Handover(oneshot::Sender<HandoverOutcome>),
    Resume,
    /// Give up everything in order; answered when it is done: whether a successor took over.
    Shutdown(oneshot::Sender<bool>),
    /// End, and leave addresses and leases as they are.
    Leave,
}

/// Why a node cannot take part in the election.
#[derive(Debug, thiserror::Error)]
pub enum ElectionError {
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(transparent)]
    Node(#[from] lb_core::vrrp::node::NodeError),
    #[error("cannot {what}: {source} (VRRP needs root, or CAP_NET_RAW and CAP_NET_ADMIN)")]
    Io { what: String, source: io::Error },
}

/// The running election. Dropping it ends the threads and leaves addresses and leases as they are, for the next one to adopt.
pub struct Election {
    commands: std_mpsc::Sender<Command>,
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
    setup: Setup,
}

impl Election {
    /// Starts in the network namespace of the calling thread. Events come through `events`.
    ///
    /// # Errors
    /// [`ElectionError::Setup`]: not yet; try again when the interfaces change.
    pub fn start(
        model: &Model,
        node: &str,
        links: Arc<Links>,
        leases: LeaseTable,
        events: mpsc::UnboundedSender<Event>,
    ) -> Result<Self, ElectionError> {
        let epoch = clock::epoch();
        let setup = Setup::new(model, node, epoch, |name| interface(&links, name))?;
        let io = |what: &str| {
            let what = what.to_owned();
            move |source| ElectionError::Io { what, source }
        };
        let (wake, woken) = UnixStream::pair().map_err(io("make a pair of sockets"))?;
        wake.set_nonblocking(true).map_err(io("prepare a socket"))?;
        woken
            .set_nonblocking(true)
            .map_err(io("prepare a socket"))?;
        let (commands, inbox) = std_mpsc::channel();
        let driver = driver::Driver::new(model, &setup, links, leases, events, inbox, woken)?;
        let thread = std::thread::Builder::new()
            .name("vrrp".to_owned())
            .spawn(move || driver.run())
            .map_err(io("start a thread"))?;
        Ok(Self {
            commands,
            wake,
            thread: Some(thread),
            setup,
        })
    }

    /// Whether an interface that it uses is another one now: it has to be started anew.
    pub fn is_outdated(&self, links: &Links) -> bool {
        let changed = |name: &str, ifindex: u32| {
            links
                .named(name)
                .is_some_and(|link| link.ifindex != ifindex)
        };
        let places = self.setup.places.iter().zip(&self.setup.config.routers);
        places
            .into_iter()
            .any(|(place, router)| changed(&place.interface, router.link))
    }

    pub fn set_links(&self, links: Arc<Links>) {
        self.tell(Command::Links(links));
    }

    /// Whether what is tracked is well, for each router in order, and whether the node's state is complete; that it once was
    /// is not forgotten.
    pub fn set_tracks(&self, tracks: Vec<Vec<bool>>, ready: bool) {
        self.tell(Command::Tracks { tracks, ready });
    }

    pub async fn status(&self) -> Option<status::Election> {
        let (sender, receiver) = oneshot::channel();
        self.tell(Command::Status(sender));
        receiver.await.ok()
    }

    /// Begins a handover of everything that this node is active for; the outcome comes later.
    pub fn handover(&self) -> oneshot::Receiver<HandoverOutcome> {
        let (sender, receiver) = oneshot::channel();
        self.tell(Command::Handover(sender));
        receiver
    }

    /// Ends the standing down after a handover.
    pub fn resume(&self) {
        self.tell(Command::Resume);
    }

    /// Hands everything over, releases the addresses and ends. True: a successor was heard.
    pub async fn shutdown(mut self) -> bool {
        let (sender, receiver) = oneshot::channel();
        self.tell(Command::Shutdown(sender));
        let succeeded = receiver.await.unwrap_or(false);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        succeeded
    }

    fn tell(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            // A full socket wakes it as well.
            let _ = io::Write::write(&mut &self.wake, &[0]);
        }
    }
}

impl Drop for Election {
    fn drop(&mut self) {
        self.tell(Command::Leave);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn interface(links: &Links, name: &str) -> Option<Interface> {
    let link = links.named(name)?;
    Some(Interface {
        ifindex: link.ifindex,
        addresses: link.addresses.iter().map(|(address, _)| *address).collect(),
    })
}

/// A bound for a wait that has nothing to wait for.
const LONG: Duration = Duration::from_secs(3600);
