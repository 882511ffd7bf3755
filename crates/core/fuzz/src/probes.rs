//! Descriptors that tell which they are, and whether any copy of them is open.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::stat::fstat;

/// How long another process may hold what is closed here, in milliseconds.
const PATIENCE: u16 = 2000;

/// Pipes: their write ends are what is passed, and their read ends come to their end when all copies are closed.
pub struct Probes {
  writers: Vec<OwnedFd>,
  readers: Vec<OwnedFd>,
  inodes: Vec<u64>,
}

impl Probes {
  /// How many there are.
  pub const COUNT: usize = 4;

  pub fn new() -> Self {
    let mut probes = Self { writers: Vec::new(), readers: Vec::new(), inodes: Vec::new() };
    for _ in 0..Self::COUNT {
      let (reader, writer) = fdpass_core::pipe().unwrap();
      fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
      probes.inodes.push(inode(&writer));
      probes.readers.push(reader);
      probes.writers.push(writer);
    }
    probes
  }

  /// The descriptor of one, whatever the number.
  pub fn borrow(&self, which: u8) -> BorrowedFd<'_> {
    self.writers[usize::from(which) % Self::COUNT].as_fd()
  }

  /// A second one of the same pipe.
  pub fn duplicate(&self, which: u8) -> OwnedFd {
    fdpass_core::duplicate(self.borrow(which)).unwrap()
  }

  /// That these are exactly those, in order.
  #[track_caller]
  pub fn check(&self, fds: &[OwnedFd], expected: &[u8]) {
    assert_eq!(fds.len(), expected.len());
    for (fd, which) in fds.iter().zip(expected) {
      assert_eq!(inode(fd), self.inodes[usize::from(*which) % Self::COUNT]);
      assert!(is_close_on_exec(fd));
    }
  }

  /// Which of them one is.
  #[track_caller]
  pub fn which(&self, fd: &OwnedFd) -> u8 {
    let inode = inode(fd);
    self.inodes.iter().position(|&known| known == inode).expect("one that was sent") as u8
  }

  /// That nothing of them is open beside what is here, which is closed.
  #[track_caller]
  pub fn assert_all_closed(self) {
    drop(self.writers);
    for (index, reader) in self.readers.iter().enumerate() {
      // Who reads the links of /proc/PID/fd holds each file for a moment: proc_fd_link() in fs/proc/fd.c.
      let _ = poll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], PATIENCE);
      assert_eq!(nix::unistd::read(reader, &mut [0]), Ok(0), "a copy of pipe {index} is open");
    }
  }
}

fn inode(fd: &OwnedFd) -> u64 {
  fstat(fd).expect("an open descriptor").st_ino
}

fn is_close_on_exec(fd: &OwnedFd) -> bool {
  fcntl(fd, FcntlArg::F_GETFD).unwrap() & libc::FD_CLOEXEC != 0
}

/// How many descriptors this process has open. Linux 6.2 tells by the size of the folder; its own is counted by neither.
pub fn open_descriptors() -> usize {
  match std::fs::metadata("/proc/self/fd").unwrap().len() {
    0 => std::fs::read_dir("/proc/self/fd").unwrap().count() - 1,
    count => count as usize,
  }
}

/// Runs something while no number is free but so many: the lowest ones, as far as they follow one another.
pub fn with_room_for<T>(count: u64, call: impl FnOnce() -> T) -> T {
  use nix::sys::resource::{Resource, getrlimit, setrlimit};
  use std::os::fd::AsRawFd;
  let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
  let lowest_free = fdpass_core::duplicate(std::io::stderr().as_fd()).unwrap().as_raw_fd() as u64;
  setrlimit(Resource::RLIMIT_NOFILE, lowest_free + count, hard).unwrap();
  let result = call();
  setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
  result
}

/// Numbers that were drawn from the fuzzer's input; zeros where it has ended.
pub type Input<'a> = arbitrary::Unstructured<'a>;

/// A number below a bound, which is not 0.
pub fn below(input: &mut Input<'_>, bound: usize) -> usize {
  input.int_in_range(0..=bound - 1).unwrap_or(0)
}

pub fn byte(input: &mut Input<'_>) -> u8 {
  input.arbitrary().unwrap_or(0)
}

pub fn flag(input: &mut Input<'_>) -> bool {
  byte(input) & 1 == 1
}

/// Which probes go with something: mostly a few, seldom as many as can, or more.
pub fn some(input: &mut Input<'_>) -> Vec<u8> {
  let count = match byte(input) {
    count @ 0..=239 => usize::from(count % 8).saturating_sub(3),
    count => [16, 100, 252, 253, 254, 255][usize::from(count) % 6],
  };
  let seed = byte(input);
  (0..count).map(|index| seed.wrapping_add(index as u8) % Probes::COUNT as u8).collect()
}

/// So many bytes that are told from their neighbours.
pub fn pattern(seed: u8, length: usize) -> Vec<u8> {
  let block: [u8; 251] = std::array::from_fn(|index| seed.wrapping_mul(31).wrapping_add(index as u8));
  let mut bytes = block.repeat(length.div_ceil(block.len()));
  bytes.truncate(length);
  bytes
}
