//! Adds, removes and announces addresses for the driver, in order, on a thread of its own: the kernel's lock on the network
//! configuration may be held by others for longer than an advertisement interval.

use std::{collections::BTreeSet, net::IpAddr, sync::mpsc, thread::JoinHandle};

use tokio::sync::mpsc as tokio_mpsc;

use super::{Event, realtime};
use crate::net::{
    Mac,
    addresses::{self, Added},
    announce::{Announcement, Announcer, ArpForm},
    netlink::Netlink,
};

/// The addresses of one virtual router on its interface.
#[derive(Clone, Debug)]
pub struct Place {
    pub ifindex: u32,
    pub interface: String,
    pub mac: Option<Mac>,
    pub addresses: Vec<IpAddr>,
}

/// What to do with the addresses of a router.
#[derive(Clone, Copy, Debug)]
pub enum Task {
    Take(usize),
    Release(usize),
    Announce(usize),
}

/// The thread; dropping it waits for what was asked.
pub struct Hands {
    tasks: Option<mpsc::Sender<Task>>,
    thread: Option<JoinHandle<()>>,
}

impl Hands {
    pub fn start(
        places: Vec<Place>,
        events: tokio_mpsc::UnboundedSender<Event>,
    ) -> std::io::Result<Self> {
        let (tasks, inbox) = mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name("vrrp-hands".to_owned())
            .spawn(move || {
                // Reported by the driver, which asks for the same.
                let _ = realtime::schedule();
                runtime.block_on(async {
                    match Netlink::open() {
                        Ok(netlink) => work(&places, &netlink, &inbox, &events).await,
                        Err(error) => drop(events.send(Event::Trouble(error.to_string()))),
                    }
                });
            })?;
        Ok(Self {
            tasks: Some(tasks),
            thread: Some(thread),
        })
    }

    pub fn ask(&self, task: Task) {
        if let Some(tasks) = &self.tasks {
            let _ = tasks.send(task);
        }
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn work(
    places: &[Place],
    netlink: &Netlink,
    inbox: &mpsc::Receiver<Task>,
    events: &tokio_mpsc::UnboundedSender<Event>,
) {
    let trouble = |text: String| drop(events.send(Event::Trouble(text)));
    // Added by a kernel that keeps no mark.
    let mut unmarked: BTreeSet<(u32, IpAddr)> = BTreeSet::new();
    while let Ok(task) = inbox.recv() {
        let (Task::Take(index) | Task::Release(index) | Task::Announce(index)) = task;
        let Some(place) = places.get(index) else {
            continue;
        };
        for &address in &place.addresses {
            let at = (place.ifindex, address);
            match task {
                Task::Take(_) => match addresses::add(netlink, place.ifindex, address).await {
                    Ok(Added::Unmarked) => drop(unmarked.insert(at)),
                    Ok(_) => {}
                    Err(error) => {
                        trouble(format!(
                            "cannot add {address} to {}: {error}",
                            place.interface
                        ));
                    }
                },
                Task::Release(_) => {
                    let removed = if unmarked.remove(&at) {
                        addresses::remove_unmarked(netlink, place.ifindex, address).await
                    } else {
                        addresses::remove(netlink, place.ifindex, address).await
                    };
                    if let Err(error) = removed {
                        trouble(format!(
                            "cannot remove {address} from {}: {error}",
                            place.interface
                        ));
                    }
                }
                Task::Announce(_) => {
                    if let Err(error) = announce(place, address) {
                        trouble(format!(
                            "cannot announce {address} on {}: {error}",
                            place.interface
                        ));
                    }
                }
            }
        }
    }
}

fn announce(place: &Place, vip: IpAddr) -> Result<(), crate::net::announce::AnnounceError> {
    let Some(mac) = place.mac else {
        return Ok(());
    };
    Announcer::open(place.ifindex)?.send(&Announcement {
        vip,
        mac,
        arp: ArpForm::default(),
        router: vip.is_ipv6() && crate::net::forwards_ipv6(&place.interface),
    })
}
