//! A BPF array as memory of this process. A store is seen by the next packet, without a system call.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU32, AtomicU64},
};

use lb_common::{
    echo::Identity,
    lease::{Held, Lease},
    tables::{Backend, Service},
};

/// What an element of a mapped array may be.
///
/// # Safety
/// Any bytes are a value of the type, it has no padding, and a shared reference to an element stays sound while the program
/// runs: either the type is made of atomics, or the program only reads the array.
pub unsafe trait Element {}

// SAFETY: an atomic integer.
unsafe impl Element for AtomicU32 {}
// SAFETY: an atomic integer.
unsafe impl Element for AtomicU64 {}
// SAFETY: `FromBytes` and `IntoBytes`; the program only reads services.
unsafe impl Element for Service {}
// SAFETY: `FromBytes` and `IntoBytes`; the program only reads backends.
unsafe impl Element for Backend {}
// SAFETY: `FromBytes` and `IntoBytes`; the program only reads it.
unsafe impl Element for Identity {}
// SAFETY: `FromBytes` and `IntoBytes`; the program only reads leases.
unsafe impl Element for Lease {}
// SAFETY: `FromBytes` and `IntoBytes`; the program only reads them.
unsafe impl Element for Held {}

/// The elements of an array map that was made with `BPF_F_MMAPABLE`. This process is their only writer in user space.
#[derive(Debug)]
pub struct Mapped<T> {
    start: NonNull<T>,
    length: usize,
    bytes: usize,
    _elements: PhantomData<T>,
}

impl<T: Element> Mapped<T> {
    /// Maps the first `length` elements. The array's stride is `size_of::<T>()`, or its elements are made of several `T`.
    ///
    /// # Errors
    /// Those of mmap(2): `EINVAL` or `EPERM` if the map is not mappable or shorter.
    pub fn new(map: BorrowedFd<'_>, length: u32) -> io::Result<Self> {
        let length = length as usize;
        let bytes = (length * size_of::<T>()).next_multiple_of(page_size());
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast())
            .ok_or_else(|| io::Error::other("a mapping at address zero"))?;
        Ok(Self {
            start,
            length,
            bytes,
            _elements: PhantomData,
        })
    }

    pub fn get(&self, index: u32) -> Option<&T> {
        let index = index as usize;
        // SAFETY: inside the mapping, page-aligned at its start; `Element` says that a reference is sound, and
        // changes of this process need `&mut self`.
        (index < self.length).then(|| unsafe { self.start.add(index).as_ref() })
    }

    /// `count` elements from `first` on; `None` if they are not all there.
    pub fn slice(&self, first: u32, count: u32) -> Option<&[T]> {
        let (first, count) = (first as usize, count as usize);
        // SAFETY: inside the mapping, as in `get`.
        (first + count <= self.length)
            .then(|| unsafe { std::slice::from_raw_parts(self.start.add(first).as_ptr(), count) })
    }

    /// Address of an element, to change parts of it.
    pub fn pointer(&mut self, index: u32) -> Option<*mut T> {
        let index = index as usize;
        // SAFETY: inside the mapping.
        (index < self.length).then(|| unsafe { self.start.add(index).as_ptr() })
    }

    /// Replaces an element, not at once: nothing may lead packets to it. False if there is no such element.
    #[must_use]
    pub fn write(&mut self, index: u32, value: T) -> bool {
        let Some(element) = self.pointer(index) else {
            return false;
        };
        // SAFETY: inside the mapping; volatile because its reader is not of this program.
        unsafe { element.write_volatile(value) };
        true
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the range that `new` mapped; references into it have ended with `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl<T: Element + Send> Send for Mapped<T> {}
// SAFETY: through `&self` there are only shared references to elements.
unsafe impl<T: Element + Sync> Sync for Mapped<T> {}

pub fn page_size() -> usize {
    // SAFETY: sysconf(3) takes no pointers.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

#[cfg(test)]
pub mod tests {
    use std::{
        fs::File,
        os::fd::{AsFd, FromRawFd},
        sync::atomic::Ordering,
    };

    use super::*;

    /// Memory that can be mapped as a BPF array can.
    pub fn memory(bytes: u64) -> File {
        // SAFETY: a name that ends in zero, and the descriptor is ours.
        let file =
            unsafe { File::from_raw_fd(libc::memfd_create(c"table".as_ptr(), libc::MFD_CLOEXEC)) };
        file.set_len(bytes).expect("memory");
        file
    }

    #[test]
    fn two_mappings_of_one_map_show_the_same() {
        let file = memory(4096);
        let mapped = Mapped::<AtomicU64>::new(file.as_fd(), 3).expect("mapped");
        let other = Mapped::<AtomicU32>::new(file.as_fd(), 6).expect("mapped");
        mapped
            .get(1)
            .expect("inside")
            .store(7 << 32 | 5, Ordering::Relaxed);
        let half = |index| other.get(index).map(|half| half.load(Ordering::Relaxed));
        assert_eq!((half(2), half(3)), (Some(5), Some(7)));
        assert_eq!(half(6), None);
        assert!(mapped.get(3).is_none());
    }

    #[test]
    fn what_cannot_be_mapped_is_an_error() {
        let null = File::open("/dev").expect("a directory");
        assert!(Mapped::<AtomicU64>::new(null.as_fd(), 1).is_err());
    }
}
