use nix::errno::Errno;

/// The symbolic name of an error number and its text: `("EPIPE", "Broken pipe")`.
pub fn describe(errno: i32) -> (String, &'static str) {
  let errno = Errno::from_raw(errno);
  (format!("{errno:?}"), errno.desc())
}

#[cfg(test)]
mod tests {
  use super::*;

  #[test]
  fn an_error_number_has_a_name_and_a_text() {
    assert_eq!(describe(libc::EPIPE), ("EPIPE".into(), "Broken pipe"));
    assert_eq!(describe(libc::EAGAIN).0, "EAGAIN");
  }
}
