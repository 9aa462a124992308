//! Memory shared between processes: a sealed memfd, mapped once, seen as words. Beside `cpu.rs` the only file of this crate
//! with `unsafe`; everything above it works on `&[AtomicU64]` (shared) or `&mut [T]` (memory that one process keeps for
//! itself).
//!
//! Contract: the creator seals the size (F_SEAL_SHRINK | F_SEAL_GROW), so a mapping can never fault by the file being
//! cut. Shared words are only ever touched as atomics, so a writer in another process, even one gone mad, can make a
//! reader see wrong values but never undefined ones; readers treat every value as a claim. This file must not know
//! what the words mean.
#![allow(unsafe_code)] // mmap, and the casts from the mapping to slices

use bytemuck::Pod;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

const SEALS: i32 = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
/// The size that `MFD_HUGETLB` means unless told otherwise on x86_64 and, with 4 KiB pages, on aarch64.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// Where pages are larger a hint goes unheard.
const PAGE_BYTES: usize = 4096;
/// A bigger claim is taken for damage, not for a table.
pub(crate) const REGION_BYTES_MAX: u64 = 1 << 40;

#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    #[error("cannot {what} shared memory: {source}")]
    System { what: &'static str, source: io::Error },
    #[error("the shared memory that was handed over is not sealed against shrinking: it was not made by Fairway")]
    Unsealed,
    #[error("the shared memory that was handed over has {0} bytes: not a whole number of words, or absurd")]
    Size(u64),
}

fn system(what: &'static str) -> RegionError {
    RegionError::System { what, source: io::Error::last_os_error() }
}

/// How the mapping may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    ReadOnly,
    ReadWrite,
}

/// A mapped memfd. Unmapped on drop; the memory itself lives as long as some process holds its fd or a mapping.
#[derive(Debug)]
pub struct Region {
    base: NonNull<AtomicU64>,
    words: usize,
    access: Access,
    fd: OwnedFd,
}

// SAFETY: the mapping is plain memory, only handed out as atomics, or exclusively through `&mut self`.
unsafe impl Send for Region {}
// SAFETY: as above; shared access is atomic.
unsafe impl Sync for Region {}

impl Region {
    /// New zeroed memory of that many words, sealed, mapped for writing. `name` shows in /proc/PID/maps.
    pub fn create(name: &CStr, words: usize) -> Result<Region, RegionError> {
        Region::create_with(name, words, 0)
    }

    /// The same, at least so many words, on huge pages if the machine has enough of them to spare (it then has them at
    /// once): for memory that is read at random, and all of it.
    pub fn create_huge(name: &CStr, words: usize) -> Result<Region, RegionError> {
        let rounded = words.next_multiple_of(HUGE_PAGE_BYTES / 8);
        Region::create_with(name, rounded, libc::MFD_HUGETLB).or_else(|_| Region::create(name, words))
    }

    fn create_with(name: &CStr, words: usize, flags: u32) -> Result<Region, RegionError> {
        let flags = flags | libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // SAFETY: a C string and flags; returns a new fd or -1.
        let raw = unsafe { libc::memfd_create(name.as_ptr(), flags) };
        if raw < 0 {
            return Err(system("create"));
        }
        // SAFETY: the call above returned a new fd that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: plain system calls on an fd we own.
        if unsafe { libc::ftruncate(raw, (words * 8) as libc::off_t) } < 0 {
            return Err(system("size"));
        }
        // SAFETY: as above.
        if unsafe { libc::fcntl(raw, libc::F_ADD_SEALS, SEALS) } < 0 {
            return Err(system("seal"));
        }
        Region::map(fd, words, Access::ReadWrite)
    }

    /// Maps what another process made, after checking that it cannot shrink under us.
    pub fn attach(fd: OwnedFd, access: Access) -> Result<Region, RegionError> {
        // SAFETY: a query on an fd we own.
        let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
        if seals < 0 || seals & SEALS != SEALS {
            return Err(RegionError::Unsealed);
        }
        let bytes =
            std::fs::File::from(fd.try_clone().map_err(|source| RegionError::System { what: "inspect", source })?)
                .metadata()
                .map_err(|source| RegionError::System { what: "inspect", source })?
                .len();
        if bytes == 0 || bytes % 8 != 0 || bytes > REGION_BYTES_MAX {
            return Err(RegionError::Size(bytes));
        }
        Region::map(fd, (bytes / 8) as usize, access)
    }

