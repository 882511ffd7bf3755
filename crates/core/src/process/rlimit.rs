//! Resource limits of programs.

use crate::sys::child::ChildLimit;

/// Resource limit of a program: setrlimit(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceLimit {
  /// `RLIMIT_*`; see [`resource_by_name`].
  pub resource: i32,
  /// Limit that the kernel enforces; `u64::MAX` for none.
  pub soft: u64,
  /// Maximum to which the program may raise the soft limit; `u64::MAX` for none.
  pub hard: u64,
}

/// Converts a limit to what setrlimit(2) takes.
pub(super) fn child_limit(&ResourceLimit { resource, soft, hard }: &ResourceLimit) -> ChildLimit {
  // RLIM_INFINITY is all ones on Linux, and the highest positive number on other platforms.
  let value = |limit: u64| if limit == u64::MAX { libc::RLIM_INFINITY } else { limit as libc::rlim_t };
  ChildLimit { resource, limit: libc::rlimit { rlim_cur: value(soft), rlim_max: value(hard) } }
}

/// Returns the number of a resource by its name in lower case, `nofile` for `RLIMIT_NOFILE`; `None` if the platform has no
/// such resource.
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
