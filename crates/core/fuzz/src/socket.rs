//! Two ends of a pair, driven at random beside a model of the queues between them. Every message arrives once, with its
//! descriptors or with a reason. After every step this process has exactly the descriptors that the model expects.

use std::collections::VecDeque;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};

use fdpass_core::{
  AncillaryOptions, ControlBuffer, Direction, Errno, Received, ReceivedFds, SendOptions, Socket, SocketType, adopt,
  close, close_all, duplicate, socketpair,
};
use nix::sys::socket::{setsockopt, sockopt};

use super::probes::{Input, Probes, below, byte, flag, open_descriptors, pattern, some, with_room_for};

/// Byte that fills a buffer before a receive.
const UNTOUCHED: u8 = 0xee;

pub fn run(input: &[u8]) {
  let before = open_descriptors();
  let mut input = Input::new(input);
  let probes = Probes::new();
  let mut pair = Pair::new(&mut input, &probes);
  for _ in 0..200 {
    if input.is_empty() {
      break;
    }
    pair.step(&mut input);
    assert_eq!(open_descriptors(), before + 2 * Probes::COUNT + pair.owned());
  }
  drop(pair);
  probes.assert_all_closed();
  assert_eq!(open_descriptors(), before);
}

/// One end, with all of its descriptors.
struct End {
  fds: Vec<OwnedFd>,
  /// Control messages that the kernel adds, and those that the reader requests.
  told: AncillaryOptions,
  asks: AncillaryOptions,
  /// The kernel reports an end behind the queue. A datagram socket has one only after a shutdown of this end.
  ended: bool,
  /// It was shut down for sending.
  silenced: bool,
  /// Messages that were sent to it.
  queue: VecDeque<Sent>,
  /// The kernel may have dropped queued messages.
  purged: bool,
}

/// A message; on a stream the part that was not received.
struct Sent {
  data: Vec<u8>,
  /// `None` once they have arrived.
  fds: Option<Vec<u8>>,
}

struct Pair<'a> {
  socket_type: SocketType,
  ends: [End; 2],
  probes: &'a Probes,
  held: Vec<OwnedFd>,
  control: ControlBuffer,
}

impl<'a> Pair<'a> {
  fn new(input: &mut Input<'_>, probes: &'a Probes) -> Self {
    let socket_type = [SocketType::Stream, SocketType::Seqpacket, SocketType::Dgram][below(input, 3)];
    let (a, b) = socketpair(socket_type).unwrap();
    let ends = [a, b].map(|fd| {
      let told = AncillaryOptions { credentials: byte(input) % 4 == 3, pidfd: byte(input) % 4 == 3 };
      // Mostly the reader requests what the kernel adds.
      let asks =
        if byte(input) % 8 == 7 { AncillaryOptions { credentials: flag(input), pidfd: flag(input) } } else { told };
      let pidfd = match Socket::from_parts(fd.as_fd(), socket_type, asks).enable_ancillary(told) {
        Ok(()) => told.pidfd,
        Err(Errno::ENOPROTOOPT) => false, // before Linux 6.5
        Err(errno) => panic!("{errno}"),
      };
      if byte(input) % 4 == 3 {
        setsockopt(&fd, sockopt::SndBuf, &1).unwrap();
      }
      let told = AncillaryOptions { pidfd, credentials: told.credentials && pidfd == told.pidfd };
      End { fds: vec![fd], told, asks, ended: false, silenced: false, queue: VecDeque::new(), purged: false }
    });
    Self { socket_type, ends, probes, held: Vec::new(), control: ControlBuffer::default() }
  }

  /// Number of descriptors besides the probes.
  fn owned(&self) -> usize {
    self.held.len() + self.ends.iter().map(|end| end.fds.len()).sum::<usize>()
  }

  fn step(&mut self, input: &mut Input<'_>) {
    let side = usize::from(flag(input));
    match byte(input) % 16 {
      0..6 => self.send(side, input),
      6..12 => self.receive(side, input),
      12 => self.let_go(input),
      13 => {
        if let Some(fd) = self.ends[side].fds.first().filter(|_| self.ends[side].fds.len() < 4) {
          let second = duplicate(fd.as_fd()).unwrap();
          self.ends[side].fds.push(second);
        }
      }
      14 => self.shut_down(side, input),
      _ => self.close(side, input),
    }
  }

