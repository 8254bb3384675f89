//! The daemon's unix socket: one daemon owns it, and only its user may connect.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixSocket, UnixStream};

use crate::lock;

/// Whoever may connect rules the node.
const SOCKET_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o755;
const BACKLOG: u32 = 64;

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error(
        "another futago is running: it listens at {}; end it with `futago stop`, or give this one a --socket and a --bpf-dir of its own",
        .path.display()
    )]
    AlreadyRunning { path: PathBuf },
    #[error("{} is in the way: it is no socket; remove it or name another one with --socket", .path.display())]
    NotASocket { path: PathBuf },
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// A socket that this process listens at. Dropping it removes the file.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    claim: Claim,
}

/// The right to the path.
#[derive(Debug)]
pub(super) struct Claim {
    path: PathBuf,
    /// Device and inode of the socket's file.
    identity: (u64, u64),
    /// Held by a lock for as long as the process lives. It stays when the socket goes: a lock file that is removed can be
    /// locked twice.
    _lock: File,
}

impl Socket {
    /// Makes the directory if there is none, takes the place of a daemon that has died, and refuses to take that of one that
    /// lives. Needs a tokio runtime.
    pub async fn bind(path: impl AsRef<Path>) -> Result<Self, SocketError> {
        let path = path.as_ref();
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| SocketError::Io {
                action,
                path,
                source,
            }
        };

        if let Some(directory) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            DirBuilder::new()
                .recursive(true)
                .mode(DIRECTORY_MODE)
                .create(directory)
                .map_err(failed("make the directory", directory))?;
        }
        let lock = claim_lock(path)?;
        make_way(path).await?;

        let socket = UnixSocket::new_stream().map_err(failed("make a socket for", path))?;
        restrict(&socket).map_err(failed("set the mode of", path))?;
        socket.bind(path).map_err(failed("listen at", path))?;
        let metadata = fs::symlink_metadata(path).map_err(failed("look at", path))?;
        let claim = Claim {
            path: path.to_owned(),
            identity: (metadata.dev(), metadata.ino()),
            _lock: lock,
        };
        let listener = socket.listen(BACKLOG).map_err(failed("listen at", path))?;
        Ok(Self { listener, claim })
    }

    pub fn path(&self) -> &Path {
        &self.claim.path
    }

    pub(super) fn into_parts(self) -> (UnixListener, Claim) {
        (self.listener, self.claim)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

/// Two daemons that start at once would both find a dead one's socket and both replace it.
fn claim_lock(socket: &Path) -> Result<File, SocketError> {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let failed = |source| SocketError::Io {
        action: "lock",
        path: path.clone(),
        source,
    };

    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(SOCKET_MODE)
        .open(&path)
        .map_err(failed)?;
    if lock::exclusive(&file).map_err(failed)? {
        return Ok(file);
    }
    Err(SocketError::AlreadyRunning {
        path: socket.to_owned(),
    })
}

/// Removes what a dead daemon has left at `path`.
async fn make_way(path: &Path) -> Result<(), SocketError> {
    let failed = |action| {
        move |source| SocketError::Io {
            action,
            path: path.to_owned(),
            source,
        }
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at")(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("remove the stale socket"))
        }
        // A full queue of connections has an owner too.
        Ok(_) => Err(SocketError::AlreadyRunning {
            path: path.to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(SocketError::AlreadyRunning {
                path: path.to_owned(),
            })
        }
        Err(error) => Err(failed("connect to")(error)),
    }
}

/// Linux gives the file the mode that the socket has when it is bound, so that there is no moment with another one.
fn restrict(socket: &UnixSocket) -> io::Result<()> {
    File::from(socket.as_fd().try_clone_to_owned()?)
        .set_permissions(Permissions::from_mode(SOCKET_MODE))
}
