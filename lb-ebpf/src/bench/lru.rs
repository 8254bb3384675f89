//! The yardstick for what XDP load balancers usually do: a kernel hash of services and a kernel LRU hash of flows for every packet, and a
//! consistent-hash ring for new flows. Parsing, rewriting and counting are those of the load balancer, so that the tables are the difference.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::{
    flow_table::Ticks,
    frame::Frame,
    hash,
    ip::{End, Ip, V4, V6},
    job::Job,
    link::{self, Exit},
    parse::{self, Link},
    reason::Reason,
    rewrite::{Endpoint, translate},
    steering::{FlowSettings, FlowTable},
    tables::{Backend, Counter, Key, Mode, Route, RouteQuery, Service, Tables},
    tunnel,
    wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6},
};

use crate::frame::XdpFrame;

/// As many as `futago` has slots by default.
const RING: usize = 65_537;

/// Source, destination, ports, protocol.
type Flow4 = [u32; 4];
type Flow6 = [u32; 10];

#[btf_map]
static LRU_SERVICES: HashMap<Key, u32, 1024> = HashMap::new();
#[btf_map]
static LRU_RECORDS: Array<Service, 1024> = Array::new();
#[btf_map]
static LRU_RING: Array<u32, RING> = Array::new();
#[btf_map]
static LRU_BACKENDS: Array<Backend, 1024> = Array::new();
/// Twice the flows that the benches have, as an operator would size it.
#[btf_map]
static LRU_FLOWS4: LruHashMap<Flow4, u32, 2_097_152> = LruHashMap::new();
#[btf_map]
static LRU_FLOWS6: LruHashMap<Flow6, u32, 2_097_152> = LruHashMap::new();
#[btf_map]
static LRU_BACKEND_COUNTERS: PerCpuArray<Counter, 1024> = PerCpuArray::new();
#[btf_map]
static LRU_SERVICE_COUNTERS: PerCpuArray<Counter, 1024> = PerCpuArray::new();

/// What the encapsulation asks for.
struct LruTables;

impl Tables for LruTables {
    /// Its flows are in the kernel's own tables.
    type Memory = ();

    #[inline(always)]
    fn flow_memory(&self, _table: FlowTable) {}
    #[inline(always)]
    fn flow_settings(&self) -> FlowSettings {
        FlowSettings::default()
    }
    #[inline(always)]
    fn now(&self) -> Ticks {
        Ticks::default()
    }
    #[inline(always)]
    fn note_unrecorded(&self, _service: u32) {}
    #[inline(always)]
    fn index_mask(&self) -> u32 {
        0
    }
    #[inline(always)]
    fn cell(&self, _position: u32) -> u64 {
        0
    }
    #[inline(always)]
    fn service(&self, record: u32) -> Option<&Service> {
        LRU_RECORDS.get(record)
    }
    #[inline(always)]
    fn slot(&self, _position: u32) -> Option<u32> {
        None
    }
    #[inline(always)]
    fn backend(&self, record: u32) -> Option<&Backend> {
        LRU_BACKENDS.get(record)
    }
    #[inline(always)]
    fn route(&self, _query: &RouteQuery) -> Route {
        Route::None
    }
    #[inline(always)]
    fn count_backend(&self, record: u32, bytes: u32) {
        count(LRU_BACKEND_COUNTERS.get_ptr_mut(record), bytes);
    }
    #[inline(always)]
    fn count(&self, _reason: Reason, _bytes: u32) {}
}

trait Family: Ip {
    /// The backend of a flow: known, or chosen now and kept.
    fn backend(network: &parse::Network, ports: parse::PortPair, seed: u64) -> Option<u32>;
}

