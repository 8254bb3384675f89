//! Which maps the program has and how large each is for a wanted capacity.

use aya::maps::{MapInfo, MapType};
use lb_common::{
    echo::Identity,
    lease::{self, Held, Lease},
    steering::FlowTable,
    tables::{Backend, Counter, Service, Settings},
};
use lb_core::plan::write::Capacity;

use super::mapping::page_size;

/// `BPF_F_MMAPABLE` of linux/bpf.h.
const MAPPABLE: u32 = 1 << 10;

/// Records have 30 bits in a cell of the index.
const MOST_RECORDS: u32 = 1 << 30;

/// Positions of entries have 32 bits.
const MOST_SETS: u32 = 1 << 26;

/// Why there are no tables of this capacity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CapacityError {
    #[error("the index cannot have {0} cells; make it a power of two, 8 or more")]
    Cells(u32),
    #[error("the slot table cannot have {0} slots; make it an even number above 0")]
    Slots(u32),
    #[error("a flow table cannot have {0} sets; make it a power of two up to {MOST_SETS}")]
    Sets(u32),
    #[error("there cannot be {count} {what}; make it 1 to {most}")]
    Records {
        what: &'static str,
        count: u32,
        most: u32,
    },
}

/// One array map, as the program expects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapShape {
    /// Its name in the object and in the pin directory.
    pub name: &'static str,
    pub value_bytes: u32,
    pub entries: u32,
}

/// The maps of one capacity.
#[derive(Clone, Copy, Debug)]
pub struct Shapes {
    pub index: MapShape,
    pub services: MapShape,
    pub slots: MapShape,
    pub backends: MapShape,
    pub backend_counters: MapShape,
    pub reason_counters: MapShape,
    pub identity: MapShape,
    pub leases: MapShape,
    pub held: MapShape,
    /// The secret of the flow tables' hash.
    pub secret: MapShape,
    pub notes: MapShape,
    /// In the order of [`FlowTable::ALL`].
    pub flows: [MapShape; FlowTable::ALL.len()],
}

impl Shapes {
    /// `cpus`: how many the kernel may ever have.
    pub fn new(capacity: &Capacity, cpus: u32) -> Result<Self, CapacityError> {
        let Capacity {
            cells,
            services,
            slots,
            backends,
            flow_sets,
            half_open_sets,
        } = *capacity;
        for sets in [flow_sets, half_open_sets] {
            if !sets.is_power_of_two() || sets > MOST_SETS {
                return Err(CapacityError::Sets(sets));
            }
        }
        if !cells.is_power_of_two() || cells < 8 {
            return Err(CapacityError::Cells(cells));
        }
        if slots == 0 || slots % 2 != 0 {
            return Err(CapacityError::Slots(slots));
        }
        let cpus = cpus.max(1);
        let records = |what, count, most| {
            if (1..=most).contains(&count) {
                Ok(count)
            } else {
                Err(CapacityError::Records { what, count, most })
            }
        };
        let services = records("services", services, MOST_RECORDS - 1)?;
        let backends = records(
            "backends",
            backends,
            (u32::MAX / cpus).min(MOST_RECORDS - 1),
        )?;
        Ok(Self {
            index: shape::<u64>("INDEX", cells),
            services: shape::<Service>("SERVICES", services),
            slots: shape::<u64>("SLOTS", slots / 2),
            backends: shape::<Backend>("BACKENDS", backends),
            backend_counters: shape::<Counter>("BACKEND_COUNTERS", backends * cpus),
            reason_counters: shape::<Counter>("REASON_COUNTERS", Settings::REASONS * cpus),
            identity: shape::<Identity>("IDENTITY", 1),
            leases: shape::<Lease>("LEASES", lease::LEASES),
            held: shape::<Held>("HELD", lease::HELD),
            secret: shape::<u64>("SECRET", 1),
            notes: shape::<u64>("NOTES", services),
            flows: FlowTable::ALL.map(|table| MapShape {
                name: match table {
                    FlowTable::Flows4 => "FLOWS4",
                    FlowTable::HalfOpen4 => "HALF_OPEN4",
                    FlowTable::Flows6 => "FLOWS6",
                    FlowTable::HalfOpen6 => "HALF_OPEN6",
                },
                value_bytes: (table.set_words() * size_of::<u64>()) as u32,
                entries: match table {
                    FlowTable::Flows4 | FlowTable::Flows6 => flow_sets,
                    FlowTable::HalfOpen4 | FlowTable::HalfOpen6 => half_open_sets,
                },
            }),
        })
    }

