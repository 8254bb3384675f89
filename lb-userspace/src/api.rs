//! The admin API: what the daemon tells and takes over its unix socket. The subcommands are its clients.

pub mod status;
