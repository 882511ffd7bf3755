//! Frames that wait to be sent.
#![cfg(any(target_os = "linux", target_os = "android"))]

#[path = "../fixtures/mod.rs"]
mod fixtures;

use std::os::fd::{AsFd, OwnedFd};

use fdpass_core::{ControlBuffer, Decoder, Errno, Format, FrameKind, Header, Limits, Outbox, ReceivedFds, SocketType};
use fixtures::*;
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::dup2;

const MESSAGE: Header = Header { kind: FrameKind::Message, format: Format::Bytes, length: 0, fds: 0, id: 0 };

/// A pair with the smallest socket buffers that the kernel allows.
fn small_pair() -> (End, End) {
  raise_descriptor_limit();
  let (a, b) = pair(SocketType::Stream);
  setsockopt(&a.fd, sockopt::SndBuf, &1).unwrap();
  (a, b)
}

/// The receiving end.
struct Reader {
  end: End,
  decoder: Decoder,
  frames: Vec<(Vec<u8>, Vec<OwnedFd>)>,
}

impl Reader {
  fn new(end: End) -> Self {
    let limits = Limits { max_bytes: 1 << 24, max_fds: Header::MAX_FDS };
    Self { end, decoder: Decoder::new(limits), frames: Vec::new() }
  }

  /// Receives everything that is queued.
  fn read(&mut self) {
    while self.decoder.receive(self.end.socket(), &mut ControlBuffer::default()).is_ok() {
      while let Some(frame) = self.decoder.next_frame().unwrap() {
        self.frames.push((frame.data.to_vec(), frame.fds));
      }
      assert!(!self.decoder.has_ended());
    }
  }

  /// Receives until no frame waits any more; returns how many frames were sent.
  fn drain(&mut self, outbox: &mut Outbox, sender: &End) -> usize {
    let mut gone = 0;
    loop {
      self.read();
      let (done, stopped) = outbox.flush(sender.socket());
      gone += done;
      match stopped {
        None => break,
        stopped => assert_eq!(stopped, Some(Errno::EAGAIN)),
      }
    }
    self.read();
    gone
  }
}

#[test]
fn a_frame_that_goes_in_parts_arrives_whole_with_its_descriptors_once() {
  for count in [0, 1, 253, 254, 600, Header::MAX_FDS] {
    let (a, b) = small_pair();
    let mut reader = Reader::new(b);
    let mut outbox = Outbox::default();
    let data: Vec<u8> = (0..300_000).map(|index| (index % 251) as u8).collect();
    let file = file_holding("sent");
    assert_eq!(outbox.send(a.socket(), MESSAGE, &data, &vec![file.as_fd(); count]), Ok(Some(Errno::EAGAIN)));
    drop(file);
    assert_eq!(outbox.len(), 1);
    assert_eq!(reader.drain(&mut outbox, &a), 1);
    let [(received, mut fds)] = <[_; 1]>::try_from(reader.frames).unwrap();
    assert!(received == data && outbox.is_empty());
    assert_eq!(fds.len(), count);
    if let Some(fd) = fds.pop() {
      assert_eq!(text_of(fd), "sent");
    }
  }
}

#[test]
fn what_waits_is_what_the_number_meant_and_is_closed_once_it_has_gone() {
  let (a, b) = small_pair();
  let mut reader = Reader::new(b);
  let mut outbox = Outbox::default();
  outbox.send(a.socket(), MESSAGE, &[0; 100_000], &[]).unwrap();
  let mut file = OwnedFd::from(file_holding("the one that was sent"));
  let (pipe, probe) = probe();
  assert_eq!(outbox.send(a.socket(), MESSAGE, b"x", &[file.as_fd(), pipe.as_fd()]), Ok(Some(Errno::EAGAIN)));
  dup2(&pipe, &mut file).unwrap(); // the number now names another file
  drop((file, pipe));
  assert!(probe.is_open());
  assert_eq!(reader.drain(&mut outbox, &a), 2);
  let (_, mut fds) = reader.frames.pop().unwrap();
  assert!(probe.is_open());
  drop(fds.pop());
  assert!(!probe.is_open());
  assert_eq!(text_of(fds.pop().unwrap()), "the one that was sent");
}

#[test]
fn waiting_frames_go_together_but_never_with_one_that_has_descriptors() {
  let (a, b) = small_pair();
  let mut reader = Reader::new(b);
  let mut outbox = Outbox::default();
  let file = file_holding("");
  let mut expected = Vec::new();
  for index in 0..500_u32 {
    let data = index.to_be_bytes().repeat((index % 97) as usize * 10);
    let count = if index % 5 == 3 { (index % 3) as usize } else { 0 };
    outbox.send(a.socket(), MESSAGE, &data, &vec![file.as_fd(); count]).unwrap();
    expected.push((data, count));
  }
  reader.drain(&mut outbox, &a);
  let received: Vec<_> = reader.frames.into_iter().map(|(data, fds)| (data, fds.len())).collect();
  assert!(received == expected);
}