  fn send(&mut self, side: usize, input: &mut Input<'_>) {
    let which = some(input);
    let length = [0, 1, usize::from(byte(input)), 4096, 40_000][below(input, 5)];
    let data = pattern(byte(input), length);
    let credentials = (byte(input) % 8 == 7).then(fdpass_core::Credentials::own);
    let Some(fd) = pick(&self.ends[side].fds, input) else { return };
    // Half of them are duplicates and closed at once: the message has its own.
    let seconds: Vec<OwnedFd> = which.iter().step_by(2).map(|&which| self.probes.duplicate(which)).collect();
    let fds: Vec<_> = (which.iter().enumerate())
      .map(|(index, &which)| if index % 2 == 0 { seconds[index / 2].as_fd() } else { self.probes.borrow(which) })
      .collect();
    let socket = Socket::from_parts(fd.as_fd(), self.socket_type, AncillaryOptions::default());
    let result = socket.send(&data, &fds, SendOptions { to: None, credentials });
    drop(seconds);
    let socket_type = self.socket_type;
    let is_stream = socket_type == SocketType::Stream;
    let invalid = which.len() > fdpass_core::MAX_SENT_FDS || (is_stream && data.is_empty() && !which.is_empty());
    let [end, peer] = self.sides(side);
    match result {
      Ok(sent) => {
        assert!(!invalid && !peer.fds.is_empty());
        assert!(sent == data.len() || (is_stream && sent > 0 && sent < data.len()));
        if !is_stream || sent > 0 {
          peer.queue.push_back(Sent { data: data[..sent].to_vec(), fds: Some(which) });
        }
      }
      Err(Errno::EINVAL) => assert!(invalid),
      Err(Errno::EAGAIN) => assert!(!peer.queue.is_empty()),
      Err(Errno::EMSGSIZE) => assert!(!is_stream), // more than its send buffer
      Err(Errno::EPIPE | Errno::ENOTCONN | Errno::ECONNRESET) => {
        assert!(end.silenced || peer.ended || peer.fds.is_empty());
      }
      Err(Errno::ETOOMANYREFS) => {} // for users other than root
      Err(Errno::ECONNREFUSED) => {
        // With its peer, a datagram socket loses the messages that it has not received (unix_dgram_disconnected in af_unix.c).
        assert!(socket_type == SocketType::Dgram && peer.fds.is_empty());
        end.purged = true;
      }
      Err(errno) => panic!("{errno}"),
    }
  }

  fn sides(&mut self, side: usize) -> [&mut End; 2] {
    let [a, b] = &mut self.ends;
    if side == 0 { [a, b] } else { [b, a] }
  }

  fn receive(&mut self, side: usize, input: &mut Input<'_>) {
    let capacity = [0, 1, usize::from(byte(input)), 5000, 100_000][below(input, 5)];
    let max_fds = [0, 1, 2, 253, usize::MAX][below(input, 5)];
    let room = match byte(input) {
      room @ 0..32 => Some(u64::from(room % 4)),
      _ => None,
    };
    let Some(fd) = pick(&self.ends[side].fds, input) else { return };
    let mut buffer = vec![UNTOUCHED; capacity];
    let socket = Socket::from_parts(fd.as_fd(), self.socket_type, self.ends[side].asks);
    let result = match room {
      None => socket.recv(&mut buffer, &mut self.control, max_fds),
      Some(room) => with_room_for(room, || socket.recv(&mut buffer, &mut self.control, max_fds)),
    };
    let (socket_type, probes) = (self.socket_type, self.probes);
    let [end, peer] = self.sides(side);
    match result {
      Ok(None) => {
        assert!(end.ended && (capacity > 0 || socket_type == SocketType::Dgram));
        // Empty packets directly before the end are indistinguishable from it. Without a free number, /proc cannot be read to find
        // queued descriptors.
        let nothing =
          |Sent { data, fds }: &Sent| data.is_empty() && (room.is_some() || fds.as_ref().is_some_and(Vec::is_empty));
        let only_empty = socket_type == SocketType::Seqpacket && end.queue.iter().all(nothing);
        assert!(end.purged || only_empty || end.queue.is_empty());
        end.queue.pop_front();
      }
      Err(Errno::EAGAIN) => {
        assert!(end.purged || end.queue.is_empty(), "{} wait", end.queue.len());
        assert!(!end.ended || capacity == 0, "an end is reported");
      }
      Err(Errno::ECONNRESET) => {
        assert!(peer.fds.is_empty());
        end.purged |= socket_type == SocketType::Dgram;
      }
      Err(errno) => panic!("{errno}"),
      Ok(Some(received)) => {
        let behind = buffer.len() - received.length;
        assert!(buffer[received.length..] == vec![UNTOUCHED; behind]);
        let expected = end.received(socket_type, capacity, &buffer[..received.length], received.size);
        let held = end.check(probes, received, expected, max_fds, room);
        self.held.extend(held);
      }
    }
  }

  /// Closes descriptors in one of the possible ways.
  fn let_go(&mut self, input: &mut Input<'_>) {
    let at = self.held.len() - self.held.len().min(usize::from(byte(input)));
    let mut fds = self.held.split_off(at);
    match byte(input) % 4 {
      0 => drop(fds),
      1 => fds.into_iter().for_each(|fd| close(fd).unwrap()),
      2 => close_all(fds),
      _ => {
        let numbers: Vec<_> = fds.drain(..).map(OwnedFd::into_raw_fd).collect();
        // SAFETY: given up the line before.
        self.held.extend(numbers.into_iter().map(|number| unsafe { adopt(number) }.unwrap()));
      }
    }
  }

