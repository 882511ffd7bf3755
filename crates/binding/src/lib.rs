//! The native half of fdpass: the sockets and descriptors of one JavaScript environment, and the reactor that reports when
//! they are ready. `fdpass-core` implements messages and everything else about descriptors.

// A panic ends the process (`panics.rs`).
#![deny(clippy::indexing_slicing, clippy::panic, clippy::unreachable, clippy::unwrap_used)]

mod abi;
pub mod calls;
pub mod children;
mod claims;
pub mod codes;
pub mod environment;
mod file_access;
pub mod memory;
pub mod panics;
pub mod reactor;
mod services;
mod table;
