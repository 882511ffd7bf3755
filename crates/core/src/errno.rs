use nix::errno::Errno;

/// The symbolic name of an error number and its text: `("EPIPE", "Broken pipe")`.
pub fn describe(errno: i32) -> (String, &'static str) {
  let errno = Errno::from_raw(errno);
  (format!("{errno:?}"), errno.desc())
}
