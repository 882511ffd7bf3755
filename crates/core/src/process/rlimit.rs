//! Resource limits of programs.

use crate::sys::child::ChildLimit;

/// A limit on what a program may use: setrlimit(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceLimit {
  /// `RLIMIT_*`
  pub resource: i32,
  /// What the kernel holds it to; `u64::MAX` for no limit.
  pub soft: u64,
  /// How far it may raise that; likewise.
  pub hard: u64,
}

/// Converts a limit to what setrlimit(2) takes.
pub(super) fn child_limit(&ResourceLimit { resource, soft, hard }: &ResourceLimit) -> ChildLimit {
  // RLIM_INFINITY is all ones on Linux, and the highest that is no negative number elsewhere.
  let value = |limit: u64| if limit == u64::MAX { libc::RLIM_INFINITY } else { limit as libc::rlim_t };
  ChildLimit { resource, limit: libc::rlimit { rlim_cur: value(soft), rlim_max: value(hard) } }
}

/// The number of a limit by its name in lower case, `nofile` for `RLIMIT_NOFILE`; none where this system has no such.
pub fn resource_by_name(name: &str) -> Option<i32> {
  #[allow(clippy::unnecessary_cast, reason = "an unsigned enum on glibc, an integer elsewhere")]
  let resource = match name {
    "as" => libc::RLIMIT_AS as i32,
    "core" => libc::RLIMIT_CORE as i32,
    "cpu" => libc::RLIMIT_CPU as i32,
    "data" => libc::RLIMIT_DATA as i32,
    "fsize" => libc::RLIMIT_FSIZE as i32,
    "memlock" => libc::RLIMIT_MEMLOCK as i32,
    "nofile" => libc::RLIMIT_NOFILE as i32,
    "nproc" => libc::RLIMIT_NPROC as i32,
    "rss" => libc::RLIMIT_RSS as i32,
    "stack" => libc::RLIMIT_STACK as i32,
    #[cfg(any(target_os = "linux", target_os = "android"))]
    "msgqueue" => libc::RLIMIT_MSGQUEUE as i32,
    #[cfg(any(target_os = "linux", target_os = "android"))]
    "nice" => libc::RLIMIT_NICE as i32,
    #[cfg(any(target_os = "linux", target_os = "android"))]
    "rtprio" => libc::RLIMIT_RTPRIO as i32,
    #[cfg(any(target_os = "linux", target_os = "android"))]
    "sigpending" => libc::RLIMIT_SIGPENDING as i32,
    _ => return None,
  };
  Some(resource)
}
