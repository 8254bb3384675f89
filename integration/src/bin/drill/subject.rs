//! What a drill is done with: a pair of Futago nodes, or of another implementation's.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail};
use integration::{Lab, Signal, pair::Pair};

use crate::peer::Peer;

pub enum Subject {
    Futago(Box<Pair>),
    Keepalived(Box<Peer>),
}

impl Subject {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Futago(_) => "futago",
            Self::Keepalived(_) => "keepalived",
        }
    }

    pub const fn has_echo(&self) -> bool {
        match self {
            Self::Futago(pair) => pair.options.echo,
            Self::Keepalived(_) => false,
        }
    }

    pub const fn lab(&self) -> &Lab {
        match self {
            Self::Futago(pair) => &pair.lab,
            Self::Keepalived(peer) => &peer.lab,
        }
    }

    pub const fn service(&self) -> SocketAddr {
        Pair::service()
    }

    /// Of each node.
    pub const fn interfaces(&self) -> &'static [&'static str] {
        match self {
            Self::Futago(_) => &["eth0", "eth1"],
            Self::Keepalived(_) => &["eth0"],
        }
    }

    pub fn wait_until_active(&self, node: &str) -> Result<()> {
        match self {
            Self::Futago(pair) => Ok(pair.wait_until_active(node)?),
            Self::Keepalived(peer) => Ok(peer.wait_until_active(node)?),
        }
    }

    pub fn die(&mut self, node: &'static str) -> Result<()> {
        match self {
            Self::Futago(pair) => Ok(pair.die(node)?),
            Self::Keepalived(peer) => Ok(peer.die(node)?),
        }
    }

    pub fn boot(&mut self, node: &'static str) -> Result<()> {
        match self {
            Self::Futago(pair) => Ok(pair.boot(node)?),
            Self::Keepalived(peer) => Ok(peer.boot(node)?),
        }
    }

    pub fn kill_daemon(&mut self, node: &'static str) -> Result<()> {
        match self {
            Self::Futago(pair) => {
                if let Some(mut daemon) = pair.daemons.remove(node) {
                    daemon.process.kill()?;
                }
                Ok(())
            }
            Self::Keepalived(peer) => Ok(peer.kill_daemon(node)?),
        }
    }

    pub fn stop_daemon(&mut self, node: &'static str) -> Result<()> {
        match self {
            Self::Futago(pair) => {
                if let Some(mut daemon) = pair.daemons.remove(node) {
                    daemon.process.signal(Signal::SIGTERM)?;
                    daemon.process.wait(Duration::from_secs(60))?;
                }
                Ok(())
            }
            Self::Keepalived(peer) => Ok(peer.stop_daemon(node)?),
        }
    }

    pub fn start_daemon(&mut self, node: &'static str) -> Result<()> {
        match self {
            Self::Futago(pair) => Ok(pair.start_again(node)?),
            Self::Keepalived(peer) => Ok(peer.start_daemon(node)?),
        }
    }

    pub fn hand_over(&mut self, to: &str) -> Result<()> {
        match self {
            Self::Futago(pair) => {
                let first = pair.daemons.get("lb1").context("lb1 runs")?;
                first.cli(&["failover", "--to", to])?;
                Ok(())
            }
            Self::Keepalived(_) => bail!("keepalived has no planned handover: leave --peer out"),
        }
    }
}