  fn shut_down(&mut self, side: usize, input: &mut Input<'_>) {
    let direction = [Direction::Read, Direction::Write, Direction::Both][below(input, 3)];
    let Some(fd) = self.ends[side].fds.first() else { return };
    match Socket::from_parts(fd.as_fd(), self.socket_type, AncillaryOptions::default()).shutdown(direction) {
      Ok(()) => {}
      Err(errno) => panic!("{errno}"),
    }
    let is_connection = self.socket_type != SocketType::Dgram;
    let [end, peer] = self.sides(side);
    end.ended |= direction != Direction::Write;
    end.silenced |= direction != Direction::Read;
    peer.ended |= is_connection && direction != Direction::Read;
    peer.silenced |= is_connection && direction != Direction::Write;
  }

  fn close(&mut self, side: usize, input: &mut Input<'_>) {
    let is_connection = self.socket_type != SocketType::Dgram;
    let [end, peer] = self.sides(side);
    if !end.fds.is_empty() {
      drop(end.fds.swap_remove(below(input, end.fds.len())));
      if end.fds.is_empty() {
        peer.ended |= is_connection;
        end.queue.clear();
      }
    }
  }
}

fn pick<'a>(fds: &'a [OwnedFd], input: &mut Input<'_>) -> Option<&'a OwnedFd> {
  if fds.is_empty() { None } else { Some(&fds[below(input, fds.len())]) }
}

impl End {
  /// Removes the received message from the queue. Returns its expected descriptors; `None` for the end of the connection, which
  /// is reported as an empty message if the buffer is empty.
  fn received(&mut self, socket_type: SocketType, capacity: usize, bytes: &[u8], size: usize) -> Option<Vec<u8>> {
    if socket_type != SocketType::Stream {
      let Some(sent) = self.queue.pop_front() else {
        assert!(self.ended && size == 0 && capacity == 0);
        return None;
      };
      assert_eq!((size, bytes.len()), (sent.data.len(), sent.data.len().min(capacity)));
      assert!(sent.data.starts_with(bytes));
      return Some(sent.fds.unwrap_or_default());
    }
    assert_eq!(size, bytes.len());
    if bytes.is_empty() {
      assert!(capacity == 0 && (self.ended || !self.queue.is_empty()));
      // Descriptors that were sent with the first byte may precede it.
      return Some(self.queue.front_mut()?.fds.take().unwrap_or_default());
    }
    let mut came = Vec::new();
    let mut left = bytes;
    while !left.is_empty() {
      let sent = self.queue.front_mut().expect("bytes that were sent");
      let fds = sent.fds.take().unwrap_or_default();
      let length = left.len().min(sent.data.len());
      assert!(sent.data.starts_with(&left[..length]));
      sent.data.drain(..length);
      left = &left[length..];
      if sent.data.is_empty() {
        self.queue.pop_front();
      }
      if !fds.is_empty() {
        assert!(left.is_empty(), "nothing is merged behind descriptors");
        came = fds;
      }
    }
    Some(came)
  }

  /// Asserts that the descriptors are the expected ones, or are missing for a valid reason. Returns those to be closed.
  fn check(
    &self,
    probes: &Probes,
    received: Received,
    expected: Option<Vec<u8>>,
    max_fds: usize,
    room: Option<u64>,
  ) -> Vec<OwnedFd> {
    let Received { fds: control, credentials, pidfd, .. } = received;
    assert!(pidfd.is_none() || (self.told.pidfd && self.asks.pidfd));
    assert!(credentials.is_none() || (self.told.credentials && self.asks.credentials));
    let Some(expected) = expected else {
      assert!(
        matches!(control, ReceivedFds::Unexpected) || matches!(control, ReceivedFds::Complete(fds) if fds.is_empty())
      );
      return Vec::new();
    };
    let unexpected = self.told.pidfd && !self.asks.pidfd || self.told.credentials && !self.asks.credentials;
    let mut held: Vec<OwnedFd> = pidfd.into_iter().collect();
    match control {
      ReceivedFds::Complete(fds) => {
        assert!(!unexpected && expected.len() <= max_fds);
        assert!(room.is_none_or(|room| room > 0) || expected.is_empty());
        probes.check(&fds, &expected);
        held.extend(fds);
      }
      ReceivedFds::Truncated => assert!(room.is_some() && (self.told.pidfd || !expected.is_empty())),
      ReceivedFds::TooMany => assert!(expected.len() > max_fds && !unexpected),
      ReceivedFds::Unexpected => assert!(unexpected),
    }
    held
  }
}
