//! Adds, removes and announces addresses for the driver, in order, on a thread of its own: the kernel's lock on the network
//! configuration may be held by others for longer than an advertisement interval.

use std::{collections::BTreeSet, net::IpAddr, sync::mpsc, thread::JoinHandle};

use tokio::sync::mpsc as tokio_mpsc;

use super::{Event, realtime};
use crate::net::{
    Mac,
    addresses::{self, Added},
    announce::{Announcement, Announcer, ArpForm},
    macvlan,
    netlink::Netlink,
};

/// The addresses of one virtual router on its interface.
#[derive(Clone, Debug)]
pub struct Place {
    pub ifindex: u32,
    pub interface: String,
    /// What is announced.
    pub mac: Option<Mac>,
    /// With a virtual MAC address: the interface above this one that the addresses are on.
    pub macvlan: Option<String>,
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
    let holders = prepare(places, netlink, &trouble).await;
    // Open for good: closing one waits for all processors, and what is asked next, such as to give addresses up, waits with it.
    let announcers: Vec<_> = places
        .iter()
        .map(|place| Announcer::open(place.ifindex))
        .collect();
    // Added by a kernel that keeps no mark.
    let mut unmarked: BTreeSet<(u32, IpAddr)> = BTreeSet::new();
    while let Ok(task) = inbox.recv() {
        let (Task::Take(index) | Task::Release(index) | Task::Announce(index)) = task;
        let (Some(place), Some(&holder)) = (places.get(index), holders.get(index)) else {
            continue;
        };
        // Up before it gets addresses and down after they are gone: the kernel drops IPv6 addresses of an interface that is down.
        if matches!(task, Task::Take(_)) {
            set_macvlan(place, holder, netlink, true, &trouble).await;
        }
        for &address in &place.addresses {
            let at = (holder, address);
            match task {
                Task::Take(_) => match addresses::add(netlink, holder, address).await {
                    Ok(Added::Unmarked) => drop(unmarked.insert(at)),
                    Ok(_) => {}
                    Err(error) => {
                        trouble(format!(
                            "cannot add {address} to {}: {error}",
                            place.holder()
                        ));
                    }
                },
                Task::Release(_) => {
                    let removed = if unmarked.remove(&at) {
                        addresses::remove_unmarked(netlink, holder, address).await
                    } else {
                        addresses::remove(netlink, holder, address).await
                    };
                    if let Err(error) = removed {
                        trouble(format!(
                            "cannot remove {address} from {}: {error}",
                            place.holder()
                        ));
                    }
                }
                Task::Announce(_) => {
                    let sent = match announcers.get(index) {
                        Some(Ok(announcer)) => announce(announcer, place, address),
                        Some(Err(error)) => Err(error.to_string()),
                        None => Ok(()),
                    };
                    if let Err(error) = sent {
                        trouble(format!(
                            "cannot announce {address} on {}: {error}",
                            place.interface
                        ));
                    }
                }
            }
        }
        if matches!(task, Task::Release(_)) {
            set_macvlan(place, holder, netlink, false, &trouble).await;
        }
    }
}

impl Place {
    /// The interface that the addresses are on.
    fn holder(&self) -> &str {
        self.macvlan.as_ref().unwrap_or(&self.interface)
    }
}

/// Makes the interfaces that are missing, and takes the addresses from where an earlier configuration had them; the number
/// of the interface that each router's addresses are on.
async fn prepare(places: &[Place], netlink: &Netlink, trouble: &impl Fn(String)) -> Vec<u32> {
    let mut holders = Vec::with_capacity(places.len());
    for place in places {
        let holder = match (&place.macvlan, place.mac) {
            (Some(name), Some(mac)) => macvlan::ensure(netlink, place.ifindex, name, mac).await,
            _ => Ok(place.ifindex),
        };
        holders.push(holder.unwrap_or_else(|error| {
            trouble(format!(
                "no virtual MAC address on {}: {error}",
                place.interface
            ));
            place.ifindex
        }));
    }
    match addresses::ours(netlink).await {
        Ok(found) => {
            for (ifindex, address) in found {
                let elsewhere = places.iter().zip(&holders).any(|(place, &holder)| {
                    place.addresses.contains(&address) && holder != ifindex
                });
                if elsewhere && let Err(error) = addresses::remove(netlink, ifindex, address).await
                {
                    trouble(format!(
                        "cannot remove {address} from where it was before: {error}"
                    ));
                }
            }
        }
        Err(error) => trouble(format!(
            "cannot look for addresses of an earlier run: {error}"
        )),
    }
    holders
}

async fn set_macvlan(
    place: &Place,
    holder: u32,
    netlink: &Netlink,
    up: bool,
    trouble: &impl Fn(String),
) {
    if place.macvlan.is_none() || holder == place.ifindex {
        return;
    }
    if let Err(error) = macvlan::set_up(netlink, holder, up).await {
        let word = if up { "up" } else { "down" };
        trouble(format!("cannot set {} {word}: {error}", place.holder()));
    }
}

fn announce(announcer: &Announcer, place: &Place, vip: IpAddr) -> Result<(), String> {
    let Some(mac) = place.mac else {
        return Ok(());
    };
    let announcement = Announcement {
        vip,
        mac,
        arp: ArpForm::default(),
        router: vip.is_ipv6() && crate::net::forwards_ipv6(&place.interface),
    };
    announcer
        .send(&announcement)
        .map_err(|error| error.to_string())
}
