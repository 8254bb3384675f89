//! The kernel settings that forwarding stands on, each with its reason, and the way back: what was there before is
//! recorded, and restored only where nobody else has changed it since.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use lb_core::backend_host::Setting;
use serde::{Deserialize, Serialize};

/// A setting under `/proc/sys/net`, in the network namespace of the calling thread.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Key {
    family: Family,
    /// An interface, or `all` or `default`.
    scope: String,
    name: String,
}

/// A key as a record file has it, which could name any path.
#[derive(Deserialize)]
struct Unchecked {
    family: Family,
    scope: String,
    name: String,
}

impl TryFrom<Unchecked> for Key {
    type Error = SysctlError;

    fn try_from(key: Unchecked) -> Result<Self, SysctlError> {
        Self::new(key.family, &key.scope, &key.name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Family {
    Ipv4,
    Ipv6,
}

/// A setting that has to have a value, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    pub key: Key,
    pub value: &'static str,
    /// Completes "set KEY=VALUE because ...".
    pub reason: &'static str,
    /// Only where the setting has this value now.
    only_if: Option<&'static str>,
}

/// A setting that was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub key: Key,
    pub before: String,
    pub after: String,
}

#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    #[error("{name:?} is not the name of an interface or a setting")]
    Name { name: String },
    #[error("cannot read {key}: {source}")]
    Read { key: Key, source: io::Error },
    #[error(
        "cannot set {key}={value}: {source} (run as root; in a container, make /proc/sys writable)"
    )]
    Write {
        key: Key,
        value: String,
        source: io::Error,
    },
}

/// What became of a recorded change when it was to be undone.
#[derive(Debug)]
pub enum Restored {
    Done,
    /// The interface, and the setting with it, no longer exists.
    Gone,
    /// Somebody set another value since; it was left.
    ChangedByOthers {
        found: String,
    },
    Failed(SysctlError),
}

/// What `nat` needs on the interfaces that it uses, in the order to set it.
pub fn needed_for_nat(interfaces: &[&str], one_arm: bool) -> Result<Vec<Needed>, SysctlError> {
    let mut needed = Vec::new();
    for interface in interfaces {
        let v4 = |name| Key::new(Family::Ipv4, interface, name);
        let v6 = |name| Key::new(Family::Ipv6, interface, name);
        needed.push(Needed::new(
            v4("forwarding")?,
            "1",
            "replies of backends pass through this host, and bpf_fib_lookup refuses to route between interfaces that do not forward",
        ));
        needed.push(Needed::new(
            v4("accept_local")?,
            "1",
            "replies that the kernel routes on behalf of the program have a VIP, an address of this host, as their source",
        ));
        needed.push(Needed::new(
            v4("rp_filter")?,
            "2",
            "a strict reverse-path check drops replies whose source is a VIP",
        ));
        if one_arm {
            needed.push(Needed::new(
                v4("send_redirects")?,
                "0",
                "clients and backends share the segment, and a redirect would send backends around the load balancer",
            ));
        }
        // Before forwarding: switching that on throws away the routes learned from router advertisements.
        needed.push(Needed {
            only_if: Some("1"),
            ..Needed::new(
                v6("accept_ra")?,
                "2",
                "with forwarding on, 1 means that router advertisements are ignored, and the default route learned from them would go",
            )
        });
    }
    if one_arm {
        // The kernel sends redirects if either of `all` and the interface says so.
        needed.push(Needed::new(
            Key::new(Family::Ipv4, "all", "send_redirects")?,
            "0",
            "it overrides the setting of the interface",
        ));
    }
    needed.push(Needed::new(
        Key::new(Family::Ipv6, "all", "forwarding")?,
        "1",
        "IPv6 replies pass through this host, and the kernel forwards IPv6 only where all interfaces do",
    ));
    Ok(needed)
}

/// What `l2-dsr` needs on a node with a client side and a server side, where the node may be the backends' gateway: their
/// answers, from the VIP, then pass through the kernel of a host that holds the VIP itself.
pub fn needed_for_dsr_gateway(interfaces: &[&str]) -> Result<Vec<Needed>, SysctlError> {
    let mut needed = Vec::new();
    for interface in interfaces {
        let v4 = |name| Key::new(Family::Ipv4, interface, name);
        needed.push(Needed::new(
            v4("accept_local")?,
            "1",
            "backends that have this host as their gateway answer from a VIP, an address of this host",
        ));
        needed.push(Needed::new(
            v4("rp_filter")?,
            "2",
            "a strict reverse-path check drops answers whose source is a VIP",
        ));
    }
    Ok(needed)
}

