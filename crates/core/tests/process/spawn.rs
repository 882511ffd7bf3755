//! Programs: their descriptors, users and limits, errors of starting them, and their exit status.
#![cfg(any(target_os = "linux", target_os = "android"))]

#[path = "../fixtures/mod.rs"]
mod fixtures;

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use fdpass_core::{
  Errno, ExitStatus, Process, Program, ResourceLimit, RunAs, SpawnError, Step, reap, resource_by_name,
};
use fixtures::*;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use tempfile::tempdir;

fn string(text: impl AsRef<str>) -> CString {
  CString::new(text.as_ref()).unwrap()
}

fn program(path: &str, arguments: &[&str]) -> Program {
  let arguments = arguments.iter().map(string).collect();
  Program { path: string(path), arguments, environment: vec![string("PATH=/usr/bin:/bin")], ..Program::default() }
}

fn sh(script: &str) -> Program {
  program("/bin/sh", &["sh", "-c", script])
}

/// Returns a program that prints its own /proc/self/status.
fn status() -> Program {
  program("/bin/cat", &["cat", "/proc/self/status"])
}

fn null() -> File {
  File::open("/dev/null").unwrap()
}

/// Runs a program and returns its standard output and error.
#[track_caller]
fn output(program: &Program) -> String {
  let (mut reader, writer) = std::io::pipe().unwrap();
  let _process = program.spawn(&[null().as_fd(), writer.as_fd(), writer.as_fd()]).unwrap();
  drop(writer);
  let mut text = String::new();
  reader.read_to_string(&mut text).unwrap();
  text
}

/// Returns the value of a line of /proc/self/status.
#[track_caller]
fn field(status: &str, name: &str) -> String {
  let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
  line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
}

fn is_readable(fd: impl AsFd, timeout: PollTimeout) -> bool {
  poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout).unwrap() > 0
}

#[track_caller]
fn ending(process: &mut Process) -> ExitStatus {
  assert!(is_readable(&*process, PollTimeout::from(10_000_u16)), "it goes on");
  process.reap().unwrap().expect("it has ended")
}

/// Returns the error of starting a program.
#[track_caller]
fn failure(program: &Program) -> (Step, Errno) {
  let SpawnError { step, errno } = program.spawn(&[null().as_fd()]).unwrap_err();
  (step, errno)
}

/// Returns whether this process is privileged; prints a reason if not.
fn is_root() -> bool {
  let is_root = nix::unistd::geteuid().is_root();
  if !is_root {
    println!("skipped: needs root");
  }
  is_root
}

/// Runs a task in another thread, which may change its own credentials.
fn in_thread(task: impl FnOnce() + Send + 'static) {
  std::thread::spawn(task).join().unwrap();
}

/// Sets the capabilities of this thread: capset(2).
fn set_capabilities(capabilities: &[u32]) {
  let bits: u32 = capabilities.iter().map(|capability| 1 << capability).sum();
  let header = [0x2008_0522_u32, 0];
  let data = [bits, bits, bits, 0, 0, 0];
  // SAFETY: a header of version 3, and its two data.
  Errno::result(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) }).unwrap();
}

const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;

#[test]
fn descriptors_become_the_numbers_from_zero_on() {
  let (mut reader, writer) = std::io::pipe().unwrap();
  let files = ["zero", "three", "four"].map(file_holding);
  let fds = [files[0].as_fd(), writer.as_fd(), writer.as_fd(), files[1].as_fd(), files[2].as_fd()];
  let mut process = sh("cat <&0; cat <&4; cat <&3").spawn(&fds).unwrap();
  drop(writer);
  let mut text = String::new();
  reader.read_to_string(&mut text).unwrap();
  assert_eq!(text, "zerofourthree");
  assert_eq!(ending(&mut process), ExitStatus::Code(0));
}

