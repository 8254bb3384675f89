//! The program of a real server: attached by pinned links like the balancer's, over maps that are filled before and never
//! changed after. Other duties mean another program, put in the place of the first by atomic replacement.
//!
//! ```text
//! /sys/fs/bpf/futago-backend/
//!   v2/0/DUTIES, v2/0/RECEIVED, current -> v2/0, links/eth0     as for the balancer
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::AsFd,
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData, MapError, PerCpuArray},
    programs::{ProgramError, Xdp},
};
use lb_common::{
    address::Address,
    real_server::{Key, Outcome},
    tables::{Counter, LAYOUT_VERSION},
};
use lb_core::model::XdpMode;
use zerocopy::{FromBytes, IntoBytes};

use super::{
    directory::{Directory, DirectoryError, Generation},
    error::OpenError,
    interface,
    link::{AttachError, InterfaceReport, PinnedLink, Program},
    load::verify,
    run::{self, RunError, TestRun},
};

/// Where a real server's program is pinned unless told otherwise.
pub const DEFAULT_SERVER_DIRECTORY: &str = "/sys/fs/bpf/futago-backend";

const PROGRAM: &str = "backend";
const DUTIES: &str = "DUTIES";
const RECEIVED: &str = "RECEIVED";

/// What the program of a real server goes by.
pub type Duties = BTreeMap<Key, Address>;

/// A key and an address as the map has them.
type RawKey = [u8; size_of::<Key>()];
type RawAddress = [u8; size_of::<Address>()];
type RawCounter = [u8; size_of::<Counter>()];

#[derive(Debug, thiserror::Error)]
pub enum RealServerError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error("cannot {what} the map of the real server's program: {source}")]
    Map {
        what: &'static str,
        source: Box<MapError>,
    },
}

impl From<DirectoryError> for RealServerError {
    fn from(error: DirectoryError) -> Self {
        Self::Open(error.into())
    }
}

/// The loaded program. Dropping it before it is attached leaves nothing behind; after, the kernel goes on.
pub struct RealServer {
    directory: Directory,
    generation: Generation,
    ebpf: Ebpf,
}

impl RealServer {
    /// Loads the program with these duties. Attaches nothing.
    ///
    /// # Errors
    /// If another process has the directory open, or the kernel refuses.
    pub fn open(directory: &Path, duties: &Duties) -> Result<Self, RealServerError> {
        let object = lb_ebpf::object().map_err(OpenError::from)?;
        let directory = Directory::open(directory)?;
        let generation = directory.fresh()?;
        let entries = u32::try_from(duties.len().max(1)).unwrap_or(u32::MAX);
        let failed = |error: ProgramError| OpenError::load(error, 0);
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(DUTIES, entries)
            .map_pin_path(DUTIES, generation.map(DUTIES))
            .map_pin_path(RECEIVED, generation.map(RECEIVED))
            .load(&object)
            .map_err(|error| OpenError::load(error, 0))?;
        let table = ebpf.map_mut(DUTIES).ok_or_else(|| missing(DUTIES))?;
        fill(table, duties).map_err(map("fill"))?;
        let program: &mut Xdp = ebpf
            .program_mut(PROGRAM)
            .ok_or_else(|| OpenError::Mismatch(format!("it has no program {PROGRAM}")))?
            .try_into()
            .map_err(failed)?;
        verify(|| program.load()).map_err(failed)?;
        Ok(Self {
            directory,
            generation,
            ebpf,
        })
    }

    /// Attaches the program to these interfaces, in place of an earlier one, and detaches it from all others.
    ///
    /// # Errors
    /// At the first interface that fails; those before it run this program.
    pub fn attach(
        mut self,
        interfaces: &BTreeSet<String>,
    ) -> Result<Vec<InterfaceReport>, RealServerError> {
        let mut reports = Vec::new();
        for name in interfaces {
            let (program, tag) = self.identity(name)?;
            let path = self.directory.link(name);
            let link = PinnedLink::attach(&path, name, XdpMode::Auto, program)?;
            // From here on a program uses these maps.
            self.generation.keep();
            let gone = || AttachError::NoInterface(name.clone());
            reports.push(link.report(&tag).ok_or_else(gone)?);
        }
        for path in self
            .directory
            .other_links(interfaces.iter().map(String::as_str))?
        {
            remove_link(&path)?;
        }
        self.directory.publish(&mut self.generation)?;
        Ok(reports)
    }

    /// Runs the program once on a frame that came in on an interface of this network namespace; 0: on none.
    ///
    /// # Errors
    /// If the kernel does not run it.
    pub fn test_run(&self, frame: &[u8], ingress_ifindex: u32) -> Result<TestRun, RunError> {
        let program = self.program().map_err(|source| RunError::Kernel {
            ifindex: ingress_ifindex,
            source: Box::new(source),
        })?;
        run::test_run(program, frame, ingress_ifindex, 1)
    }