    pub fn all(&self) -> Vec<MapShape> {
        let mut all = vec![
            self.index,
            self.services,
            self.slots,
            self.backends,
            self.backend_counters,
            self.reason_counters,
            self.identity,
            self.leases,
            self.held,
            self.secret,
            self.notes,
        ];
        all.extend(self.flows);
        all
    }

    /// Memory that the maps take in the kernel, in bytes.
    pub fn bytes(&self) -> u64 {
        let page = page_size() as u64;
        self.all()
            .iter()
            .map(|map| {
                let values = u64::from(map.value_bytes) * u64::from(map.entries);
                // The kernel puts its own header in a page before the values.
                values.next_multiple_of(page) + page
            })
            .sum()
    }
}

/// Memory in bytes that tables of this capacity take in the kernel of this host. A change of the capacity takes it a second
/// time until the programs have been replaced.
///
/// # Errors
/// If there are no such tables.
pub fn capacity_bytes(capacity: &Capacity) -> Result<u64, CapacityError> {
    Ok(Shapes::new(capacity, possible_cpus())?.bytes())
}

/// Processors that the kernel may ever have; their numbers are below this.
pub fn possible_cpus() -> u32 {
    // Without /sys there is no bpffs either, and opening fails with a better text.
    aya::util::nr_cpus().map_or(1, |cpus| cpus as u32)
}

impl MapShape {
    /// Says what is different about a map of the kernel; `None` if it is as it should be.
    pub fn difference(&self, map: &MapInfo) -> Option<String> {
        let mut found = Vec::new();
        match map.map_type() {
            Ok(MapType::Array) => {}
            other => found.push(format!("it is no array ({other:?})")),
        }
        for (what, is, should) in [
            ("key size", map.key_size(), 4),
            ("value size", map.value_size(), self.value_bytes),
            ("entries", map.max_entries(), self.entries),
            ("flags", map.map_flags(), MAPPABLE),
        ] {
            if is != should {
                found.push(format!("{what}: {is}, not {should}"));
            }
        }
        (!found.is_empty()).then(|| format!("{}: {}", self.name, found.join(", ")))
    }
}

fn shape<T>(name: &'static str, entries: u32) -> MapShape {
    MapShape {
        name,
        value_bytes: size_of::<T>() as u32,
        entries,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: Capacity = Capacity {
        cells: 1024,
        services: 64,
        slots: 131_074,
        backends: 1024,
        flow_sets: 64,
        half_open_sets: 8,
    };

    #[test]
    fn memory_is_that_of_the_elements_in_whole_pages() {
        let shapes = Shapes::new(&CAPACITY, 4).expect("a valid capacity");
        let page = page_size() as u64;
        let up = |bytes: u64| bytes.next_multiple_of(page) + page;
        let expected = up(1024 * 8)
            + up(64 * 128)
            + up(131_074 * 4)
            + up(1024 * 128)
            + up(4 * 1024 * 16)
            + up(4 * 64 * 16)
            + up(24)
            + up(512 * 24)
            + up(4096 * 24)
            + up(8)
            + up(64 * 8)
            + up(64 * 16 * 32)
            + up(8 * 16 * 32)
            + up(64 * 16 * 64)
            + up(8 * 16 * 64);
        assert_eq!(shapes.bytes(), expected);
    }

    #[test]
    fn impossible_capacities_are_refused() {
        let refused = |capacity: Capacity| Shapes::new(&capacity, 4).expect_err("refused");
        assert_eq!(
            refused(Capacity {
                cells: 1000,
                ..CAPACITY
            }),
            CapacityError::Cells(1000)
        );
        assert_eq!(
            refused(Capacity {
                slots: 3,
                ..CAPACITY
            }),
            CapacityError::Slots(3)
        );
        assert_eq!(
            refused(Capacity {
                flow_sets: 3,
                ..CAPACITY
            }),
            CapacityError::Sets(3)
        );
        assert!(matches!(
            refused(Capacity {
                services: 0,
                ..CAPACITY
            }),
            CapacityError::Records {
                what: "services",
                ..
            }
        ));
        // One counter per CPU has to be addressable, too.
        assert!(matches!(
            Shapes::new(
                &Capacity {
                    backends: 1 << 29,
                    ..CAPACITY
                },
                16
            ),
            Err(CapacityError::Records {
                what: "backends",
                ..
            })
        ));
    }
}
