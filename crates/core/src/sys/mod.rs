//! Every `unsafe` operation of this crate. Descriptor numbers returned by the kernel become owners here.
//!
//! This module imports nothing from the rest of the crate.

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) mod capabilities;
pub(crate) mod child;
pub(crate) mod cmsg;
pub(crate) mod errno;
pub(crate) mod fds;
pub(crate) mod msg;
pub(crate) mod socket;
pub(crate) mod sockopt;
pub(crate) mod wait;
