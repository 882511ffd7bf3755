//! The hot calls on channels. A channel's frames, received and queued for sending, belong to its socket's entry in the
//! table.

use fdpass_core::{BorrowedFrame, Decoder, Errno, FrameError, Header, Limits};

use crate::abi::CallResult;
use crate::codes::{AGAIN, BROKEN, BUSY, END, FULL, FrameFormat, FrameKind, ProtocolViolation, code};
use crate::environment::State;
use crate::memory::{Fields, FlushField, FrameField, Memory, ViolationField};
use crate::table::Table;

/// Returns the header of a frame to send. The outbox fills in its counts.
fn header(kind: i32, format: i32, id: i32) -> Result<Header, Errno> {
  let (kind, format) = (FrameKind::from_number(kind)?.into(), FrameFormat::from_number(format)?.into());
  Ok(Header { kind, format, length: 0, fds: 0, id: id as u32 })
}

pub(super) fn send(state: &mut State, [socket, kind, format, id, length, count]: [i32; 6]) -> CallResult {
  let State { table, memory: Memory { bytes, fds, .. }, .. } = state;
  send_frame(table, socket, header(kind, format, id)?, bytes.first(length)?, fds.first(count)?)
}

pub(super) fn push(state: &mut State, [socket, kind, format, id, length]: [i32; 5]) -> CallResult {
  let State { table, memory: Memory { bytes, .. }, .. } = state;
  table.channel(socket)?.1.outbox.push(header(kind, format, id)?, bytes.first(length)?)?;
  Ok(0)
}

pub(super) fn send_from(state: &mut State, data: &mut [u8], [socket, kind, format, id, count]: [i32; 5]) -> CallResult {
  let State { table, memory: Memory { fds, .. }, .. } = state;
  send_frame(table, socket, header(kind, format, id)?, data, fds.first(count)?)
}

fn send_frame(table: &mut Table, socket: i32, header: Header, data: &[u8], fds: &[i32]) -> CallResult {
  let fds = table.borrowed(fds)?;
  let (socket, framing) = table.channel(socket)?;
  Ok(match framing.outbox.send(socket, header, data, fds)? {
    None => 0,
    Some(errno) => waiting(errno),
  })
}

/// Returns the code of an error that left frames queued: `AGAIN` or `BUSY`.
fn waiting(errno: Errno) -> i32 {
  match code(errno) {
    AGAIN => AGAIN,
    _ => BUSY,
  }
}

pub(super) fn flush(state: &mut State, [socket]: [i32; 1]) -> CallResult {
  let State { table, memory: Memory { outcome, .. }, .. } = state;
  let (socket, framing) = table.channel(socket)?;
  let (sent, stopped) = framing.outbox.flush(socket);
  // An error that ended the connection has emptied the outbox. Any other has left frames queued.
  let code_of = if framing.outbox.is_empty() { code } else { waiting };
  outcome.fields()?.set(FlushField::Stopped as usize, stopped.map_or(0, code_of));
  Ok(sent as i32)
}

pub(super) fn cancel(state: &mut State, [socket, index]: [i32; 2]) -> CallResult {
  let (_, framing) = state.table.channel(socket)?;
  Ok(framing.outbox.cancel(index as usize).into())
}

pub(super) fn receive(state: &mut State, [number, max_bytes, max_fds]: [i32; 3]) -> CallResult {
  let State { table, control, memory: Memory { bytes, outcome, .. }, .. } = state;
  let max_length = bytes.get().len();
  let (socket, framing) = table.channel(number)?;
  let decoder = &mut framing.decoder;
  let limits = Limits { max_bytes: max_bytes as usize, max_fds: max_fds as usize };
  let is_limited = max_bytes < i32::MAX || max_fds < i32::MAX;
  let mut received = 0;
  let length = loop {
    if is_limited && decoder.exceeds(limits) {
      return Ok(FULL);
    }
    if let Some(header) = decoder.peek_header() {
      break header.length as usize;
    }
    if let Err(error) = decoder.next_frame() {
      put_violation(outcome.fields()?, error);
      return Ok(BROKEN);
    }
    if decoder.has_ended() {
      return Ok(END);
    }
    if received >= Decoder::BYTES_PER_CALL {
      return Ok(AGAIN);
    }
    received += decoder.receive(socket, control)?;
  };
  if length <= max_length { take_frame(state, number, None) } else { Ok(length as i32) }
}

pub(super) fn take(state: &mut State, buffer: &mut [u8], [number]: [i32; 1]) -> CallResult {
  take_frame(state, number, Some(buffer))
}

/// Takes the next whole frame into a buffer, which must have its length, or into the shared bytes.
fn take_frame(state: &mut State, number: i32, buffer: Option<&mut [u8]>) -> CallResult {
  let State { table, memory: Memory { bytes, fds: numbers, outcome, .. }, .. } = state;
  let sender = table.sender(number);
  let (_, framing) = table.channel(number)?;
  let Ok(Some(BorrowedFrame { header, data, fds, lost })) = framing.decoder.next_frame() else { return Ok(AGAIN) };
  let buffer = buffer.unwrap_or_else(|| bytes.get());
  buffer.get_mut(..data.len()).ok_or(Errno::EFAULT)?.copy_from_slice(data);
  let Header { kind, format, id, length, .. } = header;
  let more = framing.decoder.has_next();
  let mut outcome = outcome.fields()?;
  outcome.set(FrameField::FdCount as usize, fds.len() as i32);
  outcome.set(FrameField::FdsLost as usize, lost.into());
  outcome.set(FrameField::Kind as usize, FrameKind::from(kind) as i32);
  outcome.set(FrameField::Format as usize, FrameFormat::from(format) as i32);
  outcome.set(FrameField::Id as usize, id as i32);
  outcome.set(FrameField::HasMore as usize, more.into());
  for (number, fd) in numbers.get().iter_mut().zip(fds) {
    *number = match sender {
      Some(sender) => table.insert_from(fd, sender),
      None => table.insert(fd),
    };
  }
  Ok(length as i32)
}

/// Writes the reason for `BROKEN`.
fn put_violation(mut outcome: Fields<'_>, error: FrameError) {
  let (kind, announced, arrived) = match error {
    FrameError::NotAFrame => (ProtocolViolation::NotAFrame, 0, 0),
    FrameError::TooLong(length) => (ProtocolViolation::TooLong, length as i32, 0),
    FrameError::TooManyDescriptors(count) => (ProtocolViolation::TooManyDescriptors, count as i32, 0),
    FrameError::InvalidControlFrame => (ProtocolViolation::InvalidControlFrame, 0, 0),
    FrameError::WrongDescriptors { announced, arrived } => {
      (ProtocolViolation::WrongDescriptors, announced as i32, arrived as i32)
    }
    FrameError::EndedInside => (ProtocolViolation::EndedInside, 0, 0),
  };
  outcome.set(ViolationField::Kind as usize, kind as i32);
  outcome.set(ViolationField::Announced as usize, announced);
  outcome.set(ViolationField::Arrived as usize, arrived);
}