#[test]
fn descriptors_whose_numbers_lie_among_the_targets_arrive_in_their_places() {
  const COUNT: usize = 300;
  let (mut reader, writer) = std::io::pipe().unwrap();
  let mut files: Vec<File> = (3..COUNT).map(|index| file_holding(&format!("{index}\n"))).collect();
  files.sort_by_key(|file| file.as_raw_fd());
  let lowest: Vec<i32> = files.iter().map(AsRawFd::as_raw_fd).filter(|&number| number < COUNT as i32).collect();
  assert!(!lowest.is_empty());
  // In the opposite order, so that dup2(2) would replace each of them before it is duplicated.
  let null = null();
  let fds = [null.as_fd(), writer.as_fd(), writer.as_fd()].into_iter();
  let fds: Vec<BorrowedFd<'_>> = fds.chain(files.iter().rev().map(AsFd::as_fd)).collect();
  let expected: String = files.iter().rev().map(|file| text_of(file.try_clone().unwrap().into())).collect();
  let numbers: Vec<String> = (3..COUNT).map(|number| format!("/proc/self/fd/{number}")).collect();
  let arguments: Vec<&str> = ["cat"].into_iter().chain(numbers.iter().map(String::as_str)).collect();
  let _process = program("/bin/cat", &arguments).spawn(&fds).unwrap();
  drop(writer);
  let mut text = String::new();
  reader.read_to_string(&mut text).unwrap();
  assert_eq!(text, expected);
}

#[test]
fn the_same_descriptor_can_have_three_numbers() {
  let (mut ours, theirs) = UnixStream::pair().unwrap();
  let mut process = sh("read line; echo out $line; echo error >&2").spawn(&[theirs.as_fd(); 3]).unwrap();
  drop(theirs);
  ours.write_all(b"in\n").unwrap();
  let mut text = String::new();
  ours.read_to_string(&mut text).unwrap();
  assert_eq!(text, "out in\nerror\n");
  assert_eq!(ending(&mut process), ExitStatus::Code(0));
}

#[test]
fn a_program_can_have_no_descriptors() {
  let mut process = sh("test ! -e /proc/self/fd/0").spawn(&[]).unwrap();
  assert_eq!(ending(&mut process), ExitStatus::Code(0));
}

