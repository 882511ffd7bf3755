//! The native half of fdpass: the sockets and descriptors of one JavaScript environment, and the reactor that reports when
//! they are ready. `fdpass-core` implements messages and everything else about descriptors.

mod abi;
pub mod calls;
pub mod children;
pub mod codes;
pub mod environment;
pub mod memory;
pub mod reactor;
mod services;
mod table;
#[cfg(panic = "abort")]
mod unwinding;
