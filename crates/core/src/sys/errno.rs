//! Error numbers.

use nix::errno::Errno;

/// Returns the symbolic name of an error number and its text: `("EPIPE", "Broken pipe")`.
pub fn errno_text(errno: i32) -> (String, &'static str) {
  let errno = Errno::from_raw(errno);
  (format!("{errno:?}"), errno.desc())
}

/// Repeats a call while a signal interrupts it: `EINTR` (signal(7)). Node installs its handlers with `SA_RESTART`, but poll(2)
/// and others are never restarted, and a file system in user space may return it for every call.
///
/// Not for close(2), whose number is free after `EINTR`.
pub(crate) fn restart<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
  loop {
    match call() {
      Err(Errno::EINTR) => {}
      result => return result,
    }
  }
}

/// As [`restart`], for a call of std, which repeats few of its calls itself.
pub(crate) fn restart_io<T>(mut call: impl FnMut() -> std::io::Result<T>) -> nix::Result<T> {
  restart(|| call().map_err(of_io_error))
}

/// Returns the error number of an error of std, `EIO` for one that has none.
pub(crate) fn of_io_error(error: std::io::Error) -> Errno {
  Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
  use super::*;

  #[test]
  fn an_error_number_has_a_name_and_a_text() {
    assert_eq!(errno_text(libc::EPIPE), ("EPIPE".into(), "Broken pipe"));
    assert_eq!(errno_text(libc::EAGAIN).0, "EAGAIN");
  }
}
