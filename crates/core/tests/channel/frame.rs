//! Decoding frames: however the kernel merges and splits them, each has its own descriptors.
#![cfg(any(target_os = "linux", target_os = "android"))]

#[path = "../fixtures/mod.rs"]
mod fixtures;

use std::os::fd::{AsFd, OwnedFd};

use fdpass_core::{
  ControlBuffer, Decoder, DescriptorBatch, Errno, Format, FrameError, FrameKind, Header, Limits, MAX_SENT_FDS, Outbox,
  SocketType,
};
use fixtures::*;

const KINDS: [FrameKind; 6] =
  [FrameKind::Message, FrameKind::Request, FrameKind::Response, FrameKind::Error, FrameKind::Cancel, FrameKind::Close];
const MESSAGE: Header = Header { kind: FrameKind::Message, format: Format::Bytes, length: 0, fds: 0, id: 0 };
const ALL: Limits = Limits { max_bytes: 1 << 20, max_fds: Header::MAX_FDS };

/// Returns a frame that announces this many descriptors.
fn frame(data: &[u8], fds: u32) -> Vec<u8> {
  [&Header { length: data.len() as u32, fds, ..MESSAGE }.encode()[..], data].concat()
}

/// Returns the data and the number of descriptors of each complete frame, and the error behind them.
fn taken(decoder: &mut Decoder) -> (Vec<(Vec<u8>, usize)>, Option<FrameError>) {
  let mut frames = Vec::new();
  loop {
    match decoder.next_frame() {
      Ok(Some(frame)) => frames.push((frame.data.to_vec(), if frame.lost { usize::MAX } else { frame.fds.len() })),
      Ok(None) => return (frames, None),
      Err(error) => return (frames, Some(error)),
    }
  }
}

/// Adds bytes and descriptors to a decoder, as one receive would.
fn fill(decoder: &mut Decoder, mut bytes: &[u8], fds: Vec<OwnedFd>) {
  let mut batch = Some(fds);
  loop {
    let mut space = decoder.read_buffer().expect("frames have to be taken out first");
    let length = space.len().min(bytes.len());
    space[..length].copy_from_slice(&bytes[..length]);
    bytes = &bytes[length..];
    // The descriptors were sent with the last byte.
    let fds = if bytes.is_empty() { batch.take().unwrap_or_default() } else { Vec::new() };
    space.commit(length, DescriptorBatch::Complete(fds));
    if bytes.is_empty() || decoder.has_next() {
      assert!(bytes.is_empty(), "frames have to be taken out first");
      return;
    }
  }
}

/// Adds a few bytes to a decoder, as one receive would.
fn receive_part(decoder: &mut Decoder, bytes: &[u8], batch: DescriptorBatch) {
  let mut space = decoder.read_buffer().unwrap();
  space[..bytes.len()].copy_from_slice(bytes);
  space.commit(bytes.len(), batch);
}

#[test]
fn a_header_is_what_it_was_before_it_was_encoded() {
  for kind in KINDS {
    for format in [Format::Bytes, Format::Json] {
      for (length, fds, id) in [(0, 0, 0), (1, 2, 3), (u32::MAX, u32::MAX - 1, u32::MAX - 2)] {
        let header = Header { kind, format, length, fds, id };
        assert_eq!(Header::decode(&header.encode()), Some(header));
      }
    }
  }
  let header = Header { kind: FrameKind::Error, format: Format::Json, length: 0x0102_0304, fds: 0x0506_0708, id: 9 };
  assert_eq!(header.encode(), [0xfd, 1, 3, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 9]);
}

#[test]
fn each_header_that_is_none_is_refused_and_what_came_before_it_arrives() {
  let valid = frame(b"", 0);
  for place in 0..4 {
    for value in 0..=u8::MAX {
      let mut bytes = valid.clone();
      bytes[place] = value;
      let accepted = value < [0, 0, KINDS.len() as u8, 2][place] || value == valid[place];
      let mut decoder = Decoder::new(ALL);
      fill(&mut decoder, &[&valid[..], &bytes].concat(), Vec::new());
      let (frames, error) = taken(&mut decoder);
      assert_eq!(frames.len(), 1 + usize::from(accepted), "byte {place} is {value}");
      assert_eq!(error, (!accepted).then_some(FrameError::NotAFrame));
    }
  }
}