    fn map(fd: OwnedFd, words: usize, access: Access) -> Result<Region, RegionError> {
        let protection = match access {
            Access::ReadOnly => libc::PROT_READ,
            Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        };
        // SAFETY: a fresh shared mapping of a sealed memfd, at an address of the kernel's choice.
        let base =
            unsafe { libc::mmap(std::ptr::null_mut(), words * 8, protection, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(system("map"));
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| system("map"))?;
        Ok(Region { base, words, access, fd })
    }

    /// All words. On a read-only mapping only loads are allowed (a store would fault), which `Publisher` and `Status`
    /// ensure by asking `access`.
    #[inline(always)]
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, `words` long, lives as long as `self`, and atomics allow other writers.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.words) }
    }

    pub fn access(&self) -> Access {
        self.access
    }

    /// All of these words will be written: has the kernel give their pages at once, which costs a quarter of one after the
    /// other. A hint; before Linux 5.14 nothing happens.
    pub fn expect_writes(&self, words: std::ops::Range<usize>) {
        let (start, end) = ((words.start * 8) & !(PAGE_BYTES - 1), words.end * 8);
        if end > self.words * 8 || start >= end || self.access == Access::ReadOnly {
            return;
        }
        // SAFETY: within the mapping (checked), from the start of a page on; changes no bytes.
        unsafe {
            libc::madvise(self.base.as_ptr().cast::<u8>().add(start).cast(), end - start, libc::MADV_POPULATE_WRITE)
        };
    }

    /// `count` records from word `at`, as plain memory. Contract: the caller's process is the only writer of this region
    /// (worker state: other processes keep the fd, or read it as atomics). None if out of range or mapped read-only.
    pub fn slice_mut<T: Pod>(&mut self, at: usize, count: usize) -> Option<&mut [T]> {
        let end = count.checked_mul(size_of::<T>()).and_then(|bytes| bytes.checked_add(at.checked_mul(8)?))?;
        if end > self.words * 8 || self.access == Access::ReadOnly || align_of::<T>() > 8 {
            return None;
        }
        // SAFETY: in range (checked), aligned to 8 (pages, and `at` in words), any bytes are a valid `T: Pod`, and
        // `&mut self` makes it the only reference in this process; that no other process writes is the contract.
        Some(unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(at).cast(), count) })
    }

    /// Cuts two arrays out of a region that this process alone writes, checked here once and for all. Given as (first
    /// word, items); the second must begin at or after the end of the first. As `slice_mut` otherwise.
    pub fn into_parts<A: Pod, B: Pod>(
        mut self,
        (at_a, count_a): (usize, usize),
        (at_b, count_b): (usize, usize),
    ) -> Option<Parts<A, B>> {
        let end_a = at_a.checked_mul(8)?.checked_add(count_a.checked_mul(size_of::<A>())?)?;
        if end_a > at_b.checked_mul(8)? {
            return None;
        }
        let first = NonNull::from(self.slice_mut(at_a, count_a)?);
        let second = NonNull::from(self.slice_mut(at_b, count_b)?);
        Some(Parts { first, second, region: self })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, unmapped once; no reference outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.words * 8) };
    }
}

/// A region as two arrays that this process alone writes: reached without a check each time.
#[derive(Debug)]
pub struct Parts<A, B> {
    first: NonNull<[A]>,
    second: NonNull<[B]>,
    region: Region,
}

// SAFETY: it owns the region, and its arrays hold plain data.
unsafe impl<A: Pod, B: Pod> Send for Parts<A, B> {}

impl<A: Pod, B: Pod> Parts<A, B> {
    #[inline(always)]
    pub fn first(&self) -> &[A] {
        // SAFETY: in range and apart from `second` (checked in `into_parts`), mapped as long as `region` lives, written
        // only through `&mut self`.
        unsafe { self.first.as_ref() }
    }

    #[inline(always)]
    pub fn first_mut(&mut self) -> &mut [A] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { self.first.as_mut() }
    }

    #[inline(always)]
    pub fn second(&self) -> &[B] {
        // SAFETY: as `first`.
        unsafe { self.second.as_ref() }
    }

    #[inline(always)]
    pub fn second_mut(&mut self) -> &mut [B] {
        // SAFETY: as `first_mut`.
        unsafe { self.second.as_mut() }
    }

    pub fn region(&self) -> &Region {
        &self.region
    }
}

/// Shared words as entries of half a word, in the order of memory. Contract: an entry is not stored to as part of a word
/// while it is loaded by itself, which left-right publishing sees to.
#[inline(always)]
pub fn halves(words: &[AtomicU64]) -> &[AtomicU32] {
    // SAFETY: the same memory for as long, aligned to more than is needed, and still only touched as atomics.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 2) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::sync::atomic::Ordering;

    #[test]
    fn two_mappings_see_the_same_words() {
        let ours = Region::create(c"test", 1024).unwrap();
        let theirs = Region::attach(ours.fd().try_clone_to_owned().unwrap(), Access::ReadOnly).unwrap();
        ours.words()[1023].store(42, Ordering::Relaxed);
        assert_eq!(theirs.words()[1023].load(Ordering::Relaxed), 42);
    }

    #[test]
    fn words_that_are_expected_have_their_memory_and_nothing_else_changes() {
        let region = Region::create(c"test", 16 * PAGE_BYTES / 8).unwrap();
        let blocks = || std::fs::File::from(region.fd().try_clone_to_owned().unwrap()).metadata().unwrap().blocks();
        region.words()[600].store(7, Ordering::Relaxed);
        region.expect_writes(0..16 * PAGE_BYTES / 8 + 1);
        assert_eq!(blocks(), 8, "out of range");
        // From the second page to the fifth.
        region.expect_writes(1023..2049);
        assert_eq!(blocks(), 4 * 8);
        assert_eq!(region.words()[600].load(Ordering::Relaxed), 7);
    }

    #[test]
    fn an_unsealed_or_odd_file_is_refused() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(matches!(Region::attach(file.into(), Access::ReadOnly), Err(RegionError::Unsealed)));
    }

    #[test]
    fn slices_stay_in_range_and_apart() {
        let mut region = Region::create(c"test", 1024).unwrap();
        let fd = region.fd().try_clone_to_owned().unwrap();
        assert!(region.slice_mut::<u64>(0, 1025).is_none());
        assert!(region.slice_mut::<u64>(usize::MAX, 1).is_none());
        let again = || Region::attach(fd.try_clone().unwrap(), Access::ReadWrite).unwrap();
        assert!(again().into_parts::<u64, u64>((0, 513), (512, 1)).is_none());
        assert!(again().into_parts::<u64, u64>((0, 512), (512, 513)).is_none());
        let mut parts = region.into_parts::<u64, u32>((0, 512), (512, 1024)).unwrap();
        parts.first_mut()[511] = 1;
        parts.second_mut()[1023] = 2;
        assert_eq!((parts.first()[511], parts.second()[1023]), (1, 2));
        let mut reader = Region::attach(fd, Access::ReadOnly).unwrap();
        assert!(reader.slice_mut::<u64>(0, 1).is_none());
    }
}
