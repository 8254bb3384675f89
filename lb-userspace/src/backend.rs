//! A real server of the load balancer, as `futago backend` sets it up and checks it. What is needed is decided in
//! [`lb_core::backend_host`]; here the host is read and changed, and what was there before is kept for the way back.

pub mod change;
pub mod facts;
mod listeners;
pub mod record;
pub mod report;
