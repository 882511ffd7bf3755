//! Linux capabilities of a thread: capabilities(7).

use nix::errno::Errno;

/// Removes all capabilities except `kept` from the thread's bounding, ambient and inheritable sets.
///
/// The thread keeps its permitted and effective sets; the next program that it executes has only `kept`. `EPERM` is an
/// error only for root: other users' programs gain no capabilities anyway.
pub(crate) fn limit_capabilities(kept: &[u32], is_root: bool) -> nix::Result<()> {
  #[repr(C)]
  struct Header {
    version: u32,
    pid: libc::c_int,
  }
  #[repr(C)]
  #[derive(Clone, Copy, Default)]
  struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
  }
  const VERSION_3: u32 = 0x2008_0522; // _LINUX_CAPABILITY_VERSION_3, which has two `Data`
  for capability in (0..64).filter(|capability| !kept.contains(capability)) {
    let capability = libc::c_ulong::from(capability);
    // SAFETY: integers only; the unused arguments are zero, as prctl(2) requires.
    let lowered = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_LOWER, capability, 0, 0) };
    // SAFETY: as above.
    let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    match Errno::result(dropped).and(Errno::result(lowered)) {
      Err(Errno::EINVAL) => break, // beyond the kernel's last capability
      Err(Errno::EPERM) if !is_root => {}
      result => drop(result?),
    }
  }
  let mut header = Header { version: VERSION_3, pid: 0 };
  let mut data = [Data::default(); 2];
  // SAFETY: a header, and as many data as its version has.
  Errno::result(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
  for (data, word) in data.iter_mut().zip([0, 32]) {
    let bits = kept.iter().filter(|&&capability| (word..word + 32).contains(&capability));
    data.inheritable &= bits.fold(0, |set, capability| set | 1 << (capability - word));
  }
  // SAFETY: as above.
  Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })?;
  Ok(())
}