#[test]
fn plain_frames_that_wait_go_with_one_call_and_descriptors_with_one_of_their_own() {
  let (a, b) = pair(SocketType::Stream);
  let mut outbox = Outbox::default();
  let mut filler = 0;
  while outbox.is_empty() {
    outbox.send(a.socket(), MESSAGE, &[0; 60_000], &[]).unwrap();
    filler += 60_016;
  }
  let file = file_holding("");
  for fds in [&[][..], &[], &[file.as_fd()], &[], &[]] {
    outbox.send(a.socket(), MESSAGE, b"", fds).unwrap();
  }
  while filler > 0 {
    filler -= b.recv_at_most(filler, 0).unwrap().unwrap().bytes.len();
    if filler > 0 && outbox.len() == 6 {
      outbox.flush(a.socket());
    }
  }
  assert_eq!(outbox.flush(a.socket()), (if outbox.is_empty() { 0 } else { outbox.len() }, None));
  // Only the frames before it are merged.
  let message = b.recv().unwrap().unwrap();
  assert!(matches!(&message.fds, ReceivedFds::Complete(fds) if fds.len() == 1), "{message:?}");
  assert_eq!(message.bytes.len(), 3 * Header::SIZE);
  assert_eq!(b.complete().0.len(), 2 * Header::SIZE);
}

#[test]
fn a_frame_is_taken_back_only_if_nothing_of_it_has_gone() {
  let (a, b) = small_pair();
  let mut reader = Reader::new(b);
  let mut outbox = Outbox::default();
  let (fds, probes) = probes(3);
  outbox.send(a.socket(), MESSAGE, &[7; 100_000], &[]).unwrap();
  for (index, fd) in fds.iter().enumerate() {
    outbox.send(a.socket(), MESSAGE, &[index as u8], &[fd.as_fd()]).unwrap();
  }
  drop(fds);
  assert!(!outbox.cancel(0));
  assert!(!outbox.cancel(4));
  assert!(outbox.cancel(2));
  assert_eq!(probes.iter().map(Probe::is_open).collect::<Vec<_>>(), [true, false, true]);
  assert_eq!((outbox.len(), reader.drain(&mut outbox, &a)), (3, 3));
  let data: Vec<_> = reader.frames.iter().skip(1).map(|(data, fds)| (data[0], fds.len())).collect();
  assert_eq!(data, [(0, 1), (2, 1)]);
  drop(reader);
  assert_all_closed(&probes);
}

#[test]
fn a_peer_that_is_gone_drops_what_waits_and_closes_it() {
  let (a, b) = small_pair();
  let mut outbox = Outbox::default();
  let (fds, probes) = probes(2);
  outbox.send(a.socket(), MESSAGE, &[7; 100_000], &[fds[0].as_fd()]).unwrap();
  outbox.send(a.socket(), MESSAGE, b"", &[fds[1].as_fd()]).unwrap();
  drop((fds, b));
  let (gone, stopped) = outbox.flush(a.socket());
  assert_eq!(gone, 0);
  assert!(matches!(stopped, Some(Errno::EPIPE | Errno::ECONNRESET)), "{stopped:?}");
  assert!(outbox.is_empty());
  assert_all_closed(&probes);
  assert_eq!(outbox.send(a.socket(), MESSAGE, b"", &[]), Err(Errno::EPIPE));
}

#[test]
fn a_bad_descriptor_is_refused_and_nothing_of_the_frame_goes_or_waits() {
  for full in [false, true] {
    let (a, b) = small_pair();
    let mut reader = Reader::new(b);
    let mut outbox = Outbox::default();
    if full {
      outbox.send(a.socket(), MESSAGE, &[7; 100_000], &[]).unwrap();
    }
    let (fd, probe) = probe();
    assert_eq!(outbox.send(a.socket(), MESSAGE, b"x", &[fd.as_fd(), bad_fd()]), Err(Errno::EBADF));
    drop(fd);
    assert!(!probe.is_open());
    outbox.send(a.socket(), MESSAGE, b"next", &[]).unwrap();
    reader.drain(&mut outbox, &a);
    assert_eq!(reader.frames.last().unwrap().0, b"next");
    assert_eq!(reader.frames.len(), 1 + usize::from(full));
  }
}