#[test]
fn nothing_else_is_inherited_whatever_its_flags() {
  let (low, probe_low) = probe();
  let (moved, probe_high) = probe();
  // SAFETY: fcntl(2) installs it.
  let high = unsafe { OwnedFd::from_raw_fd(fcntl(&moved, FcntlArg::F_DUPFD(700)).unwrap()) };
  fcntl(&low, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
  let (mut ours, theirs) = UnixStream::pair().unwrap();
  let _process = program("/bin/cat", &["cat"]).spawn(&[theirs.as_fd(); 3]).unwrap();
  drop((low, moved, high, theirs));
  // The child of another test may have them until it executes its program.
  let begun = std::time::Instant::now();
  while probe_low.is_open() || probe_high.is_open() {
    assert!(begun.elapsed().as_secs() < 10);
    std::thread::yield_now();
  }
  ours.write_all(b"it runs").unwrap();
  ours.read_exact(&mut [0; 7]).unwrap();
}

#[test]
fn the_callers_descriptors_stay_open_and_close_on_exec() {
  let file = file_holding("ours");
  let _process = sh("").spawn(&[file.as_fd(); 3]).unwrap();
  assert!(is_close_on_exec(&file));
  assert_eq!(text_of(file.into()), "ours");
}

#[test]
fn arguments_and_environment_are_those_given_and_no_others() {
  let cat = program("/bin/cat", &["another name", "/proc/self/cmdline", "/proc/self/environ"]);
  let environment = ["A=1", "EMPTY=", "B=two words"].map(string).to_vec();
  let text = output(&Program { environment, ..cat.clone() });
  assert_eq!(text, "another name\0/proc/self/cmdline\0/proc/self/environ\0A=1\0EMPTY=\0B=two words\0");
  let text = output(&Program { environment: Vec::new(), ..cat });
  assert_eq!(text, "another name\0/proc/self/cmdline\0/proc/self/environ\0");
}

#[test]
fn a_program_runs_in_its_directory_or_in_ours() {
  let folder = tempdir().unwrap();
  let path = folder.path().canonicalize().unwrap();
  let pwd = program("/bin/pwd", &["pwd"]);
  let text = output(&Program { directory: Some(string(path.to_str().unwrap())), ..pwd.clone() });
  assert_eq!(text.trim_end(), path.to_str().unwrap());
  assert_eq!(Path::new(output(&pwd).trim_end()), std::env::current_dir().unwrap());
}

#[test]
fn a_program_has_its_umask_or_ours() {
  let own = field(&fs::read_to_string("/proc/self/status").unwrap(), "Umask");
  assert_eq!(field(&output(&status()), "Umask"), own);
  for umask in [0, 0o027, 0o777] {
    let text = output(&Program { umask: Some(umask), ..status() });
    assert_eq!(u32::from_str_radix(&field(&text, "Umask"), 8).unwrap(), umask);
  }
  assert_eq!(field(&fs::read_to_string("/proc/self/status").unwrap(), "Umask"), own);
}

#[test]
fn a_program_has_its_limits() {
  let limit = |name, soft, hard| ResourceLimit { resource: resource_by_name(name).unwrap(), soft, hard };
  let limits = vec![limit("nofile", 64, 128), limit("core", 0, 0), limit("cpu", 5000, u64::MAX)];
  let text = output(&Program { limits, ..program("/bin/cat", &["cat", "/proc/self/limits"]) });
  let of = |name| {
    let line = text.lines().find_map(|line: &str| line.strip_prefix(name));
    line.unwrap().split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
  };
  assert_eq!(of("Max open files"), ["64", "128"]);
  assert_eq!(of("Max core file size"), ["0", "0"]);
  assert_eq!(of("Max cpu time"), ["5000", "unlimited"]);
  assert_eq!(resource_by_name("NOFILE"), None);
  assert_eq!(resource_by_name(""), None);
}

#[test]
fn signals_do_what_they_do_by_default_and_none_is_blocked() {
  in_thread(|| {
    // Rust and Node ignore SIGPIPE.
    // SAFETY: integers only.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    // SAFETY: as above.
    unsafe { libc::signal(libc::SIGRTMAX(), libc::SIG_IGN) };
    let blocked = SigSet::from_iter([Signal::SIGUSR1, Signal::SIGTERM]);
    blocked.thread_block().unwrap();
    let text = output(&status());
    // glibc reserves 32 and 33: their actions cannot be set.
    let ignored = u64::from_str_radix(&field(&text, "SigIgn"), 16).unwrap();
    assert_eq!(ignored & !(0b11 << 31), 0, "{ignored:x}");
    assert_eq!(field(&text, "SigBlk"), "0".repeat(16));
    assert_eq!(field(&text, "SigPnd"), "0".repeat(16));
    let own = SigSet::thread_get_mask().unwrap();
    assert_eq!(own.iter().collect::<Vec<_>>(), blocked.iter().collect::<Vec<_>>(), "this thread is as it was");
    let ignored = field(&fs::read_to_string("/proc/self/status").unwrap(), "SigIgn");
    assert_ne!(u64::from_str_radix(&ignored, 16).unwrap() & 1 << (libc::SIGPIPE - 1), 0);
  });
}

#[test]
fn a_signal_that_we_ignore_ends_a_program() {
  let mut process = sh("kill -PIPE $$; echo still here").spawn(&[null().as_fd(); 3]).unwrap();
  assert_eq!(ending(&mut process), ExitStatus::Signal(libc::SIGPIPE));
}

#[test]
fn a_program_has_a_session_of_its_own() {
  let (mut reader, writer) = std::io::pipe().unwrap();
  let cat = program("/bin/cat", &["cat", "/proc/self/stat"]);
  let process = cat.spawn(&[null().as_fd(), writer.as_fd(), writer.as_fd()]).unwrap();
  drop(writer);
  let mut text = String::new();
  reader.read_to_string(&mut text).unwrap();
  let [pid, _, _, parent, group_by_name, session] = text.split(' ').take(6).collect::<Vec<_>>().try_into().unwrap();
  let own = process.pid().to_string();
  assert_eq!([pid, group_by_name, session], [&own; 3]);
  assert_eq!(parent, std::process::id().to_string());
}

#[test]
fn a_program_can_be_kept_from_gaining_rights() {
  for no_new_privileges in [false, true] {
    let text = output(&Program { no_new_privileges, ..status() });
    assert_eq!(field(&text, "NoNewPrivs"), u8::from(no_new_privileges).to_string());
  }
  assert_eq!(field(&fs::read_to_string("/proc/self/status").unwrap(), "NoNewPrivs"), "0");
}

const NOBODY: u32 = 65_534;

fn as_nobody(groups: &[u32]) -> Option<RunAs> {
  Some(RunAs { uid: NOBODY, gid: NOBODY - 1, groups: groups.to_vec() })
}

const CAPABILITIES: [&str; 4] = ["CapInh", "CapPrm", "CapEff", "CapAmb"];

#[track_caller]
fn assert_has_no_capabilities(status: &str) {
  for set in CAPABILITIES {
    assert_eq!(field(status, set), "0".repeat(16), "{set}");
  }
}

#[test]
fn a_program_runs_as_whom_it_shall_with_no_group_and_no_capability_of_ours_s48() {
  if !is_root() {
    return;
  }
  for groups in [&[][..], &[7], &[5, 6, 70_000]] {
    let text = output(&Program { run_as: as_nobody(groups), ..status() });
    assert_eq!(field(&text, "Uid").split_whitespace().collect::<Vec<_>>(), ["65534"; 4]);
    assert_eq!(field(&text, "Gid").split_whitespace().collect::<Vec<_>>(), ["65533"; 4]);
    let told: Vec<u32> = field(&text, "Groups").split_whitespace().map(|group| group.parse().unwrap()).collect();
    assert_eq!(told, groups);
    assert_has_no_capabilities(&text);
  }
  assert!(nix::unistd::geteuid().is_root(), "this process is as it was");
}

#[test]
fn a_program_for_another_user_has_none_of_the_ambient_capabilities_that_made_it() {
  if !is_root() {
    return;
  }
  in_thread(|| {
    // Like a service that systemd starts with AmbientCapabilities= and User=.
    // SAFETY: integers only.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1 as libc::c_ulong, 0, 0, 0) }).unwrap();
    // SAFETY: as above; of this thread only.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, 1000, 1000, 1000) }).unwrap();
    set_capabilities(&[CAP_SETGID, CAP_SETUID]);
    for capability in [CAP_SETGID, CAP_SETUID].map(libc::c_ulong::from) {
      // SAFETY: as above.
      let raised = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0) };
      Errno::result(raised).unwrap();
    }
    let text = output(&Program { run_as: as_nobody(&[]), ..status() });
    assert_eq!(field(&text, "Uid").split_whitespace().collect::<Vec<_>>(), ["65534"; 4]);
    for set in ["CapPrm", "CapEff", "CapAmb"] {
      assert_eq!(field(&text, set), "0".repeat(16), "{set}");
    }
    // Without another user it keeps them.
    assert_ne!(field(&output(&status()), "CapEff"), "0".repeat(16));
  });
}

