//! The bench program's parts, in the order of a run: [`program`] asks the topics ([`engine`], [`handoffs`], [`new_flows`],
//! [`lookups`], [`peers`]) for groups of cases ([`case`]), [`run`] measures them in turns by [`clock`] on one of the
//! [`cores`], [`figures`] makes rows of it, [`table`], [`report`] and [`page`] write them down with the [`conditions`];
//! [`huge`] gives both sides huge pages; [`check`] compares with a baseline. What table changes cost is [`change`], its peer [`nft`];
//! what waiting costs is [`idle`]; `apart` says how far the cores are from each other on which two workers run. The measured
//! node in memory is [`node`], its tables [`cluster`], and [`device`] makes packets as a NIC would deliver them.

mod apart;
pub mod case;
pub mod change;
pub mod check;
pub mod clock;
pub mod cluster;
pub mod conditions;
pub mod cores;
pub mod device;
pub mod engine;
pub mod figures;
pub mod handoffs;
pub mod huge;
pub mod idle;
pub mod lookups;
pub mod new_flows;
pub mod nft;
pub mod node;
pub mod page;
pub mod peers;
mod plot;
pub mod program;
pub mod report;
pub mod run;
pub mod table;
