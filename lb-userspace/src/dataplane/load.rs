//! Loading the program, finding or making its tables, and letting packets in.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData, MapInfo},
    programs::{ProgramError, Xdp},
};
use lb_common::tables::Settings;
use lb_core::{model::XdpMode, plan::write::Capacity};
use zerocopy::IntoBytes;

use super::{
    directory::{DEFAULT_DIRECTORY, Directory, Generation},
    error::OpenError,
    flows,
    leases::LeaseTable,
    link::{AttachError, InterfaceReport, PinnedLink, Program},
    mapping::Mapped,
    maps::{MapShape, Shapes, possible_cpus},
    tables::{MapDescriptors, MappedTables},
};

const PROGRAM: &str = "balancer";
const LOAD_ATTEMPTS: u32 = 5;

/// Why a program with more parts does not run.
#[derive(Debug, thiserror::Error)]
pub enum WidenError {
    #[error("the program cannot be loaded anew")]
    Load(#[from] OpenError),
    #[error("the program that was loaded anew cannot be attached")]
    Attach(#[from] AttachError),
}

/// How to open the dataplane.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to pin, in a bpffs.
    pub directory: PathBuf,
    pub capacity: Capacity,
    /// Interfaces on which [`Dataplane::attach`] attaches the program.
    pub interfaces: Vec<(String, XdpMode)>,
    /// ICMP errors and echo replies of each CPU; a second is 2³⁰ ns.
    pub answers_per_second: u32,
    /// Parts of the program that are there: [`lb_common::tables::features`].
    pub features: u32,
}

impl Options {
    /// With the default directory and no interface.
    pub fn new(capacity: Capacity) -> Self {
        Self {
            directory: DEFAULT_DIRECTORY.into(),
            capacity,
            interfaces: Vec::new(),
            answers_per_second: Settings::DEFAULT.answers_per_second,
            features: Settings::DEFAULT.features,
        }
    }
}

/// The loaded program with its tables and links. Dropping it leaves the kernel forwarding.
pub struct Dataplane {
    directory: Directory,
    generation: Generation,
    adopted: bool,
    wanted: BTreeMap<String, XdpMode>,
    links: BTreeMap<String, PinnedLink>,
    tables: MappedTables,
    options: Options,
    /// Holds the program; it has no links of its own.
    ebpf: Ebpf,
}

impl Dataplane {
    /// Loads the program over the pinned tables if they are of this layout and capacity, otherwise over new and empty ones.
    /// Attaches nothing: what an earlier process attached goes on with its program and tables.
    ///
    /// # Errors
    /// If another process has the directory open, or the kernel refuses.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let cpus = possible_cpus();
        let shapes = Shapes::new(&options.capacity, cpus)?;
        let object = lb_ebpf::object()?;
        let directory = Directory::open(&options.directory)?;
        let current = directory
            .current()
            .filter(|generation| is_adoptable(generation, &shapes));
        let adopted = current.is_some();
        let generation = match current {
            Some(generation) => generation,
            None => directory.fresh()?,
        };
        let secret = if adopted {
            Some(read_secret(&generation, &shapes)?)
        } else {
            None
        };
        let seed = match secret {
            Some(seed) => seed,
            None => random()?,
        };
        let ebpf = load(&object, &generation, &options, &shapes, seed)?;
        if secret.is_none() {
            let map = Mapped::<AtomicU64>::new(descriptor(&ebpf, shapes.secret)?, 1)
                .map_err(OpenError::Map)?;
            if let Some(word) = map.get(0) {
                word.store(seed, Ordering::Release);
            }
        }
        let tables = map_tables(&ebpf, &shapes, options.capacity, cpus, seed)?;
        tracing::info!(
            directory = %directory.path().display(),
            adopted,
            bytes = shapes.bytes(),
            "dataplane loaded"
        );
        Ok(Self {
            directory,
            generation,
            adopted,
            wanted: options.interfaces.iter().cloned().collect(),
            links: BTreeMap::new(),
            tables,
            options,
            ebpf,
        })
    }

    /// Has the program do what `features` say beside what it does: loads it anew over the same tables, and puts it in place of the one that
    /// runs, interface by interface and without a gap. Nothing happens if it does all of it. Fragments in flight are forgotten.
    ///
    /// # Errors
    /// If the kernel refuses; interfaces that were not reached run the program as it was.
    pub fn widen(&mut self, features: u32) -> Result<(), WidenError> {
        if features & !self.options.features == 0 {
            return Ok(());
        }
        let options = Options {
            features: features | self.options.features,
            ..self.options.clone()
        };
        let object = lb_ebpf::object().map_err(OpenError::from)?;
        let shapes = Shapes::new(&options.capacity, possible_cpus()).map_err(OpenError::from)?;
        let seed = self.tables.flows().settings().seed;
        self.ebpf = load(&object, &self.generation, &options, &shapes, seed)?;
        self.options = options;
        for name in self.links.keys().cloned().collect::<Vec<_>>() {
            if let Some(mode) = self.wanted.get(&name).copied() {
                self.attach_interface(&name, mode)?;
            }
        }
        Ok(())
    }

