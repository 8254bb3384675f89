//! What should be true: the decisions of the load balancer as pure functions and state machines. Time is an
//! argument (a [`core::time::Duration`] since an origin that the caller chooses); sockets, files and clocks are
//! the caller's.

#![forbid(unsafe_code)]

pub mod backend_host;
pub mod config;
pub mod drain;
pub mod flows;
pub mod health;
pub mod maglev;
pub mod model;
pub mod plan;
pub mod sim;
pub mod vrrp;
