//! Which BPF object a loader takes: the one embedded here, or a file named by the environment for trying another build.

use std::borrow::Cow;
use std::path::PathBuf;
use std::{env, error, fmt, fs, io};

/// Environment variable with the path of an object to load in place of [`OBJECT`]; for tests of a fresh build.
pub const OBJECT_VARIABLE: &str = "FUTAGO_BPF_OBJECT";

/// Gives the bytes an ELF header's alignment, which `include_bytes!` does not promise.
#[repr(C, align(8))]
struct Aligned<Bytes: ?Sized>(Bytes);

static EMBEDDED: &Aligned<[u8]> = &Aligned(*include_bytes!("../prebuilt/futago.o"));

static EMBEDDED_BENCH: &Aligned<[u8]> = &Aligned(*include_bytes!("../prebuilt/bench.o"));

/// The object with the programs for load and for measurement.
pub static BENCH_OBJECT: &[u8] = &EMBEDDED_BENCH.0;

/// The prebuilt ELF object, aligned to 8 bytes. `prebuilt/origin.toml` tells where it comes from.
pub static OBJECT: &[u8] = &EMBEDDED.0;

/// The file that [`OBJECT_VARIABLE`] names could not be read.
#[derive(Debug)]
pub struct ObjectError {
    path: PathBuf,
    source: io::Error,
}

impl fmt::Display for ObjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot read the BPF object {} named by {OBJECT_VARIABLE}; unset it to use the built-in object",
            self.path.display()
        )
    }
}

impl error::Error for ObjectError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(&self.source)
    }
}

/// The object to load: the file named by [`OBJECT_VARIABLE`] if that is set, else [`OBJECT`].
pub fn object() -> Result<Cow<'static, [u8]>, ObjectError> {
    match env::var_os(OBJECT_VARIABLE).map(PathBuf::from) {
        None => Ok(Cow::Borrowed(OBJECT)),
        Some(path) => match fs::read(&path) {
            Ok(bytes) => Ok(Cow::Owned(bytes)),
            Err(source) => Err(ObjectError { path, source }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_object_is_aligned_bpf_elf() {
        for object in [OBJECT, BENCH_OBJECT] {
            assert_eq!(object.as_ptr().align_offset(8), 0);
            assert_eq!(&object[..6], b"\x7fELF\x02\x01", "64-bit little-endian ELF");
            assert_eq!(&object[18..20], &247u16.to_le_bytes(), "EM_BPF");
        }
    }
}