    /// Instructions that the kernel went through to verify the program; `None` on kernels that do not say.
    pub fn verified_instructions(&self) -> Option<u32> {
        self.program()
            .ok()?
            .info()
            .ok()?
            .verified_instruction_count()
    }

    /// Whether the tables are those of an earlier process, with its services in them.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// The tables of the election, for their one writer.
    ///
    /// # Errors
    /// If the kernel does not map them.
    pub fn leases(&self) -> Result<LeaseTable, OpenError> {
        let shapes = Shapes::new(&self.tables.capacity(), possible_cpus())?;
        let maps = [shapes.identity, shapes.leases, shapes.held];
        let [identity, leases, held] = maps.map(|shape| descriptor(&self.ebpf, shape));
        LeaseTable::new(identity?, leases?, held?).map_err(OpenError::Map)
    }

    pub fn tables(&self) -> &MappedTables {
        &self.tables
    }

    pub fn tables_mut(&mut self) -> &mut MappedTables {
        &mut self.tables
    }

    /// Attaches the program to all wanted interfaces, in place of an earlier one by atomic replacement; then detaches interfaces
    /// that are not wanted any more and removes the tables that no program uses. The tables are filled before.
    ///
    /// An interface that does not exist is left out with a warning: [`attach_interface`](Self::attach_interface) when it comes.
    ///
    /// # Errors
    /// At the first interface that fails. Interfaces before it run this program, those after it an earlier one, and
    /// the earlier tables are kept. It may be called again.
    pub fn attach(&mut self) -> Result<Vec<InterfaceReport>, AttachError> {
        for (name, mode) in self.wanted.clone() {
            match self.attach_interface(&name, mode) {
                Ok(_) => {}
                Err(AttachError::NoInterface(name)) => {
                    tracing::warn!(interface = name, "no such interface; waiting for it");
                }
                Err(error) => return Err(error),
            }
        }
        let wanted = self.wanted.keys().map(String::as_str);
        for path in self.directory.other_links(wanted)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if let Some(link) = PinnedLink::open(&path, &name)? {
                link.remove()?;
            }
        }
        self.directory.publish(&mut self.generation)?;
        Ok(self.interfaces())
    }

    /// Attaches the program to one more interface, or again to one that was made anew, or replaces the program that it runs.
    pub fn attach_interface(
        &mut self,
        name: &str,
        mode: XdpMode,
    ) -> Result<InterfaceReport, AttachError> {
        self.wanted.insert(name.to_owned(), mode);
        let (program, tag) = self.identity(name)?;
        let link = PinnedLink::attach(&self.directory.link(name), name, mode, program)?;
        let report = link
            .report(&tag)
            .ok_or_else(|| AttachError::NoInterface(name.to_owned()))?;
        tracing::info!(
            interface = name,
            mode = %report.mode,
            program = report.program_id,
            tag,
            "forwarding"
        );
        self.links.insert(name.to_owned(), link);
        Ok(report)
    }

    /// Ends forwarding on one interface; nothing happens if there is none, or it is gone.
    pub fn detach_interface(&mut self, name: &str) -> Result<(), AttachError> {
        self.wanted.remove(name);
        self.links.remove(name);
        match PinnedLink::open(&self.directory.link(name), name)? {
            Some(link) => link.remove(),
            None => Ok(()),
        }
    }

    /// The interfaces that run the program now; those that vanished are left out.
    pub fn interfaces(&self) -> Vec<InterfaceReport> {
        let Ok((_, tag)) = self.identity("") else {
            return Vec::new();
        };
        let reports = self.links.values().filter_map(|link| link.report(&tag));
        reports.collect()
    }

    /// Ends all forwarding and removes tables, links and directories: a clean stop.
    ///
    /// # Errors
    /// If something could not be removed; other interfaces may forward still.
    pub fn detach(mut self) -> Result<(), AttachError> {
        self.links.clear();
        for path in self.directory.other_links(std::iter::empty())? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if let Some(link) = PinnedLink::open(&path, &name)? {
                link.remove()?;
            }
        }
        self.generation.keep();
        Ok(self.directory.remove()?)
    }

    /// The loaded program.
    ///
    /// # Errors
    /// None that the caller could see: it is loaded as long as this lives.
    pub fn program(&self) -> Result<&Xdp, ProgramError> {
        self.ebpf
            .program(PROGRAM)
            .ok_or(ProgramError::NotLoaded)?
            .try_into()
    }

    /// The program for links of `interface`, and its tag.
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

