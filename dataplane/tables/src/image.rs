//! A region's memory as bytes that can lie in a file: its size, then each block that holds something, with its place, all
//! little-endian. Most of a tables region was never touched, and stays so in whatever is made of its image.

use crate::region::{Region, RegionError};
use rustix::fs::{SeekFrom, fstat, seek};
use rustix::io::{Errno, pread};
use std::ffi::CStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

/// A page of memory: what was touched and what was not is known by pages.
const BLOCK_BYTES: usize = 4096;
const PLACE_BYTES: usize = 8;

/// Why bytes are no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("the image of a table is cut short, or has a block beyond its end: the bundle was damaged")]
    Damaged,
    #[error(transparent)]
    Region(#[from] RegionError),
}

/// The image of a region, by its descriptor. Other processes may write meanwhile: what they write in several words may be
/// seen in part, as by every reader of worker state.
pub fn of(region: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut image = (fstat(region)?.st_size as u64).to_le_bytes().to_vec();
    let mut at = 0;
    while let Some(start) = next_data(region, at)? {
        let end = seek(region, SeekFrom::Hole(start))?;
        at = start;
        while at < end {
            at += append_block(region, at, &mut image)?;
        }
    }
    Ok(image)
}

/// Where the next touched page begins.
fn next_data(region: BorrowedFd<'_>, at: u64) -> io::Result<Option<u64>> {
    match seek(region, SeekFrom::Data(at)) {
        Ok(start) => Ok(Some(start)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Appends one block, unless it is all zeroes. Returns how far that is.
fn append_block(region: BorrowedFd<'_>, at: u64, image: &mut Vec<u8>) -> io::Result<u64> {
    let mut block = [0; BLOCK_BYTES];
    let size = pread(region, &mut block, at)?;
    if block.iter().any(|byte| *byte != 0) {
        image.extend(at.to_le_bytes());
        image.extend(block);
    }
    if size == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(size as u64) }
}

/// A new region with this content; `name` shows in /proc/PID/maps.
pub fn restore(name: &CStr, image: &[u8]) -> Result<Region, ImageError> {
    let (size, blocks) = image.split_first_chunk().ok_or(ImageError::Damaged)?;
    let size = u64::from_le_bytes(*size);
    if !size.is_multiple_of(8) || size == 0 || size > crate::region::REGION_BYTES_MAX {
        return Err(ImageError::Damaged);
    }
    let region = Region::create(name, (size / 8) as usize)?;
    for block in blocks.chunks(PLACE_BYTES + BLOCK_BYTES) {
        let (place, bytes) = block.split_first_chunk().ok_or(ImageError::Damaged)?;
        store(&region, u64::from_le_bytes(*place), bytes).ok_or(ImageError::Damaged)?;
    }
    Ok(region)
}

fn store(region: &Region, place: u64, bytes: &[u8]) -> Option<()> {
    let words =
        region.words().get((place / 8) as usize..).filter(|_| place.is_multiple_of(8) && bytes.len() == BLOCK_BYTES)?;
    let (wanted, _) = bytes.as_chunks::<8>();
    // The last page of a region may be longer than it.
    for (word, value) in words.iter().zip(wanted) {
        word.store(u64::from_ne_bytes(*value), Ordering::Relaxed);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(region: &Region) -> Vec<(usize, u64)> {
        let loaded = region.words().iter().map(|word| word.load(Ordering::Relaxed)).enumerate();
        loaded.filter(|(_, value)| *value != 0).collect()
    }

    #[test]
    fn what_was_written_reads_back_and_the_rest_takes_no_room() {
        // The last page is not whole.
        let words = (1 << 20) + 9;
        let region = Region::create(c"test", words).unwrap();
        let written = [(0, 7), (511, 8), (512, 9), (700_000, u64::MAX), (words - 1, 1)];
        written.iter().for_each(|&(at, value)| region.words()[at].store(value, Ordering::Relaxed));
        let image = of(region.fd()).unwrap();
        assert_eq!(image.len(), 8 + 4 * (8 + 4096));
        let restored = restore(c"test", &image).unwrap();
        assert_eq!((restored.words().len(), values(&restored)), (words, written.to_vec()));
        assert!(values(&restore(c"test", &of(Region::create(c"test", 3).unwrap().fd()).unwrap()).unwrap()).is_empty());
    }

    #[test]
    fn damaged_images_are_refused() {
        let region = Region::create(c"test", 1024).unwrap();
        region.words()[1000].store(5, Ordering::Relaxed);
        let image = of(region.fd()).unwrap();
        for cut in [0, 7, 9, image.len() - 1] {
            assert!(matches!(restore(c"test", &image[..cut]), Err(ImageError::Damaged)), "cut at {cut}");
        }
        for (at, value) in [(0, u64::MAX), (0, 0), (0, 13), (8, 1 << 30), (8, 4)] {
            let mut damaged = image.clone();
            damaged[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
            assert!(matches!(restore(c"test", &damaged), Err(ImageError::Damaged)), "{value} at {at}");
        }
    }
}