    /// What the program has counted, over all processors.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn counters(&self) -> Result<Vec<(Outcome, Counter)>, RealServerError> {
        let received = self.ebpf.map(RECEIVED).ok_or_else(|| missing(RECEIVED))?;
        let received = PerCpuArray::try_from(received);
        received.and_then(|map| counters(&map)).map_err(map("read"))
    }

    fn program(&self) -> Result<&Xdp, ProgramError> {
        self.ebpf
            .program(PROGRAM)
            .ok_or(ProgramError::NotLoaded)?
            .try_into()
    }

    fn identity(&self, interface: &str) -> Result<(Program<'_>, String), AttachError> {
        let look = || {
            let program = self.program()?;
            let tag = format!("{:016x}", program.info()?.tag());
            let descriptor = program.fd()?.as_fd();
            Ok((Program { descriptor }, tag))
        };
        look().map_err(|source: ProgramError| AttachError::Program {
            interface: interface.to_owned(),
            source: Box::new(source),
        })
    }
}

/// What is attached now.
#[derive(Debug, Default)]
pub struct Running {
    /// Interfaces that run the program.
    pub interfaces: BTreeSet<String>,
    pub duties: Duties,
    pub counters: Vec<(Outcome, Counter)>,
}

/// What an earlier process has attached; empty if nothing, or nothing of this layout.
///
/// # Errors
/// If what is there cannot be read.
pub fn running(directory: &Path) -> Result<Running, RealServerError> {
    let Ok(current) = fs::read_link(directory.join("current")) else {
        return Ok(Running::default());
    };
    if !current.starts_with(format!("v{LAYOUT_VERSION}")) {
        return Ok(Running::default());
    }
    let current = directory.join(current);
    let open = |name| MapData::from_pin(current.join(name)).and_then(Map::from_map_data);
    let duties = open(DUTIES).and_then(HashMap::<_, RawKey, RawAddress>::try_from);
    let received = open(RECEIVED).and_then(PerCpuArray::try_from);
    let mut found = Running {
        counters: received
            .and_then(|map| counters(&map))
            .map_err(map("read"))?,
        ..Running::default()
    };
    for entry in duties.map_err(map("read"))?.iter() {
        let (key, address) = entry.map_err(map("read"))?;
        if let (Ok(key), Ok(address)) = (
            Key::read_from_bytes(&key),
            Address::read_from_bytes(&address),
        ) {
            found.duties.insert(key, address);
        }
    }
    let Ok(links) = fs::read_dir(directory.join("links")) else {
        return Ok(found);
    };
    for path in links.flatten().map(|entry| entry.path()) {
        let name = interface_of(&path);
        let link = PinnedLink::open(&path, &name)?;
        let report = link.and_then(|link| link.report(""));
        if report.is_some_and(|report| interface::index(&name) == Some(report.ifindex)) {
            found.interfaces.insert(name);
        }
    }
    Ok(found)
}

/// Ends what is attached and removes all pins; false if there was nothing.
///
/// # Errors
/// If another process has the directory open, or something could not be removed.
pub fn detach(directory: &Path) -> Result<bool, RealServerError> {
    if !directory.is_dir() {
        return Ok(false);
    }
    let directory = Directory::open(directory)?;
    let links = directory.other_links(std::iter::empty())?;
    for path in &links {
        remove_link(path)?;
    }
    directory.remove()?;
    Ok(!links.is_empty())
}

fn remove_link(path: &Path) -> Result<(), AttachError> {
    match PinnedLink::open(path, &interface_of(path))? {
        Some(link) => link.remove(),
        None => Ok(()),
    }
}

/// The interface whose link is pinned here; see [`Directory::link`].
fn interface_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.replace("%2e", ".").replace("%25", "%")
}

fn missing(name: &str) -> OpenError {
    OpenError::Mismatch(format!("it has no map {name}"))
}

fn fill(map: &mut Map, duties: &Duties) -> Result<(), MapError> {
    let mut map = HashMap::<_, RawKey, RawAddress>::try_from(map)?;
    for (key, address) in duties {
        let (mut raw_key, mut raw_address) = (RawKey::default(), RawAddress::default());
        raw_key.copy_from_slice(key.as_bytes());
        raw_address.copy_from_slice(address.as_bytes());
        map.insert(raw_key, raw_address, 0)?;
    }
    Ok(())
}

fn counters<T: std::borrow::Borrow<MapData>>(
    map: &PerCpuArray<T, RawCounter>,
) -> Result<Vec<(Outcome, Counter)>, MapError> {
    let one = |outcome: &Outcome| {
        let mut sum = Counter::default();
        for value in map.get(&(*outcome as u32), 0)?.iter() {
            if let Ok(counter) = Counter::read_from_bytes(value) {
                sum.packets += counter.packets;
                sum.bytes += counter.bytes;
            }
        }
        Ok((*outcome, sum))
    };
    Outcome::ALL.iter().map(one).collect()
}

fn map(what: &'static str) -> impl FnOnce(MapError) -> RealServerError {
    move |source| RealServerError::Map {
        what,
        source: Box::new(source),
    }
}