/// The secret of tables that are adopted: their flows are where it says.
fn read_secret(generation: &Generation, shapes: &Shapes) -> Result<u64, OpenError> {
    let map = MapData::from_pin(generation.map(shapes.secret.name))
        .map_err(|error| OpenError::Map(io::Error::other(error)))?;
    let mapped = Mapped::<AtomicU64>::new(map.fd().as_fd(), 1).map_err(OpenError::Map)?;
    Ok(mapped.get(0).map_or(0, |word| word.load(Ordering::Acquire)))
}

fn random() -> Result<u64, OpenError> {
    let mut bytes = [0; 8];
    // SAFETY: a buffer of the length said. Fewer than 256 bytes come whole once the kernel's source is ready.
    let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if count != bytes.len() as isize {
        return Err(OpenError::Map(io::Error::last_os_error()));
    }
    Ok(u64::from_ne_bytes(bytes))
}

/// aya takes a pinned map as it is: what it takes is looked at first.
fn is_adoptable(generation: &Generation, shapes: &Shapes) -> bool {
    shapes.all().iter().all(|shape| {
        let difference = match MapInfo::from_pin(generation.map(shape.name)) {
            Ok(map) => shape.difference(&map),
            Err(error) => Some(format!("{}: {error}", shape.name)),
        };
        if let Some(difference) = &difference {
            tracing::info!(difference, "the pinned tables are replaced by new ones");
        }
        difference.is_none()
    })
}

fn load(
    object: &[u8],
    generation: &Generation,
    options: &Options,
    shapes: &Shapes,
    seed: u64,
) -> Result<Ebpf, OpenError> {
    let capacity = &options.capacity;
    let flows = flows::settings(capacity, seed);
    let settings = Settings {
        index_mask: capacity.cells - 1,
        backends: capacity.backends,
        answers_per_second: options.answers_per_second,
        features: options.features,
        flow_mask: flows.flow_mask,
        half_open_mask: flows.half_open_mask,
        flow_seed: flows.seed,
    };
    let mut loader = EbpfLoader::new();
    loader.override_global("SETTINGS", settings.as_bytes(), true);
    for shape in shapes.all() {
        loader
            .map_max_entries(shape.name, shape.entries)
            .map_pin_path(shape.name, generation.map(shape.name));
    }
    let bytes = shapes.bytes();
    let mut ebpf = loader
        .load(object)
        .map_err(|error| OpenError::load(error, bytes))?;
    let program: &mut Xdp = ebpf
        .program_mut(PROGRAM)
        .ok_or_else(|| OpenError::Mismatch(format!("it has no program {PROGRAM}")))?
        .try_into()
        .map_err(|error: ProgramError| OpenError::load(error, bytes))?;
    verify(|| program.load()).map_err(|error| OpenError::load(error, bytes))?;
    Ok(ebpf)
}

/// Has the kernel verify the program. A signal that arrives meanwhile ends the verifier with `EAGAIN`, at no fault of the
/// program: it is asked again, as often as libbpf does (`PROG_LOAD_ATTEMPTS`), which aya does not do.
pub(super) fn verify(
    mut load: impl FnMut() -> Result<(), ProgramError>,
) -> Result<(), ProgramError> {
    for _ in 1..LOAD_ATTEMPTS {
        match load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
    load()
}

fn map_tables(
    ebpf: &Ebpf,
    shapes: &Shapes,
    capacity: Capacity,
    cpus: u32,
    seed: u64,
) -> Result<MappedTables, OpenError> {
    let [flows4, half_open4, flows6, half_open6] = shapes.flows;
    let maps = MapDescriptors {
        index: descriptor(ebpf, shapes.index)?,
        services: descriptor(ebpf, shapes.services)?,
        slots: descriptor(ebpf, shapes.slots)?,
        backends: descriptor(ebpf, shapes.backends)?,
        backend_counters: descriptor(ebpf, shapes.backend_counters)?,
        reason_counters: descriptor(ebpf, shapes.reason_counters)?,
        notes: descriptor(ebpf, shapes.notes)?,
        flows: [
            descriptor(ebpf, flows4)?,
            descriptor(ebpf, half_open4)?,
            descriptor(ebpf, flows6)?,
            descriptor(ebpf, half_open6)?,
        ],
    };
    MappedTables::new(&maps, capacity, cpus, seed).map_err(OpenError::Map)
}

fn descriptor(ebpf: &Ebpf, shape: MapShape) -> Result<BorrowedFd<'_>, OpenError> {
    let Some(Map::Array(map)) = ebpf.map(shape.name) else {
        return Err(OpenError::Mismatch(format!(
            "it has no array {}",
            shape.name
        )));
    };
    let info = map
        .info()
        .map_err(|error| OpenError::Mismatch(format!("{}: {error}", shape.name)))?;
    match shape.difference(&info) {
        None => Ok(map.fd().as_fd()),
        Some(difference) => Err(OpenError::Mismatch(difference)),
    }
}
