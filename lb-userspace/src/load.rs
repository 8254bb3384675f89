//! Load: packets at the speed of the kernel, made by an XDP program that the kernel runs on live frames, and a receiver that counts what
//! arrives. `futago load` and the benches use it.

mod generator;
mod object;
mod receiver;
mod shape;

pub use generator::{Generator, Run};
pub use object::{BenchObject, Sizes};
pub use receiver::{Receiver, Tally};
pub use shape::{Kind, Shape, ShapeError};

/// Why load cannot be made or received.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot load the programs for load: {0}")]
    Object(#[source] Box<aya::EbpfError>),
    #[error("the programs for load lack {0}: this is a defect of the build")]
    Lacks(&'static str),
    #[error("cannot load the program {name}: {source}")]
    Program {
        name: &'static str,
        source: Box<aya::programs::ProgramError>,
    },
    #[error("cannot use the table {name}: {source}")]
    Table {
        name: &'static str,
        source: Box<aya::maps::MapError>,
    },
    #[error(
        "cannot run the receiver on interface {ifindex}: {source}; another XDP program on it (`ip link show`) has to go first"
    )]
    Attach {
        ifindex: u32,
        source: Box<aya::programs::ProgramError>,
    },
    #[error(
        "the kernel did not send (Linux 5.18 or later can, through a driver with XDP transmit): {0}"
    )]
    Send(#[source] Box<aya::programs::ProgramError>),
}