#[test]
fn the_first_byte_tells_what_is_no_frame() {
  let mut decoder = Decoder::new(ALL);
  fill(&mut decoder, b"G", Vec::new());
  assert_eq!(taken(&mut decoder), (vec![], Some(FrameError::NotAFrame)));
}

#[test]
fn frames_are_the_same_however_the_bytes_are_split() {
  let data: [&[u8]; 5] = [b"first", b"", b"third with more", b"", b"x"];
  let bytes = data.iter().flat_map(|data| frame(data, 0)).collect::<Vec<u8>>();
  for size in 1..=bytes.len() {
    let mut decoder = Decoder::new(ALL);
    let mut frames = Vec::new();
    for part in bytes.chunks(size) {
      fill(&mut decoder, part, Vec::new());
      let (more, error) = taken(&mut decoder);
      assert_eq!(error, None);
      frames.extend(more);
    }
    decoder.end_of_stream();
    assert_eq!(frames, data.map(|data| (data.to_vec(), 0)), "{size} bytes at a time");
    assert_eq!(taken(&mut decoder), (vec![], None));
  }
}

#[test]
fn descriptors_belong_to_the_frame_of_the_last_byte_wherever_the_bytes_are_split() {
  let (plain, carrying) = (frame(b"plain", 0), frame(b"with", 1));
  // A receive ends with the bytes that were sent with descriptors, here the first byte of the frame.
  for sent in 1..=carrying.len() {
    let first = [&plain[..], &plain, &carrying[..sent]].concat();
    for size in 1..=first.len() {
      let mut decoder = Decoder::new(ALL);
      let mut frames = Vec::new();
      let last = first.chunks(size).count() - 1;
      let (fd, probe) = probe();
      let mut fd = Some(fd);
      for (index, part) in first.chunks(size).enumerate() {
        let fds = if index == last { fd.take().into_iter().collect() } else { Vec::new() };
        fill(&mut decoder, part, fds);
        frames.extend(taken(&mut decoder).0);
      }
      fill(&mut decoder, &[&carrying[sent..], &plain].concat(), Vec::new());
      let (more, error) = taken(&mut decoder);
      assert_eq!(error, None);
      frames.extend(more);
      let expected = [("plain", 0), ("plain", 0), ("with", 1), ("plain", 0)];
      assert_eq!(frames, expected.map(|(data, fds)| (data.into(), fds)), "{sent} bytes, {size} at a time");
      assert!(!probe.is_open());
    }
  }
}

#[test]
fn the_kernel_merges_plain_frames_with_the_one_that_has_descriptors_and_each_keeps_its_own() {
  let (a, b) = pair(SocketType::Stream);
  let (fd, probe) = probe();
  let mut outbox = Outbox::default();
  for round in 0..3 {
    for data in [&b"AA"[..], b"BB"] {
      assert_eq!(outbox.send(a.socket(), MESSAGE, data, &[]), Ok(None), "{round}");
    }
    assert_eq!(outbox.send(a.socket(), MESSAGE, b"CC", &[fd.as_fd()]), Ok(None));
  }
  assert_eq!(outbox.send(a.socket(), MESSAGE, b"DD", &[]), Ok(None));
  drop(fd);
  let mut decoder = Decoder::new(ALL);
  let mut receives = Vec::new();
  while decoder.receive(b.socket(), &mut ControlBuffer::default()).is_ok() {
    receives.push(taken(&mut decoder).0);
  }
  assert!(receives[0].len() > 1, "nothing was merged: {receives:?}");
  let round = [(b"AA".to_vec(), 0), (b"BB".to_vec(), 0), (b"CC".to_vec(), 1)];
  let expected = [&round[..], &round, &round, &[(b"DD".to_vec(), 0)]].concat();
  assert_eq!(receives.concat(), expected);
  assert!(!probe.is_open());
}

