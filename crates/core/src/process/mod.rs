//! Processes: executing programs with other users, limits and descriptors, and restricting this one.

mod program;
mod restrict;
mod rlimit;

pub use program::{Credential, Ending, Process, Program, SpawnError, Step, abandon, block_signals, reap};
pub use restrict::{Identity, execute, group, hide, restrict};
pub use rlimit::{ResourceLimit, resource_by_name};
