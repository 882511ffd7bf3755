//! Channels: one at each end of a pair, or one with a peer that violates the protocol.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use fdpass_core::{
  AncillaryOptions, Channel, ChannelError, ControlBuffer, Decoder, Errno, Format, Frame, FrameError, FrameKind, Header,
  Limits, Message, Outbox, SendOptions, Socket, SocketType, socketpair,
};
use nix::sys::socket::{setsockopt, sockopt};

use super::probes::{Input, Probes, below, byte, flag, open_descriptors, pattern, some, with_room_for};

const LIMITS: Limits = Limits { max_bytes: 200_000, max_fds: Header::MAX_FDS };

/// Maximum number of open descriptors at which more are sent.
const MAX_OPEN: usize = 6000;

const KINDS: [FrameKind; 6] =
  [FrameKind::Message, FrameKind::Request, FrameKind::Response, FrameKind::Error, FrameKind::Cancel, FrameKind::Close];

pub fn run(input: &[u8]) {
  let before = open_descriptors();
  let mut input = Input::new(input);
  let probes = Probes::new();
  if flag(&mut input) {
    both_ends(&mut input, &probes)
  } else {
    one_end(&mut input, &probes)
  }
  probes.assert_all_closed();
  assert_eq!(open_descriptors(), before);
}

/// A message, and which descriptors it has.
#[derive(Clone)]
struct Parcel {
  header: Header,
  data: Vec<u8>,
  fds: Vec<u8>,
}

impl Parcel {
  fn new(input: &mut Input<'_>) -> Self {
    let length = [0, 1, usize::from(byte(input)), 3000, 100_000][below(input, 5)];
    // Waiting messages hold duplicates, which must not exhaust the descriptor table.
    let mut fds = if open_descriptors() < MAX_OPEN { some(input) } else { Vec::new() };
    if fds.len() == 255 {
      fds = fds.repeat(usize::from(byte(input) % 16) + 1);
      fds.truncate(Header::MAX_FDS);
    }
    let kind = KINDS[below(input, 6)];
    let format = if flag(input) { Format::Json } else { Format::Bytes };
    let header = Header { kind, format, length: length as u32, fds: fds.len() as u32, id: u32::from(byte(input)) };
    Self { header, data: pattern(byte(input), length), fds }
  }

  /// Shortens the data to what a frame of its kind can have.
  fn within_limits(mut self) -> Self {
    self.data.truncate(match self.header.kind {
      FrameKind::Error | FrameKind::Close => Header::MAX_ERROR_BYTES,
      FrameKind::Cancel => 0,
      _ => usize::MAX,
    });
    self.header.length = self.data.len() as u32;
    self
  }

  fn message(&self) -> Message<'_> {
    let Header { kind, format, id, .. } = self.header;
    Message { kind, format, id, data: &self.data }
  }

  fn borrow<'a>(&self, probes: &'a Probes) -> Vec<BorrowedFd<'a>> {
    self.fds.iter().map(|&which| probes.borrow(which)).collect()
  }

  #[track_caller]
  fn check(&self, frame: &Frame) {
    let Header { kind, format, id, .. } = self.header;
    assert_eq!((frame.kind, frame.format, frame.id), (kind, format, id));
    assert!(frame.data == self.data);
  }
}

/// One end: a channel, or its two halves.
enum End {
  Whole(Channel),
  Halves { fd: OwnedFd, outbox: Outbox, decoder: Decoder, control: Box<ControlBuffer> },
}

impl End {
  fn new(fd: OwnedFd, whole: bool) -> Self {
    if whole {
      return Self::Whole(Channel::new(fd, LIMITS).unwrap());
    }
    Self::Halves { fd, outbox: Outbox::default(), decoder: Decoder::new(LIMITS), control: Box::default() }
  }

  fn waiting(&self) -> usize {
    match self {
      Self::Whole(channel) => channel.waiting(),
      Self::Halves { outbox, .. } => outbox.len(),
    }
  }

  /// Sends a message; false if a part of it waits.
  fn send(&mut self, parcel: &Parcel, probes: &Probes) -> nix::Result<bool> {
    match self {
      Self::Whole(channel) => channel.try_send(parcel.message(), &parcel.borrow(probes)),
      Self::Halves { fd, outbox, .. } => {
        Ok(outbox.send(stream(fd), parcel.header, &parcel.data, &parcel.borrow(probes))?.is_none())
      }
    }
  }

  fn flush(&mut self) -> nix::Result<bool> {
    match self {
      Self::Whole(channel) => channel.flush(),
      Self::Halves { fd, outbox, .. } => {
        let before = outbox.len();
        let (gone, stopped) = outbox.flush(stream(fd));
        match stopped {
          None => assert_eq!(gone, before),
          Some(Errno::EAGAIN) => assert_eq!(gone, before - outbox.len()),
          Some(errno) => return Err(errno),
        }
        Ok(stopped.is_none())
      }
    }
  }

