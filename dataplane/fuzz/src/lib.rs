//! What each fuzz target does with its bytes. Every target begins from something valid (a frame, a region, a message)
//! and takes its input as edits of that, so no corpus is needed to get past the first check; arbitrary bytes are one of
//! the things to begin from. `dataplane/tests/past_findings.rs` includes this file too, and replays what was found.
//!
//! Nothing here may look at time or chance: the same bytes must do the same again.

pub mod cluster;
pub mod decap;
pub mod errors;
pub mod fragments;
pub mod frames;
pub mod input;
pub mod parse;
pub mod path;
pub mod region;
pub mod rewrite;
pub mod socket;