#[test]
fn every_number_of_descriptors_arrives_in_order_with_and_without_data() {
  raise_descriptor_limit();
  for count in [0, 1, 2, MAX_SENT_FDS, MAX_SENT_FDS + 1, 600, Header::MAX_FDS] {
    for data in [&b""[..], b"data"] {
      let (a, b) = pair(SocketType::Stream);
      let files: Vec<OwnedFd> = (0..3).map(|index| file_holding(&index.to_string()).into()).collect();
      let fds: Vec<_> = (0..count).map(|index| files[index % 3].as_fd()).collect();
      assert_eq!(Outbox::default().send(a.socket(), MESSAGE, data, &fds), Ok(None));
      let mut decoder = Decoder::new(ALL);
      while !decoder.has_next() {
        decoder.receive(b.socket(), &mut ControlBuffer::default()).unwrap();
      }
      let arrived = decoder.next_frame().unwrap().unwrap();
      assert_eq!((arrived.data, arrived.fds.len(), arrived.header.fds as usize), (data, count, count));
      for (index, fd) in arrived.fds.into_iter().enumerate() {
        assert_eq!(text_of(fd), (index % 3).to_string());
      }
    }
  }
  let (a, b) = pair(SocketType::Stream);
  let file = file_holding("");
  let result = Outbox::default().send(a.socket(), MESSAGE, b"", &vec![file.as_fd(); Header::MAX_FDS + 1]);
  assert_eq!(result, Err(Errno::EINVAL));
  b.assert_nothing_to_receive();
}

#[test]
fn a_frame_that_lies_about_its_descriptors_ends_it_all_and_nothing_stays_open() {
  let wrong = |announced, came| Some(FrameError::WrongDescriptors { announced, arrived: came });
  for (announced, came) in [(0, 1), (1, 0), (1, 2), (2, 1), (253, 252), (600, 253)] {
    let (fds, probes) = probes(came);
    let mut decoder = Decoder::new(ALL);
    let bytes = [frame(b"before", 0), frame(b"lies", announced)].concat();
    fill(&mut decoder, &bytes, fds);
    assert_all_closed(&probes);
    assert_eq!(taken(&mut decoder), (vec![(b"before".to_vec(), 0)], wrong(announced, came as u32)));
    assert_eq!(taken(&mut decoder), (vec![], wrong(announced, came as u32)));
  }
}

#[test]
fn a_lie_in_the_middle_is_found_where_the_last_frame_has_its_descriptors() {
  let (fds, probes) = probes(1);
  let mut decoder = Decoder::new(ALL);
  let bytes = [frame(b"before", 0), frame(b"lies", 1), frame(b"true", 1)].concat();
  fill(&mut decoder, &bytes, fds);
  let error = FrameError::WrongDescriptors { announced: 1, arrived: 0 };
  assert_eq!(taken(&mut decoder), (vec![(b"before".to_vec(), 0)], Some(error)));
  assert_all_closed(&probes);
}

#[test]
fn a_lie_before_what_is_no_frame_is_told_first() {
  let mut decoder = Decoder::new(ALL);
  let bytes = [frame(b"before", 0), frame(b"lies", 1), frame(b"behind", 0), b"garbage".to_vec()].concat();
  let (fds, probes) = probes(1);
  fill(&mut decoder, &bytes, fds);
  let error = FrameError::WrongDescriptors { announced: 1, arrived: 0 };
  assert_eq!(taken(&mut decoder), (vec![(b"before".to_vec(), 0)], Some(error)));
  assert_all_closed(&probes);
}

#[test]
fn too_many_descriptors_are_refused_before_the_frame_is_whole_or_says_anything() {
  for (part, announced) in [(1, 3), (16, 1), (17, 1)] {
    let (fds, probes) = probes(3);
    let mut decoder = Decoder::new(Limits { max_bytes: 100, max_fds: 2 });
    fill(&mut decoder, &frame(b"data", announced)[..part], fds);
    assert!(taken(&mut decoder).1.is_some(), "{part} bytes of a frame with {announced}");
    assert_all_closed(&probes);
  }
}

