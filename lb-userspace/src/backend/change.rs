//! Taking the steps that mend a server, and the way back.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
};

use lb_core::backend_host::{LOOPBACK, Step};

use super::record::{Record, RecordError, Vip};
use crate::{
    dataplane::real_server::{self, RealServer, RealServerError},
    net::{
        addresses::{self, Added, Removed},
        netlink::{Netlink, NetlinkError},
        sysctl::{self, Change, Key, Restored, SysctlError},
    },
};

/// The kernel gives the loopback interface of every network namespace this number.
const LOOPBACK_INDEX: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error(transparent)]
    Program(#[from] RealServerError),
    #[error("{vip} on lo: {source}")]
    Vip { vip: IpAddr, source: NetlinkError },
}

/// Takes a step that [is ours](Step::is_ours), recorded before it is made; others are left. Doing it twice does no harm. Programs are
/// pinned under `programs`.
pub async fn take(
    netlink: &Netlink,
    record: &mut Record,
    step: &Step,
    programs: &Path,
) -> Result<(), ChangeError> {
    match step {
        Step::Set { setting, value } => {
            let key = Key::of(setting)?;
            let change = Change {
                before: key.read()?,
                after: (*value).to_owned(),
                key,
            };
            if change.before != change.after {
                record.note_setting(change.clone())?;
                change.key.write(&change.after)?;
            }
            Ok(())
        }
        Step::AddVip(vip) => add_vip(netlink, record, *vip).await,
        Step::Decapsulate { interfaces, duties } => {
            record.note_program(programs)?;
            RealServer::open(programs, duties)?.attach(interfaces)?;
            Ok(())
        }
        Step::ByHand(_) => Ok(()),
    }
}

async fn add_vip(netlink: &Netlink, record: &mut Record, vip: IpAddr) -> Result<(), ChangeError> {
    let entry = |unmarked| Vip {
        address: vip,
        unmarked,
    };
    record.note_vip(entry(false))?;
    let added = addresses::add(netlink, LOOPBACK_INDEX, vip).await;
    match added.map_err(|source| ChangeError::Vip { vip, source })? {
        Added::New | Added::AlreadyOurs => {}
        Added::Unmarked => record.note_vip(entry(true))?,
        // Somebody was faster, and it is theirs.
        Added::Foreign { .. } => record.forget_vip(vip)?,
    }
    Ok(())
}

/// One thing that was undone, or was not; `Display` is a line for the operator.
#[derive(Debug)]
pub enum Undone {
    VipRemoved(IpAddr),
    /// Somebody else put another in its place.
    VipLeft(IpAddr),
    Detached(PathBuf),
    Restored(Change),
    /// Somebody set another value since.
    SettingLeft {
        key: Key,
        found: String,
    },
    Failed(ChangeError),
}

impl fmt::Display for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VipRemoved(vip) => write!(f, "removed {vip} from {LOOPBACK}"),
            Self::VipLeft(vip) => write!(
                f,
                "left {vip} on {LOOPBACK}: it is not the one that Futago added"
            ),
            Self::Detached(path) => {
                write!(f, "detached the XDP program pinned at {}", path.display())
            }
            Self::Restored(change) => write!(f, "restored {}={}", change.key, change.before),
            Self::SettingLeft { key, found } => {
                write!(f, "left {key}={found}, which Futago did not set")
            }
            Self::Failed(error) => write!(f, "failed: {error}"),
        }
    }
}

/// Removes recorded VIPs that are not among `wanted`.
pub async fn remove_vips(
    netlink: &Netlink,
    record: &mut Record,
    wanted: impl Fn(IpAddr) -> bool,
) -> Result<Vec<Undone>, RecordError> {
    let mut undone = Vec::new();
    for vip in record.entries.vips.clone() {
        let address = vip.address;
        if wanted(address) {
            continue;
        }
        let removed = if vip.unmarked {
            addresses::remove_unmarked(netlink, LOOPBACK_INDEX, address).await
        } else {
            addresses::remove(netlink, LOOPBACK_INDEX, address).await
        };
        match removed {
            Ok(Removed::Gone) => undone.push(Undone::VipRemoved(address)),
            Ok(Removed::Absent) => {}
            Ok(Removed::Foreign) => undone.push(Undone::VipLeft(address)),
            Err(source) => {
                let failed = ChangeError::Vip {
                    vip: address,
                    source,
                };
                undone.push(Undone::Failed(failed));
                continue;
            }
        }
        record.forget_vip(address)?;
    }
    Ok(undone)
}

/// Detaches the recorded program; what fails stays in the record.
pub fn detach(record: &mut Record) -> Result<Option<Undone>, RecordError> {
    let Some(path) = record.entries.program.clone() else {
        return Ok(None);
    };
    match real_server::detach(&path) {
        Ok(there_was_one) => {
            record.forget_program()?;
            Ok(there_was_one.then_some(Undone::Detached(path)))
        }
        Err(error) => Ok(Some(Undone::Failed(error.into()))),
    }
}

/// Undoes everything that is recorded: the VIPs first, for without the settings others would hear of them. What fails stays
/// in the record.
pub async fn undo(netlink: &Netlink, record: &mut Record) -> Result<Vec<Undone>, RecordError> {
    let mut undone = remove_vips(netlink, record, |_| false).await?;
    if !record.entries.vips.is_empty() {
        return Ok(undone);
    }
    undone.extend(detach(record)?);
    for change in record.entries.settings.clone().into_iter().rev() {
        match sysctl::restore_one(&change) {
            Restored::Done => undone.push(Undone::Restored(change.clone())),
            Restored::Gone => {}
            // It was recorded, and never made.
            Restored::ChangedByOthers { found } if found == change.before => {}
            Restored::ChangedByOthers { found } => undone.push(Undone::SettingLeft {
                key: change.key.clone(),
                found,
            }),
            Restored::Failed(error) => {
                undone.push(Undone::Failed(error.into()));
                continue;
            }
        }
        record.entries.settings.retain(|known| *known != change);
        record.save()?;
    }
    Ok(undone)
}