#[test]
fn limits_are_raised_before_the_rights_are_given_up_that_this_takes() {
  if !is_root() {
    return;
  }
  let resource = resource_by_name("sigpending").unwrap();
  let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_SIGPENDING).unwrap();
  let limits = vec![ResourceLimit { resource, soft: hard + 1, hard: hard + 1 }];
  let own = field(&fs::read_to_string("/proc/self/status").unwrap(), "CapEff");
  if u64::from_str_radix(&own, 16).unwrap() & 1 << 24 == 0 {
    println!("skipped: needs CAP_SYS_RESOURCE");
    return;
  }
  let cat = program("/bin/cat", &["cat", "/proc/self/limits"]);
  let text = output(&Program { limits, run_as: as_nobody(&[]), ..cat });
  let line = text.lines().find(|line| line.starts_with("Max pending signals")).unwrap();
  assert!(line.contains(&(hard + 1).to_string()), "{line}");
}

#[test]
fn a_directory_is_entered_with_the_rights_that_the_program_will_have() {
  if !is_root() {
    return;
  }
  let folder = tempdir().unwrap();
  fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
  let directory = Some(string(folder.path().to_str().unwrap()));
  let program = Program { directory, ..sh("") };
  assert_eq!(failure(&Program { run_as: as_nobody(&[]), ..program }), (Step::Directory, Errno::EACCES));
}

