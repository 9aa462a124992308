//! SIGTERM and SIGINT as a descriptor that becomes readable, so that the main thread waits for everything in one place.

use std::io;
use std::os::fd::OwnedFd;

/// Readable once the process was asked to stop.
pub fn stop_fd() -> io::Result<OwnedFd> {
    let (reader, writer) = std::io::pipe()?;
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
    }
    Ok(reader.into())
}
