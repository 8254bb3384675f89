//! Counting what arrives.

use aya::maps::{MapData, PerCpuArray};
use lb_common::load::{BUCKETS, Received, bucket_end};
use zerocopy::FromBytes as _;

use super::{BenchObject, LoadError, object::table};

/// Receives on interfaces of this namespace for as long as it lives.
pub struct Receiver<'a> {
    object: &'a mut BenchObject,
    program: &'static str,
}

/// What has arrived, on all CPUs together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub packets: u64,
    pub bytes: u64,
    pub stamped: u64,
    pub reordered: u64,
    /// The highest number of a packet, plus one.
    pub next_number: u64,
    /// Packets by latency; see [`bucket_end`].
    pub latency: Vec<u64>,
}

impl<'a> Receiver<'a> {
    /// Keeps what carries a stamp and lets the rest through.
    pub fn of_stamped(object: &'a mut BenchObject) -> Self {
        Self {
            object,
            program: "receive",
        }
    }

    /// Keeps everything.
    pub fn of_all(object: &'a mut BenchObject) -> Self {
        Self {
            object,
            program: "sink",
        }
    }

    pub fn attach(&mut self, ifindex: u32) -> Result<(), LoadError> {
        self.object.attach(self.program, ifindex)
    }

    pub fn tally(&mut self) -> Result<Tally, LoadError> {
        Tally::read(self.object)
    }
}

impl Tally {
    /// What the receiving programs of an object have counted.
    pub fn read(object: &mut BenchObject) -> Result<Self, LoadError> {
        let received: PerCpuArray<&MapData, [u8; size_of::<Received>()]> =
            per_cpu(object, "RECEIVED")?;
        let values = received.get(&0, 0).map_err(table("RECEIVED"))?;
        let mut tally = Self::default();
        for bytes in values.iter() {
            let one = Received::read_from_bytes(bytes).unwrap_or_default();
            tally.packets += one.packets;
            tally.bytes += one.bytes;
            tally.stamped += one.stamped;
            tally.reordered += one.reordered;
            tally.next_number = tally.next_number.max(one.next_number);
        }
        if tally.stamped > 0 {
            let latency: PerCpuArray<&MapData, u64> = per_cpu(object, "LATENCY")?;
            for bucket in 0..BUCKETS {
                let values = latency.get(&bucket, 0).map_err(table("LATENCY"))?;
                tally.latency.push(values.iter().sum());
            }
        }
        Ok(tally)
    }

    /// The latency that this share of the packets did not exceed, in nanoseconds, an eighth too large at most.
    pub fn latency_ns(&self, share: f64) -> Option<u64> {
        let total: u64 = self.latency.iter().sum();
        if total == 0 {
            return None;
        }
        let wanted = ((total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.latency.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        found.map(|bucket| bucket_end(bucket as u32))
    }
}

fn per_cpu<'a, T: aya::Pod>(
    object: &'a mut BenchObject,
    name: &'static str,
) -> Result<PerCpuArray<&'a MapData, T>, LoadError> {
    let map = object.ebpf().map(name).ok_or(LoadError::Lacks(name))?;
    map.try_into().map_err(table(name))
}

#[cfg(test)]
mod tests {
    use lb_common::load::bucket;

    use super::*;

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut tally = Tally {
            latency: vec![0; BUCKETS as usize],
            ..Tally::default()
        };
        assert_eq!(tally.latency_ns(0.5), None);
        for ns in 1..=1000_u64 {
            tally.latency[bucket(ns * 1000) as usize] += 1;
        }
        for (share, exact) in [
            (0.5, 500_000),
            (0.99, 990_000),
            (1.0, 1_000_000),
            (0.0, 1000),
        ] {
            let found = tally.latency_ns(share).expect("there are some");
            assert!(
                (exact..=exact + exact / 8).contains(&found),
                "{share}: {found}"
            );
        }
    }
}