#[test]
fn limits_hold_for_what_is_announced_and_take_what_is_no_more() {
  let limits = Limits { max_bytes: 10, max_fds: 2 };
  for (length, fds, error) in [
    (10, 2, None),
    (11, 0, Some(FrameError::TooLong(11))),
    (u32::MAX, 0, Some(FrameError::TooLong(u32::MAX))),
    (0, 3, Some(FrameError::TooManyDescriptors(3))),
    (0, u32::MAX, Some(FrameError::TooManyDescriptors(u32::MAX))),
  ] {
    let mut decoder = Decoder::new(limits);
    fill(&mut decoder, &Header { length, fds, ..MESSAGE }.encode(), Vec::new());
    assert_eq!(taken(&mut decoder), (vec![], error));
  }
  let mut decoder = Decoder::new(Limits { max_bytes: 10, max_fds: usize::MAX });
  let fds = Header::MAX_FDS as u32 + 1;
  fill(&mut decoder, &Header { fds, ..MESSAGE }.encode(), Vec::new());
  assert_eq!(taken(&mut decoder).1, Some(FrameError::TooManyDescriptors(fds)));
}

#[test]
fn each_kind_of_frame_has_limits_of_its_own_s84_s146() {
  let most = Header::MAX_ERROR_BYTES as u32;
  for kind in KINDS {
    for max_bytes in [0, 1 << 20] {
      for (length, fds) in [(0, 0), (0, 1), (1, 0), (most, 0), (most + 1, 0)] {
        let mut decoder = Decoder::new(Limits { max_bytes, max_fds: 1 });
        fill(&mut decoder, &Header { kind, length, fds, ..MESSAGE }.encode(), Vec::new());
        let error = match kind {
          _ if fds > 0 => Some(FrameError::WrongDescriptors { announced: 1, arrived: 0 }), // it is missing
          FrameKind::Error | FrameKind::Close => (length > most).then_some(FrameError::InvalidControlFrame),
          FrameKind::Cancel => (length > 0).then_some(FrameError::InvalidControlFrame),
          _ => (length as usize > max_bytes).then_some(FrameError::TooLong(length)),
        };
        assert_eq!(taken(&mut decoder).1, error, "{kind:?} {length} {fds}");
      }
    }
  }
}

#[test]
fn one_receive_of_a_large_frame_is_bounded_s147() {
  let mut decoder = Decoder::new(Limits { max_bytes: u32::MAX as usize, max_fds: 0 });
  let length = 8 << 20;
  let mut rest = frame(&vec![7; length], 0);
  while !rest.is_empty() {
    let mut space = decoder.read_buffer().unwrap();
    assert!(space.len() <= 1 << 20);
    let part = space.len().min(rest.len());
    space[..part].copy_from_slice(&rest[..part]);
    space.commit(part, DescriptorBatch::Complete(Vec::new()));
    rest.drain(..part);
  }
  assert_eq!(taken(&mut decoder), (vec![(vec![7; length], 0)], None));
}

#[test]
fn a_message_above_what_is_free_is_recognized_before_it_is_whole_s148() {
  let free = |max_bytes, max_fds| Limits { max_bytes, max_fds };
  let mut decoder = Decoder::new(ALL);
  assert!(!decoder.exceeds(free(0, 0)));
  let bytes = frame(b"data", 2);
  let [(one, _), (two, _)] = [probe(), probe()];
  receive_part(&mut decoder, &bytes[..1], DescriptorBatch::Complete(vec![one]));
  assert!(decoder.exceeds(free(100, 0)));
  assert!(!decoder.exceeds(free(0, 1)));
  receive_part(&mut decoder, &bytes[1..17], DescriptorBatch::Complete(vec![two]));
  for whole in [false, true] {
    assert!(decoder.exceeds(free(100, 1)), "{whole}");
    assert!(decoder.exceeds(free(3, 2)), "{whole}");
    assert!(!decoder.exceeds(free(4, 2)), "{whole}");
    if !whole {
      receive_part(&mut decoder, &bytes[17..], DescriptorBatch::Complete(Vec::new()));
    }
  }
  assert_eq!(taken(&mut decoder), (vec![(b"data".to_vec(), 2)], None));
  fill(&mut decoder, &Header { kind: FrameKind::Response, length: 9, ..MESSAGE }.encode(), Vec::new());
  assert!(!decoder.exceeds(free(0, 0)));
}

