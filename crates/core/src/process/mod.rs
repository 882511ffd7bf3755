//! Processes: executing programs with other users, limits and descriptors, and restricting this one.

mod program;
mod restrict;

pub use program::{
  ExitStatus, Process, Program, ResourceLimit, RunAs, SpawnError, Step, reap, reap_in_background, resource_by_name,
  spawn_thread,
};
pub use restrict::{Identity, execute, group_by_name, restrict, set_undumpable};