#[test]
fn what_cannot_be_executed_is_told_with_its_reason() {
  let folder = tempdir().unwrap();
  let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
  fs::write(path("text"), "no program").unwrap();
  assert_eq!(failure(&program(&path("missing"), &["x"])), (Step::Execute, Errno::ENOENT));
  assert_eq!(failure(&program(&path("text"), &["x"])), (Step::Execute, Errno::EACCES));
  fs::set_permissions(path("text"), fs::Permissions::from_mode(0o755)).unwrap();
  assert_eq!(failure(&program(&path("text"), &["x"])), (Step::Execute, Errno::ENOEXEC), "no shell reads it");
  assert_eq!(failure(&program(&path(""), &["x"])), (Step::Execute, Errno::EACCES));
  assert_eq!(failure(&program("sh", &["sh"])), (Step::Execute, Errno::ENOENT), "no search takes place");
}

#[test]
fn each_step_tells_that_it_has_failed_and_why() {
  let elsewhere = |directory| Program { directory: Some(string(directory)), ..sh("") };
  assert_eq!(failure(&elsewhere("/nowhere at all")), (Step::Directory, Errno::ENOENT));
  assert_eq!(failure(&elsewhere("/dev/null")), (Step::Directory, Errno::ENOTDIR));
  let limit = |resource, soft, hard| Program { limits: vec![ResourceLimit { resource, soft, hard }], ..sh("") };
  assert_eq!(failure(&limit(libc::RLIMIT_NOFILE as i32, 2, 1)), (Step::Limits, Errno::EINVAL));
  assert_eq!(failure(&limit(-1, 1, 1)), (Step::Limits, Errno::EINVAL));
  let error = sh("").spawn(&[null().as_fd(), bad_fd()]).unwrap_err();
  assert_eq!(error, SpawnError { step: Step::Descriptors, errno: Errno::EBADF });
  assert!(!error.is_temporary());
}

#[test]
fn whoever_may_not_become_another_user_is_told_at_which_step() {
  if !is_root() {
    return;
  }
  for (capabilities, step) in [(&[][..], Step::Groups), (&[CAP_SETUID], Step::Groups), (&[CAP_SETGID], Step::User)] {
    in_thread(move || {
      set_capabilities(capabilities);
      assert_eq!(failure(&Program { run_as: as_nobody(&[]), ..sh("") }), (step, Errno::EPERM));
    });
  }
}

#[test]
fn all_ones_which_mean_unchanged_to_the_kernel_are_nobodys_number() {
  if !is_root() {
    return;
  }
  for (uid, gid, step) in [(u32::MAX, NOBODY, Step::User), (NOBODY, u32::MAX, Step::Group)] {
    let credential = Some(RunAs { uid, gid, groups: Vec::new() });
    assert_eq!(failure(&Program { run_as: credential, ..sh("") }), (step, Errno::EINVAL));
  }
}

#[test]
fn every_step_has_a_number_and_a_system_call() {
  let steps: Vec<Step> = (0..=u8::MAX).map_while(Step::from_number).collect();
  assert!(steps.iter().enumerate().all(|(number, step)| *step as usize == number));
  assert_eq!(steps.first().map(|step| step.syscall()), Some("pipe"));
  assert_eq!(steps.last().map(|step| step.syscall()), Some("execve"));
  assert_eq!(Step::from_number(steps.len() as u8), None);
}

#[test]
fn the_end_of_a_program_is_told_with_its_code() {
  let (ours, theirs) = UnixStream::pair().unwrap();
  let mut process = sh("read line; exit 7").spawn(&[theirs.as_fd(); 3]).unwrap();
  assert!(!is_readable(&process, PollTimeout::ZERO));
  assert_eq!(process.reap(), Ok(None));
  drop((ours, theirs));
  assert_eq!(ending(&mut process), ExitStatus::Code(7));
}