  fn receive(&mut self) -> Result<Option<Frame>, ChannelError> {
    let (fd, decoder, control) = match self {
      Self::Whole(channel) => return channel.try_receive(),
      Self::Halves { fd, decoder, control, .. } => (fd, decoder, control),
    };
    loop {
      if let Some(arrived) = decoder.next_frame()? {
        let (Header { kind, format, id, .. }, lost) = (arrived.header, arrived.lost);
        let frame = Frame { kind, format, id, data: arrived.data.to_vec(), fds: arrived.fds };
        return if lost { Err(ChannelError::DescriptorsLost(frame)) } else { Ok(Some(frame)) };
      }
      if decoder.has_ended() {
        return Ok(None);
      }
      decoder.receive(stream(fd), control)?;
    }
  }
}

fn stream(fd: &OwnedFd) -> Socket<'_> {
  Socket::from_parts(fd.as_fd(), SocketType::Stream, AncillaryOptions::default())
}

/// State of one direction.
#[derive(Default)]
struct Way {
  /// Messages that were accepted and have not arrived.
  parcels: VecDeque<Parcel>,
  /// A send met a full descriptor table, possibly within a frame, which is the last one then.
  perhaps_cut: bool,
}

struct Side {
  end: Option<End>,
  sent: Way,
}

/// Checks that every message arrives once, in order, with its descriptors, unless an end was closed.
fn both_ends(input: &mut Input<'_>, probes: &Probes) {
  let (a, b) = socketpair(SocketType::Stream).unwrap();
  let mut sides = [a, b].map(|fd| {
    if flag(input) {
      setsockopt(&fd, sockopt::SndBuf, &1).unwrap();
    }
    Side { end: Some(End::new(fd, flag(input))), sent: Way::default() }
  });
  for _ in 0..100 {
    if input.is_empty() {
      break;
    }
    if flag(input) {
      sides.reverse();
    }
    step(&mut sides, input, probes);
  }
  // Waiting messages are sent while both ends are open.
  let mut idle = 0;
  while sides.iter().any(|side| !side.sent.parcels.is_empty() || side.end.as_ref().is_some_and(|end| end.waiting() > 0))
  {
    if sides.iter().any(|side| side.end.is_none() || side.sent.perhaps_cut) {
      break;
    }
    flush(&mut sides);
    sides.reverse();
    idle = if arrive(&mut sides, None, probes) { 0 } else { idle + 1 };
    assert!(idle < 500, "a frame goes with so many calls");
  }
}

/// Runs one operation of the first side.
fn step(sides: &mut [Side; 2], input: &mut Input<'_>, probes: &Probes) {
  let [side, other] = &mut *sides;
  let what = byte(input) % 16;
  let Some(end) = &mut side.end else { return };
  match what {
    0..6 => {
      let parcel = Parcel::new(input).within_limits();
      let before = end.waiting();
      let result = match byte(input) {
        room @ 0..16 => with_room_for(u64::from(room), || end.send(&parcel, probes)),
        _ => end.send(&parcel, probes),
      };
      match result {
        Ok(whole) => {
          assert_eq!(end.waiting(), before + usize::from(!whole));
          side.sent.parcels.push_back(parcel);
        }
        Err(Errno::EMFILE) => side.sent.perhaps_cut = true,
        Err(Errno::EPIPE | Errno::ECONNRESET) => assert!(other.end.is_none() || side.sent.perhaps_cut),
        Err(Errno::ETOOMANYREFS) => {} // for users other than root
        Err(errno) => panic!("{errno}"),
      }
    }
    6 => {
      if let End::Halves { outbox, .. } = end {
        let parcel = Parcel::new(input).within_limits();
        let header = Header { fds: 0, ..parcel.header };
        outbox.push(header, &parcel.data).unwrap();
        side.sent.parcels.push_back(Parcel { header, fds: Vec::new(), ..parcel });
      }
    }
    7 => {
      if let End::Halves { outbox, .. } = end {
        let (before, index) = (outbox.len(), usize::from(byte(input) % 8));
        // The waiting messages are the last accepted ones, unless the peer has closed.
        let first = side.sent.parcels.len().checked_sub(before);
        if outbox.cancel(index) {
          assert_eq!(outbox.len(), before - 1);
          side.sent.parcels.remove(first.expect("those that wait") + index);
        } else {
          assert!(index == 0 || index >= before);
        }
      }
    }
    8..10 => flush(sides),
    10..15 => {
      let room = Some(byte(input)).filter(|room| *room < 32).map(|room| u64::from(room % 8));
      arrive(sides, room, probes);
    }
    _ => {
      if byte(input).is_multiple_of(4) {
        side.end = None;
      }
    }
  }
}

