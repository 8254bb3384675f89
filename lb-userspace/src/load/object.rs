//! The BPF object with generator, receiver and yardsticks.

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, MapData},
    programs::{ProgramFd, Xdp},
};

use super::LoadError;

/// How large the tables of the yardstick are; the default is for who does not use it.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub lru_flows_v4: u32,
    pub lru_flows_v6: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            lru_flows_v4: 1,
            lru_flows_v6: 1,
        }
    }
}

/// The object's tables, and those of its programs that were asked for. All end with it.
pub struct BenchObject {
    ebpf: Ebpf,
}

impl BenchObject {
    /// Makes the tables and loads these programs.
    pub fn load(sizes: Sizes, programs: &[&'static str]) -> Result<Self, LoadError> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("LRU_FLOWS4", sizes.lru_flows_v4)
            .map_max_entries("LRU_FLOWS6", sizes.lru_flows_v6)
            .load(lb_ebpf::BENCH_OBJECT)
            .map_err(|error| LoadError::Object(Box::new(error)))?;
        for &name in programs {
            xdp(&mut ebpf, name)?
                .load()
                .map_err(|source| LoadError::Program {
                    name,
                    source: Box::new(source),
                })?;
        }
        Ok(Self { ebpf })
    }

    /// A loaded program.
    pub fn program(&mut self, name: &'static str) -> Result<&mut Xdp, LoadError> {
        xdp(&mut self.ebpf, name)
    }

    /// A descriptor of a loaded program, for a table of programs.
    pub fn descriptor(&mut self, name: &'static str) -> Result<ProgramFd, LoadError> {
        let clone = |program: &mut Xdp| {
            program
                .fd()?
                .try_clone()
                .map_err(|error| aya::programs::ProgramError::IOError(std::io::Error::other(error)))
        };
        clone(self.program(name)?).map_err(|source| LoadError::Program {
            name,
            source: Box::new(source),
        })
    }

    /// Attaches a loaded program to an interface in native mode, for as long as this lives.
    pub fn attach(&mut self, name: &'static str, ifindex: u32) -> Result<(), LoadError> {
        use aya::programs::xdp::XdpMode;
        let attached = self
            .program(name)?
            .attach_to_if_index(ifindex, XdpMode::Default);
        attached.map(drop).map_err(|source| LoadError::Attach {
            ifindex,
            source: Box::new(source),
        })
    }

    /// An array of the object, its elements as bytes or integers.
    pub fn array<T: Pod>(
        &mut self,
        name: &'static str,
    ) -> Result<Array<&mut MapData, T>, LoadError> {
        let map = self.ebpf.map_mut(name).ok_or(LoadError::Lacks(name))?;
        map.try_into().map_err(table(name))
    }

    /// All tables and programs, for what has no method here.
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}

pub fn table(name: &'static str) -> impl Fn(aya::maps::MapError) -> LoadError {
    move |source| LoadError::Table {
        name,
        source: Box::new(source),
    }
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, LoadError> {
    let program = ebpf.program_mut(name).ok_or(LoadError::Lacks(name))?;
    program.try_into().map_err(|_| LoadError::Lacks(name))
}
