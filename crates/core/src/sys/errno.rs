//! Error numbers.

use nix::errno::Errno;

/// Returns the symbolic name of an error number and its text: `("EPIPE", "Broken pipe")`.
pub fn errno_text(errno: i32) -> (String, &'static str) {
  let errno = Errno::from_raw(errno);
  (format!("{errno:?}"), errno.desc())
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
