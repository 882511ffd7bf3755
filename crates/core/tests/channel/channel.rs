//! Channels: between two threads that wait, and between two ends that do not.
#![cfg(any(target_os = "linux", target_os = "android"))]

#[path = "../fixtures/mod.rs"]
mod fixtures;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::thread;

use fdpass_core::{
  Channel, ChannelError, Errno, Format, Frame, FrameError, FrameKind, Header, Limits, Message, SocketType, socketpair,
};
use fixtures::*;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

const LIMITS: Limits = Limits { max_bytes: 1 << 20, max_fds: Header::MAX_FDS };

/// Two ends with small socket buffers.
fn channels() -> [Channel; 2] {
  raise_descriptor_limit();
  let (a, b) = socketpair(SocketType::Stream).unwrap();
  [a, b].map(|fd| {
    setsockopt(&fd, sockopt::SndBuf, &1).unwrap();
    Channel::new(fd, LIMITS).unwrap()
  })
}

/// Pseudorandom numbers, repeatable by their seed (xorshift).
struct Random(u64);

impl Random {
  fn below(&mut self, bound: u64) -> usize {
    self.0 ^= self.0 << 13;
    self.0 ^= self.0 >> 7;
    self.0 ^= self.0 << 17;
    (self.0 % bound) as usize
  }

  /// Returns the bytes of the next message, and which of four files it carries.
  fn message(&mut self) -> (Vec<u8>, Vec<usize>) {
    let most = [10, 1000, 30_000][self.below(3)];
    let length = self.below(most);
    let count = if self.below(4) == 0 { [1, 3, 300][self.below(3)] } else { 0 };
    (vec![self.below(256) as u8; length], (0..count).map(|_| self.below(4)).collect())
  }
}

fn inode(fd: OwnedFd) -> u64 {
  std::fs::File::from(fd).metadata().unwrap().ino()
}

/// Asserts that a message is the next one of the seed.
fn check(frame: Frame, random: &mut Random, inodes: &[u64]) {
  let (data, files) = random.message();
  assert!(frame.data == data, "{} bytes in place of {}", frame.data.len(), data.len());
  let expected: Vec<u64> = files.iter().map(|&file| inodes[file]).collect();
  assert!(frame.fds.into_iter().map(inode).collect::<Vec<u64>>() == expected);
}

#[test]
fn threads_that_wait_get_2000_random_messages_with_their_descriptors() {
  let seed = 88_172_645_463_325_252;
  let [mut a, mut b] = channels();
  let files: Vec<_> = (0..4).map(|_| file_holding("")).collect();
  let inodes: Vec<u64> = files.iter().map(|file| file.metadata().unwrap().ino()).collect();
  let sender = thread::spawn(move || {
    let mut random = Random(seed);
    for _ in 0..2000 {
      let (data, numbers) = random.message();
      let fds: Vec<_> = numbers.iter().map(|&number| files[number].as_fd()).collect();
      a.send(Message::bytes(&data), &fds).unwrap();
    }
    assert_eq!(a.waiting(), 0);
  });
  let mut random = Random(seed);
  for _ in 0..2000 {
    check(b.receive().unwrap().unwrap(), &mut random, &inodes);
  }
  sender.join().unwrap();
  assert!(matches!(b.receive(), Ok(None)));
}

#[test]
fn ends_that_poll_exchange_2000_random_messages_both_ways() {
  let seeds = [362_436_069, 521_288_629];
  let mut ends = channels();
  let files: Vec<_> = (0..4).map(|_| file_holding("")).collect();
  let inodes: Vec<u64> = files.iter().map(|file| file.metadata().unwrap().ino()).collect();
  let (mut sending, mut receiving) = (seeds.map(Random), seeds.map(Random));
  let (mut sent, mut received) = ([0; 2], [0; 2]);
  while received != [2000; 2] {
    for side in [0, 1] {
      let channel = &mut ends[side];
      let room = if channel.waiting() > 0 { PollFlags::POLLOUT } else { PollFlags::empty() };
      poll(&mut [PollFd::new(channel.as_fd(), PollFlags::POLLIN | room)], PollTimeout::ZERO).unwrap();
      channel.flush().unwrap();
      while sent[side] < 2000 && channel.waiting() < 3 {
        let (data, numbers) = sending[side].message();
        let fds: Vec<_> = numbers.iter().map(|&number| files[number].as_fd()).collect();
        channel.try_send(Message::bytes(&data), &fds).unwrap();
        sent[side] += 1;
      }
      loop {
        match channel.try_receive() {
          Ok(frame) => check(frame.unwrap(), &mut receiving[1 - side], &inodes),
          Err(ChannelError::System(Errno::EAGAIN)) => break,
          Err(error) => panic!("{error}"),
        }
        received[side] += 1;
      }
    }
  }
}

#[test]
fn a_request_and_its_answer_keep_what_they_say_of_themselves() {
  let [mut a, mut b] = channels();
  let request = Message { kind: FrameKind::Request, format: Format::Json, id: u32::MAX, data: b"{}" };
  a.send(request, &[file_holding("asked").as_fd()]).unwrap();
  let Frame { kind, format, id, data, fds } = b.receive().unwrap().unwrap();
  assert_eq!((kind, format, id, &data[..]), (FrameKind::Request, Format::Json, u32::MAX, &b"{}"[..]));
  let [fd] = fds.try_into().unwrap();
  b.send(Message { kind: FrameKind::Response, data: b"1", ..request }, &[fd.as_fd()]).unwrap();
  let [fd] = a.receive().unwrap().unwrap().fds.try_into().unwrap();
  assert_eq!(text_of(fd), "asked");
}

#[test]
fn only_a_connected_stream_can_be_a_channel() {
  for &socket_type in PACKET_TYPES {
    assert_eq!(Channel::new(socketpair(socket_type).unwrap().0, LIMITS).unwrap_err(), Errno::EPROTOTYPE);
  }
  assert_eq!(Channel::new(file_holding("").into(), LIMITS).unwrap_err(), Errno::ENOTSOCK);
}

#[test]
fn an_end_inside_of_a_message_is_an_error_that_stays() {
  let (a, b) = pair(SocketType::Stream);
  let mut channel = Channel::new(b.fd, LIMITS).unwrap();
  a.send(&[0xfd, 1, 0], &[]).unwrap();
  assert!(matches!(channel.try_receive(), Err(ChannelError::System(Errno::EAGAIN))));
  drop(a);
  for _ in 0..2 {
    assert!(matches!(channel.receive(), Err(ChannelError::Frame(FrameError::EndedInside))));
  }
}

#[test]
fn a_send_to_nobody_fails_and_what_waited_is_gone() {
  let [mut a, b] = channels();
  let (fd, probe) = probe();
  assert_eq!(a.try_send(Message::bytes(&[0; 100_000]), &[fd.as_fd()]), Ok(false));
  drop((b, fd));
  assert!(matches!(a.send(Message::bytes(b"x"), &[]), Err(Errno::EPIPE | Errno::ECONNRESET)));
  assert_eq!(a.waiting(), 0);
  assert!(!probe.is_open());
}
