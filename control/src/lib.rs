//! Being written.
pub mod alloc;
pub mod compile;
pub mod file;
pub mod identity;
pub mod object;
pub mod slices;
pub mod state;
pub mod claim;
pub mod netlink;
pub mod sys;
pub mod tap;
pub mod uplink;
pub mod watch;

/// One line an event on standard error.
pub fn log(line: std::fmt::Arguments<'_>) {
    eprintln!("fairway-control: {line}");
}
