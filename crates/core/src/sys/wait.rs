//! The end of a process: of a child, as a readable descriptor and as a status; of this one, by a signal.

use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, kill};
use nix::unistd::getpid;

use super::errno::restart;

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
  /// It exited with this code.
  Code(i32),
  /// This signal killed it.
  Signal(i32),
}

/// Returns how a child process ended: waitpid(2). `None` while it runs, which only `WNOHANG` reports.
///
/// nix's `WaitStatus` knows no real-time signals: its `waitpid` returns `EINVAL` for them, after the process was reaped.
pub(crate) fn wait_for(pid: libc::pid_t, options: libc::c_int) -> nix::Result<Option<ExitStatus>> {
  loop {
    let mut status = 0;
    // SAFETY: the kernel writes one int.
    let ended = restart(|| Errno::result(unsafe { libc::waitpid(pid, &raw mut status, options) }))?;
    if ended == 0 {
      return Ok(None);
    }
    if libc::WIFEXITED(status) {
      return Ok(Some(ExitStatus::Code(libc::WEXITSTATUS(status))));
    }
    if libc::WIFSIGNALED(status) {
      return Ok(Some(ExitStatus::Signal(libc::WTERMSIG(status))));
    }
    // It has stopped, which is reported for a process that this one traces.
  }
}

/// Waits until a child process has ended, or other code has reaped it. It remains to be reaped: waitid(2) with `WNOWAIT`.
pub(crate) fn wait_until_ended(pid: libc::pid_t) {
  // SAFETY: zeroes are valid for a structure of integers and unions of them.
  let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
  let options = libc::WEXITED | libc::WNOWAIT;
  // SAFETY: the kernel writes one siginfo_t.
  let wait = || Errno::result(unsafe { libc::waitid(libc::P_PID, pid as libc::id_t, &raw mut info, options) });
  let _ = restart(wait); // the only other error is ECHILD
}

/// Opens a descriptor that becomes readable when a child process ends: `pidfd_open(2)`, from Linux 5.3 on; elsewhere a
/// `kqueue(2)` with this one event.
pub(crate) fn exit_descriptor(pid: libc::pid_t) -> nix::Result<OwnedFd> {
  #[cfg(any(target_os = "linux", target_os = "android"))]
  {
    // SAFETY: integers only. A pidfd is close-on-exec.
    let number = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just installed it, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number as std::os::fd::RawFd) })
  }
  #[cfg(not(any(target_os = "linux", target_os = "android")))]
  {
    // SAFETY: no arguments.
    let number = Errno::result(unsafe { libc::kqueue() })?;
    // SAFETY: the kernel has just installed it, and nothing else owns it.
    let queue = unsafe { OwnedFd::from_raw_fd(number) };
    super::fds::set_close_on_exec(&queue)?;
    // SAFETY: a structure of integers and a pointer that the kernel does not dereference.
    let mut change: libc::kevent = unsafe { std::mem::zeroed() };
    change.ident = pid as _;
    change.filter = libc::EVFILT_PROC;
    change.flags = libc::EV_ADD;
    change.fflags = libc::NOTE_EXIT;
    let result = restart(|| {
      // SAFETY: one change, and no room for events, so that the call does not wait.
      Errno::result(unsafe { libc::kevent(number, &raw const change, 1, std::ptr::null_mut(), 0, std::ptr::null()) })
    });
    match result {
      // The process has already ended, and no event would follow: kqueue(2), EVFILT_PROC on macOS. A pipe whose writing end is closed
      // is readable at once.
      Err(Errno::ESRCH) => nix::unistd::pipe().and_then(|(end, _)| super::fds::set_close_on_exec(&end).map(|()| end)),
      result => result.map(|_| queue),
    }
  }
}

/// How long exit(3) may take. libuv waits there for the threads of its pool, and one may hang in a file system that does not respond.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Makes exit(3) end this process by a signal instead of an exit code, after everything else that runs at the exit: atexit(3). The
/// signal ends the process after two seconds even if that has not finished. `EINVAL` for a number that is no signal.
pub fn end_by_signal_at_exit(signal: i32) -> nix::Result<()> {
  static SIGNAL: AtomicI32 = AtomicI32::new(0);
  extern "C" fn raise() {
    let signal = SIGNAL.load(Ordering::Relaxed);
    // SAFETY: integers only. No other code sets the signal's action any more: the process ends.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // SAFETY: an integer.
    unsafe { libc::raise(signal) };
  }
  let signal = nix::sys::signal::Signal::try_from(signal)?;
  if SIGNAL.swap(signal as i32, Ordering::Relaxed) == 0 {
    // SAFETY: a function that may run in any thread and does not unwind. If this library is unloaded, it runs at that moment.
    if unsafe { libc::atexit(raise) } != 0 {
      return Err(Errno::ENOMEM);
    }
    // Without the thread, the process ends when everything has finished.
    let _ = std::thread::Builder::new().name("fdpass-exit".into()).spawn(move || {
      let _ = SigSet::all().thread_set_mask();
      std::thread::sleep(EXIT_TIMEOUT);
      // SAFETY: integers only. Only this function sets the action of the signal while the process exits.
      unsafe { libc::signal(signal as i32, libc::SIG_DFL) };
      let _ = kill(getpid(), signal);
    });
  }
  Ok(())
}
