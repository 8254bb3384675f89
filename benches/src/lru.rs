//! The tables of the yardstick, filled with the services that are measured.

use anyhow::Result;
use aya::maps::{Array, HashMap, MapData};
use lb_common::{
    hash,
    tables::{Backend, BackendState, Key, NextHop, Service},
};
use lb_userspace::load::BenchObject;
use zerocopy::{FromZeros as _, IntoBytes};

use crate::{
    modes::MODES,
    services::{self, BACKENDS, PORT},
};

const RING: u32 = 65_537;
const UDP: u8 = 17;

/// Writes a service for every line of [`MODES`] that the yardstick can do.
pub fn fill(object: &mut BenchObject, hop: NextHop) -> Result<()> {
    for slot in 0..RING {
        let number = hash::reduce(
            (hash::mix(u64::from(slot)) >> 32) as u32,
            u32::from(BACKENDS),
        );
        object.array::<u32>("LRU_RING")?.set(slot, number, 0)?;
    }
    for (number, case) in MODES.iter().enumerate() {
        let Some(mode) = case.lru else { continue };
        let vip = services::vip(number);
        let key = Key::new(vip.ip().into(), UDP, PORT);
        let service = Service {
            key,
            seed: hash::mix(number as u64),
            slot_count: RING,
            mode: mode as u8,
            ..Service::new_zeroed()
        };
        let record = number as u32;
        records::<{ size_of::<Service>() }>(object, "LRU_RECORDS")?.set(
            record,
            bytes::<_, { size_of::<Service>() }>(&service),
            0,
        )?;
        let map = object
            .ebpf()
            .map_mut("LRU_SERVICES")
            .ok_or_else(|| anyhow::anyhow!("no LRU_SERVICES"))?;
        let mut keys: HashMap<&mut MapData, [u8; size_of::<Key>()], u32> = map.try_into()?;
        keys.insert(bytes::<_, { size_of::<Key>() }>(&key), record, 0)?;
    }
    // The lines share their backends: a load balancer of this kind numbers them once.
    for number in 0..BACKENDS {
        let address = services::backend(0, number + 1);
        let state = BackendState {
            service: 0,
            port: PORT,
            next_hop: 0,
            up: true,
            lives: true,
            on_down: None,
        };
        let source = services::backend(0, 254).into();
        let backend = Backend {
            address: address.into(),
            next_hops: [hop; 2],
            state: state.pack(),
            tunnel_sources: [source; 2],
            ..Backend::default()
        };
        records::<{ size_of::<Backend>() }>(object, "LRU_BACKENDS")?.set(
            u32::from(number),
            bytes::<_, { size_of::<Backend>() }>(&backend),
            0,
        )?;
    }
    Ok(())
}

fn records<'a, const N: usize>(
    object: &'a mut BenchObject,
    name: &'static str,
) -> Result<Array<&'a mut MapData, [u8; N]>> {
    Ok(object.array(name)?)
}

fn bytes<T: IntoBytes + zerocopy::Immutable, const N: usize>(value: &T) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(value.as_bytes());
    bytes
}
