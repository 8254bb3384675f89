//! The commands of bpf(2) for links, which aya does not offer in a form that suits pinned ones: its update drops, and
//! so detaches, a link when the kernel refuses, its attach falls back to netlink, and it does not tell a link's interface.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

// enum bpf_cmd of linux/bpf.h.
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
const LINK_DETACH: libc::c_long = 34;

/// `BPF_XDP` of `enum bpf_attach_type`.
const ATTACH_XDP: u32 = 37;
/// `BPF_LINK_TYPE_XDP` of `enum bpf_link_type`.
pub const LINK_TYPE_XDP: u32 = 6;

/// `XDP_FLAGS_SKB_MODE` of linux/if_link.h.
pub const GENERIC: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE`.
pub const NATIVE: u32 = 1 << 2;

/// The part of `struct bpf_link_info` that XDP links fill.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkInfo {
    pub kind: u32,
    pub id: u32,
    pub program_id: u32,
    _reserved: u32,
    /// 0 when the interface is gone or the link was detached.
    pub ifindex: u32,
    _rest: [u32; 11],
}

/// Attaches a program to an interface; the link lives as long as its descriptors and pins.
pub fn link_create(program: BorrowedFd<'_>, ifindex: u32, mode: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        program: u32,
        ifindex: u32,
        attach_type: u32,
        flags: u32,
    }
    let attributes = Attributes {
        program: number(program),
        ifindex,
        attach_type: ATTACH_XDP,
        flags: mode,
    };
    // SAFETY: the attributes of BPF_LINK_CREATE, which hold no pointers.
    descriptor(unsafe { bpf(LINK_CREATE, &attributes) }?)
}

/// Replaces the program of a link: every packet sees the old or the new one. Nothing has changed on an error.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        link: u32,
        program: u32,
        flags: u32,
        expected: u32,
    }
    let attributes = Attributes {
        link: number(link),
        program: number(program),
        flags: 0,
        expected: 0,
    };
    // SAFETY: the attributes of BPF_LINK_UPDATE, which hold no pointers.
    unsafe { bpf(LINK_UPDATE, &attributes) }.map(drop)
}

/// Detaches at once; dropping the last pin does so later, from a kernel thread.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the attributes of BPF_LINK_DETACH: the descriptor.
    unsafe { bpf(LINK_DETACH, &number(link)) }.map(drop)
}

pub fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    #[repr(C)]
    struct Attributes {
        object: u32,
        length: u32,
        info: u64,
    }
    let mut info = LinkInfo::default();
    let attributes = Attributes {
        object: number(link),
        length: size_of::<LinkInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: `info` is as long as said, consists of integers, and outlives the call.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &attributes) }?;
    Ok(info)
}

#[repr(C)]
struct PathAttributes {
    path: u64,
    object: u32,
    flags: u32,
}

/// Gives an object a name in a bpffs.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = PathAttributes {
        path: path.as_ptr() as u64,
        object: number(object),
        flags: 0,
    };
    // SAFETY: the path ends in a zero byte and outlives the call.
    unsafe { bpf(OBJ_PIN, &attributes) }.map(drop)
}

/// Opens a pinned object.
pub fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = PathAttributes {
        path: path.as_ptr() as u64,
        object: 0,
        flags: 0,
    };
    // SAFETY: as in `pin`.
    descriptor(unsafe { bpf(OBJ_GET, &attributes) }?)
}

/// # Safety
/// `attributes` are the first members of the command's part of `union bpf_attr`, and pointers in them are valid.
unsafe fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads no more than the size given and takes the rest as zero; the caller vouches for the content.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

fn number(descriptor: BorrowedFd<'_>) -> u32 {
    descriptor.as_raw_fd() as u32
}

fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    let raw = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it for us, close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