/// What the interface below a virtual MAC address needs: that interface's own, and nobody else's, answers are wanted.
pub fn needed_below_macvlan(interface: &str) -> Result<Vec<Needed>, SysctlError> {
    Ok(vec![Needed {
        only_if: Some("0"),
        ..Needed::new(
            Key::new(Family::Ipv4, interface, "arp_ignore")?,
            "1",
            "with 0 it answers ARP for the virtual router's addresses too, with its own MAC address beside the virtual one",
        )
    }])
}

/// What the interface of a virtual MAC address needs. It is made by the daemon and removed with it: nothing to put back.
pub fn needed_by_macvlan(interface: &str) -> Result<Vec<Needed>, SysctlError> {
    let v4 = |name| Key::new(Family::Ipv4, interface, name);
    let v6 = |name| Key::new(Family::Ipv6, interface, name);
    Ok(vec![
        Needed::new(
            v4("rp_filter")?,
            "0",
            "requests come in by it, and the way back is by the interface below",
        ),
        Needed::new(
            v4("arp_ignore")?,
            "1",
            "the addresses of the interface below have another MAC address",
        ),
        Needed::new(
            v6("addr_gen_mode")?,
            "1",
            "the link-local address that follows from the virtual MAC address is the virtual router's",
        ),
        Needed::new(
            v6("accept_ra")?,
            "0",
            "the interface below listens to routers",
        ),
    ])
}

/// Sets what is not as needed. `report` hears of each change before it is made. On an error, the changes so far are
/// undone.
pub fn apply(
    needed: &[Needed],
    mut report: impl FnMut(&Needed, &str),
) -> Result<Vec<Change>, SysctlError> {
    let mut changes = Vec::new();
    for need in needed {
        match apply_one(need, &mut report) {
            Ok(change) => changes.extend(change),
            Err(error) => {
                restore(&changes);
                return Err(error);
            }
        }
    }
    Ok(changes)
}

/// Undoes changes, the last first.
pub fn restore(changes: &[Change]) -> Vec<(&Change, Restored)> {
    changes
        .iter()
        .rev()
        .map(|change| (change, restore_one(change)))
        .collect()
}

fn apply_one(
    need: &Needed,
    report: &mut impl FnMut(&Needed, &str),
) -> Result<Option<Change>, SysctlError> {
    let before = match need.key.read() {
        Ok(before) => before,
        // A host without IPv6 has nothing to set there.
        Err(SysctlError::Read { source, .. })
            if need.key.family == Family::Ipv6 && source.kind() == io::ErrorKind::NotFound =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    if before == need.value || need.only_if.is_some_and(|value| value != before) {
        return Ok(None);
    }
    report(need, &before);
    need.key.write(need.value)?;
    Ok(Some(Change {
        key: need.key.clone(),
        before,
        after: need.value.to_owned(),
    }))
}

/// Undoes one change.
pub fn restore_one(change: &Change) -> Restored {
    match change.key.read() {
        Ok(found) if found == change.after => match change.key.write(&change.before) {
            Ok(()) => Restored::Done,
            Err(error) => Restored::Failed(error),
        },
        Ok(found) => Restored::ChangedByOthers { found },
        Err(SysctlError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Restored::Gone
        }
        Err(error) => Restored::Failed(error),
    }
}

impl Key {
    fn new(family: Family, scope: &str, name: &str) -> Result<Self, SysctlError> {
        // What the kernel itself refuses as a name (dev_valid_name), plus what would leave the directory.
        let valid = !scope.is_empty()
            && scope.len() < libc::IFNAMSIZ
            && !matches!(scope, "." | "..")
            && !scope.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c == '\0');
        if !valid {
            return Err(SysctlError::Name {
                name: scope.to_owned(),
            });
        }
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if !name.bytes().all(plain) {
            return Err(SysctlError::Name {
                name: name.to_owned(),
            });
        }
        Ok(Self {
            family,
            scope: scope.to_owned(),
            name: name.to_owned(),
        })
    }

    /// A setting that `lb-core` names.
    pub fn of(setting: &Setting) -> Result<Self, SysctlError> {
        let family = if setting.ipv6 {
            Family::Ipv6
        } else {
            Family::Ipv4
        };
        Self::new(family, &setting.scope, setting.name)
    }

    /// The present value, without the line end.
    pub fn read(&self) -> Result<String, SysctlError> {
        match fs::read_to_string(self.path()) {
            Ok(value) => Ok(value.trim_end().to_owned()),
            Err(source) => Err(SysctlError::Read {
                key: self.clone(),
                source,
            }),
        }
    }

    /// Sets it. [`restore`] undoes what a [`Change`] records.
    pub fn write(&self, value: &str) -> Result<(), SysctlError> {
        fs::write(self.path(), value).map_err(|source| SysctlError::Write {
            key: self.clone(),
            value: value.to_owned(),
            source,
        })
    }

    fn path(&self) -> PathBuf {
        Path::new("/proc/sys/net")
            .join(self.family.name())
            .join("conf")
            .join(&self.scope)
            .join(&self.name)
    }
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

impl Needed {
    fn new(key: Key, value: &'static str, reason: &'static str) -> Self {
        Self {
            key,
            value,
            reason,
            only_if: None,
        }
    }
}

/// As sysctl(8) takes it: a dot within an interface name is written as a slash.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "net.{}.conf.{}.{}",
            self.family.name(),
            self.scope.replace('.', "/"),
            self.name
        )
    }
}

