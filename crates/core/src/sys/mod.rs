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

/// Returns whether the calling thread is the first one of its process.
pub fn is_main_thread() -> bool {
  #[cfg(any(target_os = "linux", target_os = "android"))]
  {
    nix::unistd::gettid() == nix::unistd::getpid()
  }
  #[cfg(not(any(target_os = "linux", target_os = "android")))]
  {
    // SAFETY: it has no preconditions.
    unsafe { libc::pthread_main_np() != 0 }
  }
}
