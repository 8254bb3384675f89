//! Loads a few hand-assembled XDP instructions, so that the lab's ports need no object file and no compiler.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use crate::{
    error::{Context, Result},
    host::Host,
};

/// `struct bpf_insn`: eight bytes, operands and immediate in host order.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn op(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: to | (from << 4),
        offset,
        immediate,
    }
}

/// `return XDP_PASS`.
pub const PASS: [Instruction; 2] = [op(0xb7, 0, 0, 0, 2), op(0x95, 0, 0, 0, 0)];

/// Swaps the MAC addresses and returns `XDP_TX`: the smallest program that answers.
pub const REFLECT: [Instruction; 17] = [
    op(0x61, 2, 1, 0, 0),  // r2 = ctx->data
    op(0x61, 3, 1, 4, 0),  // r3 = ctx->data_end
    op(0xbf, 4, 2, 0, 0),  // r4 = r2
    op(0x07, 4, 0, 0, 14), // r4 += 14
    op(0x2d, 4, 3, 10, 0), // if r4 > r3 goto pass
    op(0x61, 5, 2, 0, 0),  // destination, 4 + 2 bytes
    op(0x69, 6, 2, 4, 0),
    op(0x61, 7, 2, 6, 0), // source, 4 + 2 bytes
    op(0x69, 8, 2, 10, 0),
    op(0x63, 2, 7, 0, 0),
    op(0x6b, 2, 8, 4, 0),
    op(0x63, 2, 5, 6, 0),
    op(0x6b, 2, 6, 10, 0),
    op(0xb7, 0, 0, 0, 3), // return XDP_TX
    op(0x95, 0, 0, 0, 0),
    op(0xb7, 0, 0, 0, 2), // pass: return XDP_PASS
    op(0x95, 0, 0, 0, 0),
];

/// Returns `bpf_redirect(interface, 0)`, for an interface's index in the host that the program runs in.
pub const fn redirect(interface: u32) -> [Instruction; 4] {
    [
        op(0xb7, 1, 0, 0, interface.cast_signed()),
        op(0xb7, 2, 0, 0, 0),
        op(0x85, 0, 0, 0, 23),
        op(0x95, 0, 0, 0, 0),
    ]
}

/// Attaches `program` to an interface in native mode. It stays until the interface goes or `pin`, a path on a bpffs, is removed.
///
/// # Errors
/// The verifier refuses it, the interface has a program already, or `pin` exists.
pub fn attach(host: &Host, interface: &str, program: &[Instruction], pin: &Path) -> Result<()> {
    let index = host.interface_index(interface)?;
    host.enter(|| {
        let program = load(program)?;
        let link = link(&program, index)?;
        pin_at(&link, pin)
    })?
    .context(|| format!("attach an XDP program to {interface} in {}", host.name()))
}

const PROG_LOAD: libc::c_long = 5;
const OBJ_PIN: libc::c_long = 6;
const LINK_CREATE: libc::c_long = 28;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
/// Without it the kernel refuses an MTU above a page.
const XDP_HAS_FRAGS: u32 = 1 << 5;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// The start of `union bpf_attr` as each command reads it; the kernel takes a shorter one as followed by zeroes.
#[repr(C)]
struct ProgLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log: [u32; 2],
    log_buffer: u64,
    kernel: u32,
    flags: u32,
}

#[repr(C)]
struct ObjPin {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"GPL";
    let attr = ProgLoad {
        kind: PROG_TYPE_XDP,
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log: [0; 2],
        log_buffer: 0,
        kernel: 0,
        flags: XDP_HAS_FRAGS,
    };
    // SAFETY: the addresses in `attr` are those of `program` and of a static string, valid for their stated length.
    let fd = unsafe { bpf(PROG_LOAD, &attr) }?;
    // SAFETY: BPF_PROG_LOAD returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn link(program: &OwnedFd, interface: u32) -> io::Result<OwnedFd> {
    let program = program.as_raw_fd().cast_unsigned();
    let attr = LinkCreate {
        program,
        interface,
        attach_type: ATTACH_XDP,
        flags: XDP_FLAGS_DRV_MODE,
    };
    // SAFETY: the structure holds no addresses.
    let fd = unsafe { bpf(LINK_CREATE, &attr) }?;
    // SAFETY: BPF_LINK_CREATE returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn pin_at(object: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = ObjPin {
        path: path.as_ptr() as u64,
        fd: object.as_raw_fd().cast_unsigned(),
        flags: 0,
    };
    // SAFETY: `path` is a terminated string that lives until the call returns.
    unsafe { bpf(OBJ_PIN, &attr) }.map(drop)
}

/// # Safety
/// `T` is what the kernel reads for `command`, and every address in it is valid for that command.
unsafe fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<i32> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes at `attr`; the rest is the caller's promise.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attr),
            size_of::<T>(),
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        i32::try_from(done).map_err(io::Error::other)
    }
}