fn flush(sides: &mut [Side; 2]) {
  let [side, other] = sides;
  let Some(end) = &mut side.end else { return };
  let waiting = end.waiting();
  match end.flush() {
    Ok(nothing) => assert_eq!(nothing, end.waiting() == 0),
    Err(Errno::EPIPE | Errno::ECONNRESET) => {
      assert!(other.end.is_none() || side.sent.perhaps_cut);
      assert_eq!(end.waiting(), 0, "it was dropped");
      // What had gone before a cut frame arrives, unless the peer has closed.
      let gone = if other.end.is_some() { side.sent.parcels.len().saturating_sub(waiting) } else { 0 };
      side.sent.parcels.truncate(gone);
    }
    Err(Errno::ETOOMANYREFS) => {}
    Err(errno) => panic!("{errno}"),
  }
}

/// Receives everything that is queued for the first side; true if there was anything.
fn arrive(sides: &mut [Side; 2], room: Option<u64>, probes: &Probes) -> bool {
  let [side, other] = sides;
  let Some(end) = &mut side.end else { return false };
  let mut some = false;
  loop {
    let result = match room {
      None => end.receive(),
      Some(room) => with_room_for(room, || end.receive()),
    };
    match result {
      Ok(Some(frame)) => {
        let parcel = other.sent.parcels.pop_front().expect("a message that was sent");
        parcel.check(&frame);
        probes.check(&frame.fds, &parcel.fds);
      }
      Err(ChannelError::DescriptorsLost(frame)) => {
        let parcel = other.sent.parcels.pop_front().expect("a message that was sent");
        parcel.check(&frame);
        assert!(frame.fds.is_empty() && !parcel.fds.is_empty());
      }
      Err(ChannelError::System(Errno::EAGAIN)) => {
        assert!(other.end.is_some());
        return some;
      }
      Ok(None) => {
        assert!(other.end.is_none() || other.sent.perhaps_cut);
        return some;
      }
      Err(ChannelError::System(Errno::ECONNRESET)) => assert!(other.end.is_none()),
      Err(ChannelError::Frame(FrameError::EndedInside)) => {
        assert!(other.end.is_none() || other.sent.perhaps_cut);
        return some;
      }
      Err(error) => panic!("{error}"),
    }
    some = true;
  }
}

/// Lets the peer write any bytes, and descriptors with any of them. The messages that arrive are those that were sent.
fn one_end(input: &mut Input<'_>, probes: &Probes) {
  let (raw, fd) = socketpair(SocketType::Stream).unwrap();
  let limits = Limits { max_bytes: [100, 5000, 200_000][below(input, 3)], max_fds: [0, 2, 1000][below(input, 3)] };
  let mut channel = Channel::new(fd, limits).unwrap();
  let mut writer = Writer { raw: Some(raw), sent: Vec::new(), fds: Vec::new(), keeps_to_it: true };
  let mut reader = Reader { at: 0, fds: 0, error: None };
  for _ in 0..100 {
    if input.is_empty() {
      break;
    }
    match byte(input) % 8 {
      0..3 => writer.write_frame(input, limits, probes),
      3 => writer.write_something(input, probes),
      4..6 => {
        let room = Some(byte(input)).filter(|room| *room < 16).map(|room| u64::from(room % 4));
        reader.read(&mut channel, &writer, room, probes);
      }
      6 => {
        let parcel = Parcel::new(input);
        match channel.try_send(parcel.message(), &parcel.borrow(probes)) {
          Ok(_) | Err(Errno::ETOOMANYREFS) => {}
          Err(errno) => assert!(writer.raw.is_none(), "{errno}"),
        }
      }
      _ if byte(input).is_multiple_of(8) => writer.raw = None,
      _ => {}
    }
  }
  writer.raw = None;
  reader.read(&mut channel, &writer, None, probes);
}

struct Writer {
  raw: Option<OwnedFd>,
  /// All bytes that the kernel has accepted, and all descriptors.
  sent: Vec<u8>,
  fds: Vec<u8>,
  /// Everything so far was frames within the limits, with their descriptors.
  keeps_to_it: bool,
}

impl Writer {
  fn write(&mut self, bytes: &[u8], which: &[u8], probes: &Probes) -> usize {
    let Some(raw) = &self.raw else { return 0 };
    let fds: Vec<_> = which.iter().map(|&which| probes.borrow(which)).collect();
    match stream(raw).send(bytes, &fds, SendOptions::default()) {
      Ok(sent) => {
        self.sent.extend(&bytes[..sent]);
        self.fds.extend(which);
        sent
      }
      Err(Errno::EAGAIN | Errno::EINVAL | Errno::ETOOMANYREFS) => 0,
      Err(errno) => panic!("{errno}"),
    }
  }

