//! What the targets share: descriptors that can be identified, and whose copies can be detected; how a target reads its input; and the
//! committed corpora, whose files `corpus/TARGET.hex` have one seed a line, in hexadecimal digits.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::stat::fstat;

/// How long another process may hold a descriptor that is closed here, in milliseconds.
const HOLD_TIMEOUT: u16 = 2000;

/// Pipes: the write ends are passed, and a read end reports the end when all copies are closed.
pub struct Probes {
  writers: Vec<OwnedFd>,
  readers: Vec<OwnedFd>,
  inodes: Vec<u64>,
}

impl Probes {
  /// Number of pipes.
  pub const COUNT: usize = 4;

  pub fn new() -> Self {
    static RAISED: std::sync::Once = std::sync::Once::new();
    RAISED.call_once(raise_descriptor_limit);
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

  /// Borrows the write end of one; any number is valid.
  pub fn borrow(&self, which: u8) -> BorrowedFd<'_> {
    self.writers[usize::from(which) % Self::COUNT].as_fd()
  }

  /// Duplicates the write end of one.
  pub fn duplicate(&self, which: u8) -> OwnedFd {
    fdpass_core::duplicate(self.borrow(which)).unwrap()
  }

  /// Asserts that these are exactly the expected ones, in order.
  #[track_caller]
  pub fn check(&self, fds: &[OwnedFd], expected: &[u8]) {
    assert_eq!(fds.len(), expected.len());
    for (fd, which) in fds.iter().zip(expected) {
      assert_eq!(inode(fd), self.inodes[usize::from(*which) % Self::COUNT]);
      assert!(is_close_on_exec(fd));
    }
  }

  /// Returns which of them a descriptor is.
  #[track_caller]
  pub fn which(&self, fd: &OwnedFd) -> u8 {
    let inode = inode(fd);
    self.inodes.iter().position(|&known| known == inode).expect("one that was sent") as u8
  }

  /// Closes the write ends and asserts that no copy is open.
  #[track_caller]
  pub fn assert_all_closed(self) {
    drop(self.writers);
    for (index, reader) in self.readers.iter().enumerate() {
      // A process that reads the links of /proc/PID/fd holds each file for a moment: proc_fd_link() in fs/proc/fd.c.
      let _ = poll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], HOLD_TIMEOUT);
      assert_eq!(nix::unistd::read(reader, &mut [0]), Ok(0), "a copy of pipe {index} is open");
    }
  }
}

/// Raises the soft limit of descriptors to the hard one: it is 1,024 on most systems, and Node raises it too.
fn raise_descriptor_limit() {
  use nix::sys::resource::{Resource, getrlimit, setrlimit};
  let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
  setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

fn inode(fd: &OwnedFd) -> u64 {
  fstat(fd).expect("an open descriptor").st_ino
}

fn is_close_on_exec(fd: &OwnedFd) -> bool {
  fcntl(fd, FcntlArg::F_GETFD).unwrap() & libc::FD_CLOEXEC != 0
}

/// Returns how many descriptors this process has open: from Linux 6.2 on the size of /proc/self/fd.
pub fn open_descriptors() -> usize {
  match std::fs::metadata("/proc/self/fd").unwrap().len() {
    0 => std::fs::read_dir("/proc/self/fd").unwrap().count() - 1,
    count => count as usize,
  }
}

/// Runs a task while at most this many numbers are free, the lowest ones.
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

/// Values drawn from the fuzzer's input; zeros after its end.
pub type Input<'a> = arbitrary::Unstructured<'a>;

/// Draws a number below a bound, which is not 0.
pub fn below(input: &mut Input<'_>, bound: usize) -> usize {
  input.int_in_range(0..=bound - 1).unwrap_or(0)
}

pub fn byte(input: &mut Input<'_>) -> u8 {
  input.arbitrary().unwrap_or(0)
}

pub fn flag(input: &mut Input<'_>) -> bool {
  byte(input) & 1 == 1
}

/// Draws a list of probes: mostly a few, rarely about as many as one message can carry.
pub fn some(input: &mut Input<'_>) -> Vec<u8> {
  let count = match byte(input) {
    count @ 0..=239 => usize::from(count % 8).saturating_sub(3),
    count => [16, 100, 252, 253, 254, 255][usize::from(count) % 6],
  };
  let seed = byte(input);
  (0..count).map(|index| seed.wrapping_add(index as u8) % Probes::COUNT as u8).collect()
}

/// Returns bytes in which adjacent ones differ.
pub fn pattern(seed: u8, length: usize) -> Vec<u8> {
  let block: [u8; 251] = std::array::from_fn(|index| seed.wrapping_mul(31).wrapping_add(index as u8));
  let mut bytes = block.repeat(length.div_ceil(block.len()));
  bytes.truncate(length);
  bytes
}

/// Returns the seeds of a corpus, each with its line. `npm run fuzz -- TARGET --add FILE` adds one.
pub fn seeds(corpus: &str) -> impl Iterator<Item = (&str, Vec<u8>)> {
  corpus.lines().map(|line| {
    let byte = |at| u8::from_str_radix(&line[at..at + 2], 16).expect("a corpus has two digits for each byte");
    (line, (0..line.len()).step_by(2).map(byte).collect())
  })
}