#[test]
fn an_announced_length_takes_no_memory_before_it_comes() {
  let mut decoder = Decoder::new(Limits { max_bytes: u32::MAX as usize, max_fds: 0 });
  fill(&mut decoder, &Header { length: u32::MAX, ..MESSAGE }.encode(), Vec::new());
  for _ in 0..20 {
    assert!(decoder.read_buffer().unwrap().len() < 200_000);
    fill(&mut decoder, &[0; 1000], Vec::new());
  }
}

#[test]
fn a_large_frame_takes_exactly_its_own_bytes() {
  let data: Vec<u8> = (0..1_000_000).map(|index| (index % 251) as u8).collect();
  let (a, b) = pair(SocketType::Stream);
  let (first, second) = (frame(&data, 0), frame(b"next", 0));
  let mut rest = [&first[..], &second].concat();
  let mut decoder = Decoder::new(ALL);
  let mut frames = Vec::new();
  while frames.len() < 2 {
    if let Ok(sent) = a.send(&rest, &[]) {
      rest.drain(..sent);
    }
    match decoder.receive(b.socket(), &mut ControlBuffer::default()) {
      Ok(_) => frames.extend(taken(&mut decoder).0),
      Err(errno) => assert_eq!(errno, Errno::EAGAIN),
    }
  }
  assert_eq!(frames, [(data, 0), (b"next".to_vec(), 0)]);
}

#[test]
fn an_end_inside_of_a_frame_is_an_error_and_closes_what_came() {
  let whole = frame(b"data", 1);
  for length in 0..whole.len() {
    let (a, b) = pair(SocketType::Stream);
    let (fd, probe) = probe();
    a.send(&frame(b"before", 0), &[]).unwrap();
    if length > 0 {
      a.send(&whole[..length], &[fd.as_fd()]).unwrap();
    }
    drop((a, fd));
    let mut decoder = Decoder::new(ALL);
    let mut frames = Vec::new();
    while !decoder.has_ended() {
      decoder.receive(b.socket(), &mut ControlBuffer::default()).unwrap();
      frames.extend(taken(&mut decoder).0);
    }
    assert_eq!(frames, [(b"before".to_vec(), 0)]);
    assert_eq!(taken(&mut decoder).1, (length > 0).then_some(FrameError::EndedInside));
    assert!(!probe.is_open(), "{length} bytes");
  }
}

#[test]
fn lost_descriptors_take_only_their_own_frame() {
  let bytes = [frame(b"plain", 0), frame(b"lost", 3)].concat();
  for split in [bytes.len(), bytes.len() - 2] {
    let mut decoder = Decoder::new(ALL);
    receive_part(&mut decoder, &bytes[..split], DescriptorBatch::Lost);
    let mut frames = taken(&mut decoder).0;
    fill(&mut decoder, &[&bytes[split..], &frame(b"next", 0)].concat(), Vec::new());
    frames.extend(taken(&mut decoder).0);
    assert_eq!(frames, [(b"plain".to_vec(), 0), (b"lost".to_vec(), usize::MAX), (b"next".to_vec(), 0)]);
  }
}

#[test]
fn descriptors_that_come_after_some_of_the_same_frame_were_lost_are_closed() {
  for lost in 0..3 {
    let bytes = frame(b"data", 3);
    let mut decoder = Decoder::new(ALL);
    let mut probes = Vec::new();
    for index in 0..3 {
      let part = if index == 2 { &bytes[2..] } else { &bytes[index..=index] };
      let (fd, probe) = probe();
      probes.push(probe);
      let batch = if index == lost { DescriptorBatch::Lost } else { DescriptorBatch::Complete(vec![fd]) };
      receive_part(&mut decoder, part, batch);
    }
    assert_all_closed(&probes);
    assert_eq!(taken(&mut decoder), (vec![(b"data".to_vec(), usize::MAX)], None));
  }
}

#[test]
fn a_decoder_that_is_dropped_closes_what_it_holds() {
  let (fds, probes) = probes(4);
  let mut fds = fds.into_iter();
  let mut decoder = Decoder::new(ALL);
  let whole = frame(b"whole", 2);
  fill(&mut decoder, &whole, fds.by_ref().take(2).collect());
  assert_eq!(decoder.peek_header().map(|header| header.fds), Some(2));
  assert!(probes.iter().all(Probe::is_open));
  drop((decoder, fds));
  assert_all_closed(&probes);
}