  /// Writes bytes in as many calls as the input chooses.
  fn write_frame(&mut self, input: &mut Input<'_>, limits: Limits, probes: &Probes) {
    let mut parcel = Parcel::new(input);
    parcel.fds.truncate(usize::from(byte(input)) * 2);
    match byte(input) {
      0..8 => parcel.header.fds += 1,
      8..16 => parcel.header.length = input.arbitrary().unwrap_or(0),
      _ => parcel.header.fds = parcel.fds.len() as u32,
    }
    let Parcel { header, data, mut fds } = parcel;
    let limits = match header.kind {
      FrameKind::Error | FrameKind::Close => Limits { max_bytes: Header::MAX_ERROR_BYTES, ..limits },
      FrameKind::Cancel => Limits { max_bytes: 0, ..limits },
      _ => limits,
    };
    let right = header.length as usize == data.len() && header.fds as usize == fds.len();
    self.keeps_to_it &= right && data.len() <= limits.max_bytes && fds.len() <= limits.max_fds;
    let bytes = [&header.encode()[..], &data].concat();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
      let length = rest.len().min([1, 16, usize::from(byte(input)) + 1, usize::MAX][below(input, 4)]);
      let last = length == rest.len();
      let count = if last { fds.len() } else { fds.len().min(usize::from(byte(input) % 4)) };
      let sent = self.write(&rest[..length], &fds[..count], probes);
      if sent == 0 {
        self.keeps_to_it = false; // the rest of the frame is missing
        return;
      }
      fds.drain(..count);
      rest = &rest[sent..];
    }
  }

  fn write_something(&mut self, input: &mut Input<'_>, probes: &Probes) {
    let length = usize::from(byte(input));
    let mut bytes: Vec<u8> = (0..length).map(|_| byte(input)).collect();
    if flag(input) {
      // Two frames with one call, and descriptors of either.
      let header = Header { kind: FrameKind::Message, format: Format::Bytes, length: 1, fds: 1, id: 0 };
      bytes = [&header.encode()[..], b"1", &header.encode(), b"2"].concat();
      bytes.truncate(bytes.len() - usize::from(byte(input) % 20));
    }
    self.keeps_to_it = false;
    self.write(&bytes, &some(input), probes);
  }
}

struct Reader {
  /// Offset of the next frame in the sent bytes.
  at: usize,
  /// How many of the sent descriptors were received or skipped.
  fds: usize,
  error: Option<FrameError>,
}

impl Reader {
  fn read(&mut self, channel: &mut Channel, writer: &Writer, room: Option<u64>, probes: &Probes) {
    for _ in 0..1000 {
      let result = match room {
        None => channel.try_receive(),
        Some(room) => with_room_for(room, || channel.try_receive()),
      };
      match result {
        Ok(Some(frame)) => self.arrived(frame, false, writer, probes),
        Err(ChannelError::DescriptorsLost(frame)) => self.arrived(frame, true, writer, probes),
        Ok(None) => {
          assert!(writer.raw.is_none() && self.error.is_none() && self.at == writer.sent.len());
          return;
        }
        Err(ChannelError::System(Errno::EAGAIN)) => {
          assert!(writer.raw.is_some() && self.error.is_none());
          return;
        }
        Err(ChannelError::System(Errno::ECONNRESET)) => assert!(writer.raw.is_none()),
        Err(ChannelError::System(errno)) => panic!("{errno}"),
        Err(ChannelError::Frame(error)) => {
          assert!(!writer.keeps_to_it, "{error}");
          assert_eq!(*self.error.get_or_insert(error), error, "an error stays");
          return;
        }
      }
    }
    panic!("more frames than were sent");
  }

  fn arrived(&mut self, frame: Frame, lost: bool, writer: &Writer, probes: &Probes) {
    assert!(self.error.is_none());
    let rest = &writer.sent[self.at..];
    let header = Header::decode(rest.first_chunk().expect("a header that was sent")).expect("a header");
    let data = &rest[Header::SIZE..][..header.length as usize];
    self.at += Header::SIZE + data.len();
    Parcel { header, data: data.to_vec(), fds: Vec::new() }.check(&frame);
    assert_eq!(frame.fds.len(), if lost { 0 } else { header.fds as usize });
    // In the order in which they were sent, possibly with gaps.
    for fd in &frame.fds {
      let which = probes.which(fd);
      let found = writer.fds[self.fds..].iter().position(|&sent| sent == which).expect("one that was sent");
      self.fds += found + 1;
    }
    if writer.keeps_to_it && !lost {
      assert_eq!(frame.fds.len(), header.fds as usize);
    }
  }
}