impl Family for V4 {
    #[inline(always)]
    fn backend(network: &parse::Network, ports: parse::PortPair, seed: u64) -> Option<u32> {
        let flow = [
            u32::from_ne_bytes(network.source.to_v4()),
            u32::from_ne_bytes(network.destination.to_v4()),
            both(ports),
            network.protocol.into(),
        ];
        if let Some(backend) = LRU_FLOWS4.get_ptr(flow) {
            // SAFETY: an element of the map, which stays memory whatever becomes of the flow.
            return Some(unsafe { *backend });
        }
        let backend = choose(network, ports, seed)?;
        let _ = LRU_FLOWS4.insert(flow, backend, 0);
        Some(backend)
    }
}

impl Family for V6 {
    #[inline(always)]
    fn backend(network: &parse::Network, ports: parse::PortPair, seed: u64) -> Option<u32> {
        let words = |word: u64| [word as u32, (word >> 32) as u32];
        let [a, b] = words(network.source.high);
        let [c, d] = words(network.source.low);
        let [e, f] = words(network.destination.high);
        let [g, h] = words(network.destination.low);
        let flow = [a, b, c, d, e, f, g, h, both(ports), network.protocol.into()];
        if let Some(backend) = LRU_FLOWS6.get_ptr(flow) {
            // SAFETY: as above.
            return Some(unsafe { *backend });
        }
        let backend = choose(network, ports, seed)?;
        let _ = LRU_FLOWS6.insert(flow, backend, 0);
        Some(backend)
    }
}

#[inline(always)]
fn both(ports: parse::PortPair) -> u32 {
    u32::from(ports.source) << 16 | u32::from(ports.destination)
}

#[inline(always)]
fn choose(network: &parse::Network, ports: parse::PortPair, seed: u64) -> Option<u32> {
    let hash = hash::flow(seed, network.source, both(ports));
    LRU_RING.get(hash::reduce(hash, RING as u32)).copied()
}

#[xdp]
pub fn lru(context: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(&context);
    let Some(link) = parse::link(&frame) else {
        return XDP_PASS;
    };
    let sent = match link.ethertype {
        ETHERTYPE_IPV4 => forward::<V4>(&mut frame, link),
        ETHERTYPE_IPV6 => forward::<V6>(&mut frame, link),
        _ => return XDP_PASS,
    };
    match sent {
        Some(Exit::SameInterface) => XDP_TX,
        Some(Exit::Interface(_)) => XDP_DROP,
        None => XDP_PASS,
    }
}

#[inline(always)]
fn forward<V: Family>(frame: &mut XdpFrame<'_>, link: Link) -> Option<Exit> {
    let bytes = frame.length() as u32;
    let network = V::parse(frame, link.length()).ok()?;
    if network.piece.is_fragment() {
        return None;
    }
    let ports = parse::ports(frame, &network)?;
    let key = Key::new(network.destination, network.protocol, ports.destination);
    let record = LRU_SERVICES.get_ptr(key)?;
    // SAFETY: an element of the map; services are not removed while it runs.
    let record = unsafe { *record };
    let service = LRU_RECORDS.get(record)?;
    let number = V::backend(&network, ports, service.seed)?;
    let backend = LRU_BACKENDS.get(number)?;
    count(LRU_SERVICE_COUNTERS.get_ptr_mut(record), bytes);
    LruTables.count_backend(number, bytes);
    let state = backend.state();
    match Mode::from_number(service.mode)? {
        Mode::Nat => {
            let old = Endpoint {
                address: network.destination,
                port: ports.destination,
            };
            let new = Endpoint {
                address: backend.address,
                port: state.port,
            };
            translate::<V, _>(frame, link, &network, End::Destination, old, new).ok()?;
        }
        Mode::Ipip => {
            let job = Job::new(link, &network, ports, record, number);
            return tunnel::encapsulate(frame, &LruTables, &job).exit;
        }
        _ => {}
    }
    link::address(frame, link, backend.next_hop(state)).ok()
}

#[inline(always)]
fn count(counter: Option<*mut Counter>, bytes: u32) {
    if let Some(counter) = counter {
        // SAFETY: an element of this CPU.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += u64::from(bytes);
        }
    }
}
