//! Processes: executing programs with other users, limits and descriptors, and restricting this one.

mod program;
mod restrict;
mod rlimit;

pub use program::{ExitStatus, Process, Program, RunAs, SpawnError, Step, block_signals, reap, reap_in_background};
pub use restrict::{Identity, execute, group_by_name, restrict, set_undumpable};
pub use rlimit::{ResourceLimit, resource_by_name};
