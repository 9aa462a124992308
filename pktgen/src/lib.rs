//! A packet instrument: numbered UDP packets go out of one interface and are looked for on another.
//!
//! The path of a packet, in order:
//! - `args` says what was asked, `netns` enters the namespaces and reads the interfaces' addresses;
//! - `packet` builds one template frame, `payload` numbers and stamps each copy of it;
//! - `rate` decides when how many are due, `xsk::Sender` hands them to the kernel;
//! - `xsk::Sink` receives, `packet` finds the payload again, `payload` judges it;
//! - `account` keeps the books per number, `report` prints them. `run` holds the two threads.
//!
//! It shares no code with the dataplane, so that a mistake in one does not hide in the other.

pub mod account;
pub mod args;
pub mod error;
pub mod netns;
pub mod packet;
pub mod payload;
pub mod rate;
pub mod report;
pub mod run;
pub mod xsk;