impl fmt::Display for Needed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set {}={} because {}", self.key, self.value, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vlan_interface_is_one_component_of_the_path() {
        let key = Key::new(Family::Ipv4, "eth0.100", "rp_filter").expect("test data");
        assert_eq!(
            key.path(),
            Path::new("/proc/sys/net/ipv4/conf/eth0.100/rp_filter")
        );
        assert_eq!(key.to_string(), "net.ipv4.conf.eth0/100.rp_filter");
    }

    #[test]
    fn every_setting_that_a_server_needs_is_a_key() {
        for setting in lb_core::backend_host::settings_of_interest(&[]) {
            let key = Key::of(&setting).expect("a key");
            assert_eq!(key.to_string(), setting.to_string());
        }
    }

    #[test]
    fn a_name_cannot_leave_the_directory() {
        for name in [
            "",
            ".",
            "..",
            "../all",
            "a/b",
            "a b",
            "a:1",
            "sixteen-letters!",
        ] {
            assert!(
                matches!(needed_for_nat(&[name], true), Err(SysctlError::Name { .. })),
                "{name}"
            );
        }
    }

    #[test]
    fn a_record_is_read_back_and_cannot_name_other_files() {
        let change = Change {
            key: Key::new(Family::Ipv4, "eth0", "rp_filter").expect("test data"),
            before: "1".into(),
            after: "2".into(),
        };
        let text = serde_json::to_string(&change).expect("test data");
        assert_eq!(
            serde_json::from_str::<Change>(&text).expect("test data"),
            change
        );
        for evil in [
            text.replace("eth0", ".."),
            text.replace("rp_filter", "../../x"),
        ] {
            assert!(serde_json::from_str::<Change>(&evil).is_err(), "{evil}");
        }
    }

    #[test]
    fn router_advertisements_are_kept_before_forwarding_is_switched_on() {
        let needed = needed_for_nat(&["eth0", "eth1"], false).expect("test data");
        let position = |text: &str| {
            needed
                .iter()
                .position(|need| need.key.to_string() == text)
                .expect("test data")
        };
        assert!(
            position("net.ipv6.conf.eth1.accept_ra") < position("net.ipv6.conf.all.forwarding")
        );
        assert!(
            needed.iter().all(|need| need.key.name != "send_redirects"),
            "only one-arm shares a segment"
        );
    }

    #[test]
    fn the_sentence_for_the_operator() {
        let needed = needed_for_nat(&["eth0"], true).expect("test data");
        let text = needed[1].to_string();
        assert!(
            text.starts_with("set net.ipv4.conf.eth0.accept_local=1 because "),
            "{text}"
        );
    }
}