#[test]
fn the_end_of_a_program_is_told_with_the_signal_that_ended_it() {
  for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGRTMIN() + 6] {
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let mut process = program("/bin/cat", &["cat"]).spawn(&[theirs.as_fd(); 3]).unwrap();
    // SAFETY: integers only; the process is ours, and was not waited for.
    Errno::result(unsafe { libc::kill(process.pid(), signal) }).unwrap();
    assert_eq!(ending(&mut process), ExitStatus::Signal(signal));
  }
}

#[test]
fn a_process_in_parts_is_reaped_by_its_number() {
  let (pid, exit) = sh("exit 3").spawn(&[null().as_fd()]).unwrap().into_parts();
  assert!(is_readable(&exit, PollTimeout::from(10_000_u16)));
  assert!(is_close_on_exec(&exit));
  assert_eq!(reap(pid), Ok(Some(ExitStatus::Code(3))));
  assert_eq!(reap(pid), Err(Errno::ECHILD));
}

/// Makes system calls of this thread, and of the threads and processes that it starts, fail: seccomp(2).
fn refuse(calls: &[(libc::c_long, Errno)]) {
  let instruction =
    |code: u32, jump_unless_equal: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: jump_unless_equal, k };
  let mut filter = vec![instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)]; // the number of the call
  for &(call, errno) in calls {
    filter.push(instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, call as u32));
    filter.push(instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | errno as u32));
  }
  filter.push(instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW));
  let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
  nix::sys::prctl::set_no_new_privs().unwrap();
  // SAFETY: a filter of this length, which the kernel copies.
  let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
  Errno::result(result).unwrap();
}

/// Runs a task where pidfd_open(2) does not exist, and where a seccomp profile forbids it.
fn without_pidfd_open(task: fn()) {
  for errno in [Errno::ENOSYS, Errno::EPERM] {
    in_thread(move || {
      refuse(&[(libc::SYS_pidfd_open, errno)]);
      task();
    });
  }
}

#[test]
fn without_pidfd_open_the_end_of_a_program_is_told() {
  without_pidfd_open(the_end_of_a_program_is_told_with_its_code);
  without_pidfd_open(the_end_of_a_program_is_told_with_the_signal_that_ended_it);
  without_pidfd_open(a_process_in_parts_is_reaped_by_its_number);
}

#[test]
fn without_pidfd_open_other_children_are_left_to_those_who_started_them() {
  without_pidfd_open(|| {
    let mut other = std::process::Command::new("/bin/sh").args(["-c", "exit 5"]).spawn().unwrap();
    let mut process = sh("exit 7").spawn(&[null().as_fd()]).unwrap();
    assert_eq!(ending(&mut process), ExitStatus::Code(7));
    assert_eq!(other.wait().unwrap().code(), Some(5));
  });
}

#[test]
fn without_pidfd_open_a_program_that_cannot_be_executed_names_execve() {
  without_pidfd_open(|| assert_eq!(failure(&program("/nowhere/at/all", &["x"])), (Step::Execute, Errno::ENOENT)));
}

#[test]
fn without_pidfd_open_and_without_threads_a_program_is_killed_and_clone_named() {
  in_thread(|| {
    // glibc tries another call after ENOSYS only: pthread_create fails, and fork does not, which makes another call.
    refuse(&[(libc::SYS_pidfd_open, Errno::ENOSYS), (libc::SYS_clone3, Errno::EAGAIN)]);
    if std::thread::Builder::new().spawn(|| ()).is_ok() {
      return println!("skipped: this C library starts threads without clone3(2)");
    }
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let error = program("/bin/cat", &["cat"]).spawn(&[theirs.as_fd(); 3]).unwrap_err();
    assert_eq!((error.step, error.errno), (Step::Thread, Errno::EAGAIN));
    assert!(error.is_temporary());
    drop(theirs);
    assert_eq!(ours.read(&mut [0]).unwrap(), 0); // the program has ended
  });
}
