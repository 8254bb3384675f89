//! What `futago backend` changed on this host and what was there before, in a file that is written before each change: after a
//! crash it tells at least what was done.

use std::{
    fs, io,
    io::Write as _,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::net::sysctl::Change;

/// Where the record is unless told otherwise. Like the changes, it does not outlive a reboot.
pub const DEFAULT_PATH: &str = "/run/futago/backend.json";
const VERSION: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("cannot {what} the record {}: {source} (run as root)", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "the record {} is damaged: {source}. Delete it to go on; what it lists then stays as it is",
        path.display()
    )]
    Damaged {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error(
        "the record {} has version {version}, this futago knows {VERSION}; undo with the one that wrote it",
        path.display()
    )]
    Version { path: PathBuf, version: u32 },
}

/// The record and its file.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    pub entries: Entries,
}

/// In the order of the changes.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entries {
    version: u32,
    pub settings: Vec<Change>,
    /// On the loopback interface, where they were not before.
    pub vips: Vec<Vip>,
    /// Where an XDP program was pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vip {
    pub address: IpAddr,
    /// Added without our mark on it, by a kernel that knows none.
    pub unmarked: bool,
}

impl Record {
    /// Reads the record; an absent file is an empty record.
    pub fn open(path: &Path) -> Result<Self, RecordError> {
        let entries = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| RecordError::Damaged {
                path: path.to_owned(),
                source,
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Entries {
                version: VERSION,
                ..Entries::default()
            },
            Err(source) => return Err(file("read", path)(source)),
        };
        if entries.version != VERSION {
            return Err(RecordError::Version {
                path: path.to_owned(),
                version: entries.version,
            });
        }
        Ok(Self {
            path: path.to_owned(),
            entries,
        })
    }

    pub fn is_empty(&self) -> bool {
        let Entries {
            version: _,
            settings,
            vips,
            program,
        } = &self.entries;
        settings.is_empty() && vips.is_empty() && program.is_none()
    }

    /// A setting that is about to be changed. What an earlier entry says was there first.
    pub fn note_setting(&mut self, change: Change) -> Result<(), RecordError> {
        let mut known = self.entries.settings.iter_mut();
        match known.find(|known| known.key == change.key) {
            Some(known) => known.after = change.after,
            None => self.entries.settings.push(change),
        }
        self.save()
    }

    /// A VIP that is about to be added, or what became of it.
    pub fn note_vip(&mut self, vip: Vip) -> Result<(), RecordError> {
        let mut known = self.entries.vips.iter_mut();
        match known.find(|known| known.address == vip.address) {
            Some(known) => *known = vip,
            None => self.entries.vips.push(vip),
        }
        self.save()
    }

    /// A program that is about to be attached.
    pub fn note_program(&mut self, directory: &Path) -> Result<(), RecordError> {
        self.entries.program = Some(directory.to_owned());
        self.save()
    }

    pub fn forget_program(&mut self) -> Result<(), RecordError> {
        self.entries.program = None;
        self.save()
    }

    pub fn forget_vip(&mut self, address: IpAddr) -> Result<(), RecordError> {
        self.entries.vips.retain(|vip| vip.address != address);
        self.save()
    }

    /// Writes the file whole, or removes it when there is nothing left to record.
    pub fn save(&self) -> Result<(), RecordError> {
        if self.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(file("remove", &self.path)(error))
                }
                _ => Ok(()),
            };
        }
        let mut bytes =
            serde_json::to_vec_pretty(&self.entries).map_err(|source| RecordError::Damaged {
                path: self.path.clone(),
                source,
            })?;
        bytes.push(b'\n');
        write_whole(&self.path, &bytes).map_err(file("write", &self.path))
    }
}

/// A reader sees the old file or the new one.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let mut out = fs::File::create(&aside)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    fs::rename(&aside, path)
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RecordError {
    let path = path.to_owned();
    move |source| RecordError::File { what, path, source }
}

#[cfg(test)]
mod tests {
    use lb_core::backend_host::Setting;

    use super::*;
    use crate::net::sysctl::Key;

    fn change(before: &str, after: &str) -> Change {
        let setting = Setting {
            ipv6: false,
            scope: "eth0".to_owned(),
            name: "arp_ignore",
        };
        Change {
            key: Key::of(&setting).expect("test data"),
            before: before.to_owned(),
            after: after.to_owned(),
        }
    }

    #[test]
    fn what_was_first_stays_and_an_empty_record_has_no_file() {
        let directory = std::env::temp_dir().join(format!("futago-record-{}", std::process::id()));
        let path = directory.join("run/backend.json");
        let mut record = Record::open(&path).expect("an absent file");
        assert!(record.is_empty());
        record.note_setting(change("0", "1")).expect("writable");
        record.note_setting(change("8", "1")).expect("writable");
        let address = IpAddr::from([192, 0, 2, 10]);
        for unmarked in [false, true] {
            record
                .note_vip(Vip { address, unmarked })
                .expect("writable");
        }
        let read = Record::open(&path).expect("written");
        assert_eq!(read.entries, record.entries);
        assert_eq!(read.entries.settings, [change("0", "1")]);
        let unmarked = true;
        assert_eq!(read.entries.vips, [Vip { address, unmarked }]);

        record.entries.settings.clear();
        record.forget_vip(address).expect("writable");
        assert!(!path.exists());

        fs::write(&path, "{\"version\":2,\"settings\":[],\"vips\":[]}").expect("writable");
        let newer = Record::open(&path)
            .expect_err("another version")
            .to_string();
        assert!(newer.contains("has version 2"), "{newer}");
        fs::write(&path, "{").expect("writable");
        let damaged = Record::open(&path).expect_err("no JSON").to_string();
        assert!(damaged.contains("is damaged"), "{damaged}");
        let _ = fs::remove_dir_all(&directory);
    }
}
