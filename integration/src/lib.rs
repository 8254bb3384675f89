//! Hosts as network namespaces, real programs in them, and the tests that need both.
//!
//! ```no_run
//! use integration::{Segments, Topology};
//!
//! let lab = Topology::new(Segments::One).build("example")?;
//! lab.host("client")?.run("ping", &["-c1", "10.0.2.21"])?;
//! # Ok::<(), integration::Error>(())
//! ```

pub mod capture;
mod claim;
pub mod crowd;
pub mod daemon;
mod error;
mod host;
pub mod http;
pub mod keepalived;
mod lab;
pub mod matrix;
pub mod packet;
pub mod pair;
mod picture;
pub mod probe;
mod process;
pub mod real_server;
pub mod server;
pub mod stage;
pub mod topology;
pub mod veth;
pub mod xdp;

pub use claim::clean_all;
pub use error::{Error, Result};
pub use host::{Cidr, Host, Interface, Role};
pub use lab::{Direction, Lab, Link};
pub use process::{Process, Signal};
pub use topology::{Segments, ServersAre, Topology};
