//! The calls on channels. A channel's frames, those that have arrived and those that wait to be sent, belong to its
//! socket's entry in the table.

use fdpass_core::{BorrowedFrame, Errno, FrameError, Header, Limits};

use crate::calls::{Outcome, borrowed};
use crate::codes::{AGAIN, BROKEN, BUSY, END, FrameFormat, FrameKind, ProtocolViolation, code};
use crate::environment::Environment;
use crate::memory::{FlushField, FrameField, Memory, ViolationField};
use crate::table::Table;

pub(crate) fn open(environment: &mut Environment, [socket, max_bytes, max_fds]: [i32; 3]) -> Outcome {
  environment.table.set_framing(socket, Limits { max_bytes: max_bytes as usize, max_fds: max_fds as usize })?;
  Ok(0)
}

/// Returns the header of a frame to send. The outbox fills in its counts.
fn header(kind: i32, format: i32, id: i32) -> Result<Header, Errno> {
  let (kind, format) = (FrameKind::to_core(kind)?, FrameFormat::to_core(format)?);
  Ok(Header { kind, format, length: 0, fds: 0, id: id as u32 })
}

pub(crate) fn send(environment: &mut Environment, [socket, kind, format, id, length, count]: [i32; 6]) -> Outcome {
  let Environment { table, memory: Memory { bytes, fds, .. }, .. } = environment;
  let data = &bytes.get()[..length as usize];
  send_frame(table, socket, header(kind, format, id)?, data, &fds.get()[..count as usize])
}

pub(crate) fn push(environment: &mut Environment, [socket, kind, format, id, length]: [i32; 5]) -> Outcome {
  let Environment { table, memory: Memory { bytes, .. }, .. } = environment;
  table.channel(socket)?.1.outbox.push(header(kind, format, id)?, &bytes.get()[..length as usize])?;
  Ok(0)
}

pub(crate) fn send_from(
  environment: &mut Environment,
  data: &mut [u8],
  [socket, kind, format, id, count]: [i32; 5],
) -> Outcome {
  let Environment { table, memory: Memory { fds, .. }, .. } = environment;
  send_frame(table, socket, header(kind, format, id)?, data, &fds.get()[..count as usize])
}

fn send_frame(table: &mut Table, socket: i32, header: Header, data: &[u8], fds: &[i32]) -> Outcome {
  let (socket, framing) = table.channel(socket)?;
  Ok(match framing.outbox.send(socket, header, data, borrowed(fds)?)? {
    None => 0,
    Some(errno) => waiting(errno),
  })
}

/// Why frames wait.
fn waiting(errno: Errno) -> i32 {
  match code(errno) {
    AGAIN => AGAIN,
    _ => BUSY,
  }
}

pub(crate) fn flush(environment: &mut Environment, [socket]: [i32; 1]) -> Outcome {
  let Environment { table, memory: Memory { outcome, .. }, .. } = environment;
  let (socket, framing) = table.channel(socket)?;
  let (gone, stopped) = framing.outbox.flush(socket);
  // What ended the connection has dropped what waited.
  let why = if framing.outbox.is_empty() { code } else { waiting };
  outcome.get()[FlushField::Stopped as usize] = stopped.map_or(0, why);
  Ok(gone as i32)
}

pub(crate) fn cancel(environment: &mut Environment, [socket, index]: [i32; 2]) -> Outcome {
  let (_, framing) = environment.table.channel(socket)?;
  Ok(framing.outbox.cancel(index as usize).into())
}

pub(crate) fn receive(environment: &mut Environment, [number]: [i32; 1]) -> Outcome {
  let room = environment.memory.bytes.get().len();
  let Environment { table, control, memory: Memory { outcome, .. }, .. } = environment;
  let (socket, framing) = table.channel(number)?;
  let decoder = &mut framing.decoder;
  let length = loop {
    if let Some(header) = decoder.peek_header() {
      break header.length as usize;
    }
    if let Err(error) = decoder.next_frame() {
      put_violation(outcome.get(), error);
      return Ok(BROKEN);
    }
    if decoder.has_ended() {
      return Ok(END);
    }
    decoder.receive(socket, control)?;
  };
  if length <= room { take_frame(environment, number, None) } else { Ok(length as i32) }
}

pub(crate) fn take(environment: &mut Environment, buffer: &mut [u8], [number]: [i32; 1]) -> Outcome {
  take_frame(environment, number, Some(buffer))
}

/// Takes the next frame, which is whole, into a buffer of its length, or into the shared bytes.
fn take_frame(environment: &mut Environment, number: i32, buffer: Option<&mut [u8]>) -> Outcome {
  let Environment { table, memory: Memory { bytes, fds: numbers, outcome, .. }, .. } = environment;
  let (_, framing) = table.channel(number)?;
  let Ok(Some(BorrowedFrame { header, data, fds, lost })) = framing.decoder.next_frame() else { return Ok(AGAIN) };
  let buffer = buffer.unwrap_or_else(|| bytes.get());
  buffer.get_mut(..data.len()).ok_or(Errno::EFAULT)?.copy_from_slice(data);
  let Header { kind, format, id, length, .. } = header;
  let more = framing.decoder.has_next();
  let outcome = outcome.get();
  outcome[FrameField::FdCount as usize] = fds.len() as i32;
  outcome[FrameField::FdsLost as usize] = lost.into();
  outcome[FrameField::Kind as usize] = FrameKind::from(kind) as i32;
  outcome[FrameField::Format as usize] = FrameFormat::from(format) as i32;
  outcome[FrameField::Id as usize] = id as i32;
  outcome[FrameField::HasMore as usize] = more.into();
  for (number, fd) in numbers.get().iter_mut().zip(fds) {
    *number = table.insert(fd);
  }
  Ok(length as i32)
}

/// Writes the reason for `BROKEN`.
fn put_violation(outcome: &mut [i32], error: FrameError) {
  let (kind, announced, arrived) = match error {
    FrameError::NotAFrame => (ProtocolViolation::NotAFrame, 0, 0),
    FrameError::TooLong(length) => (ProtocolViolation::TooLong, length as i32, 0),
    FrameError::TooManyDescriptors(count) => (ProtocolViolation::TooManyDescriptors, count as i32, 0),
    FrameError::WrongDescriptors { announced, arrived: came } => {
      (ProtocolViolation::WrongDescriptors, announced as i32, came as i32)
    }
    FrameError::EndedInside => (ProtocolViolation::EndedInside, 0, 0),
  };
  outcome[ViolationField::Kind as usize] = kind as i32;
  outcome[ViolationField::Announced as usize] = announced;
  outcome[ViolationField::Arrived as usize] = arrived;
}
