//! The calls on channels. A channel's frames, those that have arrived and those that wait to be sent, belong to its
//! socket's entry in the table.

use fdpass_core::{Arrived, Errno, Format, FrameError, FrameKind, Header, Limits};

use crate::calls::{Outcome, borrowed, code};
use crate::environment::Environment;
use crate::table::Table;
use crate::{AGAIN, BROKEN, BUSY, END};

pub(crate) fn open(environment: &mut Environment, [socket, max_bytes, max_fds]: [i32; 3]) -> Outcome {
  environment.table.set_framing(socket, Limits { max_bytes: max_bytes as usize, max_fds: max_fds as usize })?;
  Ok(0)
}

/// The header of a frame to be sent; its counts are filled in as it is sent.
fn header(kind: i32, format: i32, id: i32) -> Header {
  let kind = match kind {
    0 => FrameKind::Message,
    1 => FrameKind::Request,
    2 => FrameKind::Response,
    3 => FrameKind::Error,
    4 => FrameKind::Cancel,
    _ => FrameKind::Close,
  };
  let format = if format == 0 { Format::Bytes } else { Format::Json };
  Header { kind, format, length: 0, fds: 0, id: id as u32 }
}

pub(crate) fn send(environment: &mut Environment, [socket, kind, format, id, length, count]: [i32; 6]) -> Outcome {
  let Environment { table, bytes, fds, .. } = environment;
  let data = &bytes.get()[..length as usize];
  send_frame(table, socket, header(kind, format, id), data, &fds.get()[..count as usize])
}

pub(crate) fn push(environment: &mut Environment, [socket, kind, format, id, length]: [i32; 5]) -> Outcome {
  let Environment { table, bytes, .. } = environment;
  table.channel(socket)?.1.outbox.push(header(kind, format, id), &bytes.get()[..length as usize])?;
  Ok(0)
}

pub(crate) fn send_from(
  environment: &mut Environment,
  data: &mut [u8],
  [socket, kind, format, id, count]: [i32; 5],
) -> Outcome {
  let Environment { table, fds, .. } = environment;
  send_frame(table, socket, header(kind, format, id), data, &fds.get()[..count as usize])
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
  let Environment { table, outcome, .. } = environment;
  let (socket, framing) = table.channel(socket)?;
  let (gone, stopped) = framing.outbox.flush(socket);
  // What ended the connection has dropped what waited.
  let why = if framing.outbox.is_empty() { code } else { waiting };
  outcome.get()[0] = stopped.map_or(0, why);
  Ok(gone as i32)
}

pub(crate) fn cancel(environment: &mut Environment, [socket, index]: [i32; 2]) -> Outcome {
  let (_, framing) = environment.table.channel(socket)?;
  Ok(framing.outbox.cancel(index as usize).into())
}

pub(crate) fn receive(environment: &mut Environment, [number]: [i32; 1]) -> Outcome {
  let room = environment.bytes.get().len();
  let Environment { table, control, outcome, .. } = environment;
  let (socket, framing) = table.channel(number)?;
  let decoder = &mut framing.decoder;
  let length = loop {
    if let Some(header) = decoder.peek() {
      break header.length as usize;
    }
    if let Err(error) = decoder.take() {
      outcome.get()[..3].copy_from_slice(&told(error));
      return Ok(BROKEN);
    }
    if decoder.ended() {
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
  let Environment { table, bytes, fds: numbers, outcome, .. } = environment;
  let (_, framing) = table.channel(number)?;
  let Ok(Some(Arrived { header, data, fds, lost })) = framing.decoder.take() else { return Ok(AGAIN) };
  let buffer = buffer.unwrap_or_else(|| bytes.get());
  buffer.get_mut(..data.len()).ok_or(Errno::EFAULT)?.copy_from_slice(data);
  let Header { kind, format, id, length, .. } = header;
  let more = framing.decoder.has_more().into();
  let told = [fds.len() as i32, lost.into(), kind as i32, format as i32, id as i32, more];
  outcome.get()[..told.len()].copy_from_slice(&told);
  for (number, fd) in numbers.get().iter_mut().zip(fds) {
    *number = table.insert(fd);
  }
  Ok(length as i32)
}

/// What went wrong, and two numbers about it.
fn told(error: FrameError) -> [i32; 3] {
  match error {
    FrameError::NotAFrame => [0, 0, 0],
    FrameError::TooLong(length) => [1, length as i32, 0],
    FrameError::TooManyDescriptors(count) => [2, count as i32, 0],
    FrameError::WrongDescriptors { announced, came } => [3, announced as i32, came as i32],
    FrameError::EndedInside => [4, 0, 0],
  }
}
