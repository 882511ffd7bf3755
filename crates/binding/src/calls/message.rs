//! The hot calls that send and receive messages.

use std::os::fd::RawFd;

use fdpass_core::{Address, ControlBuffer, Credentials, Errno, ReceivedFds, SendOptions, SocketType};

use crate::abi::CallResult;
use crate::codes::{AGAIN, ControlStatus, END};
use crate::environment::State;
use crate::memory::{
  BATCH_ENTRY_LENGTH, BATCH_HEADER_LENGTH, Fields, HAS_CREDENTIALS, HAS_PIDFD, Memory, ReceiveField, UNKNOWN_GID,
  UNKNOWN_UID,
};
use crate::table::Table;

pub(super) fn send(state: &mut State, [socket, length, count]: [i32; 3]) -> CallResult {
  let State { table, memory: Memory { bytes, fds, .. }, .. } = state;
  send_bytes(table, bytes.first(length)?, fds.first(count)?, socket, SendOptions::default())
}

pub(super) fn send_from(state: &mut State, data: &mut [u8], [socket, offset, count]: [i32; 3]) -> CallResult {
  let State { table, memory: Memory { fds, .. }, .. } = state;
  send_bytes(table, rest(data, offset)?, fds.first(count)?, socket, SendOptions::default())
}

pub(super) fn send_message(
  state: &mut State,
  data: &mut [u8],
  [socket, offset, count, length, claims, pid, uid, gid]: [i32; 8],
) -> CallResult {
  let State { table, memory: Memory { fds, name, .. }, .. } = state;
  let to = if length == 0 { None } else { Some(Address::new(name.first(length)?)?) };
  let credentials = Credentials { pid: Some(pid).filter(|&pid| pid > 0), uid: uid as u32, gid: gid as u32 };
  let options = SendOptions { to: to.as_ref(), credentials: (claims != 0).then_some(credentials) };
  send_bytes(table, rest(data, offset)?, fds.first(count)?, socket, options)
}

/// Returns the bytes from an offset. Fails with `EFAULT` if the array was detached while its send was pending, and so is
/// empty now.
fn rest(data: &[u8], offset: i32) -> Result<&[u8], Errno> {
  data.get(offset as usize..).ok_or(Errno::EFAULT)
}

fn send_bytes(table: &Table, data: &[u8], fds: &[i32], socket: RawFd, options: SendOptions<'_>) -> CallResult {
  Ok(table.socket(socket)?.send_numbers(data, fds, options)? as i32)
}

pub(super) fn receive(state: &mut State, [socket, max_bytes, max_fds]: [i32; 3]) -> CallResult {
  let State { table, control, memory: Memory { bytes, fds, outcome, name, .. }, .. } = state;
  let result = ReceiveOutcome { fds: fds.get(), outcome: outcome.fields()?, name: name.get() };
  receive_bytes(table, control, bytes.first(max_bytes)?, result, [socket, max_fds])
}

pub(super) fn receive_into(state: &mut State, buffer: &mut [u8], integers: [i32; 2]) -> CallResult {
  let State { table, control, memory: Memory { fds, outcome, name, .. }, .. } = state;
  let result = ReceiveOutcome { fds: fds.get(), outcome: outcome.fields()?, name: name.get() };
  receive_bytes(table, control, buffer, result, integers)
}

pub(super) fn receive_many(state: &mut State, [socket, max_bytes, max_fds, mut expected, cap]: [i32; 5]) -> CallResult {
  let State { table, control, memory: Memory { bytes, fds, outcome, batch, name, .. }, .. } = state;
  let (mut bytes, mut numbers, batch) = (bytes.get(), fds.get(), batch.get());
  let Some(([received], entries)) = batch.split_first_chunk_mut::<{ BATCH_HEADER_LENGTH as usize }>() else {
    return Err(Errno::EFAULT);
  };
  *received = 0;
  let has_address = table.socket(socket)?.socket_type() == SocketType::Dgram;
  let mut taken = 0;
  let mut available = None;
  for entry in entries.as_chunks_mut::<{ BATCH_ENTRY_LENGTH as usize }>().0 {
    if expected > 0 {
      // If the number is unknown, for instance without /proc, nothing is received ahead.
      let available = *available.get_or_insert_with(|| {
        fdpass_core::available_descriptors().map_or(0, |count| i32::try_from(count).unwrap_or(i32::MAX))
      });
      // Descriptors received ahead must leave room for a message that would fit without them.
      if taken + expected > cap.min(available / 4) || max_fds > available - taken {
        return Ok(AGAIN);
      }
    }
    let Some(buffer) = bytes.get_mut(..max_bytes as usize) else { return Ok(AGAIN) };
    let result = ReceiveOutcome { fds: numbers, outcome: outcome.fields()?, name: name.get() };
    let length = receive_bytes(table, control, buffer, result, [socket, max_fds])?;
    let fields = outcome.fields()?;
    let whole = fields.get(ReceiveField::Status as usize) == ControlStatus::Complete as i32
      && fields.get(ReceiveField::Size as usize) == length;
    if length < 0 || !whole || fields.get(ReceiveField::Extras as usize) != 0 || has_address {
      return Ok(length);
    }
    let count = fields.get(ReceiveField::FdCount as usize);
    *entry = [length, count]; // in the order of `BatchEntryField`
    *received += 1;
    taken += count;
    expected = expected.max(count);
    bytes = bytes.get_mut(length as usize..).unwrap_or_default();
    numbers = numbers.get_mut(count as usize..).unwrap_or_default();
  }
  Ok(AGAIN)
}

/// The arrays into which a receive writes its result beside the bytes.
struct ReceiveOutcome<'a> {
  fds: &'a mut [i32],
  outcome: Fields<'a>,
  name: &'a mut [u8],
}

fn receive_bytes(
  table: &mut Table,
  control: &mut ControlBuffer,
  buffer: &mut [u8],
  ReceiveOutcome { fds: numbers, mut outcome, name }: ReceiveOutcome<'_>,
  [socket, max_fds]: [i32; 2],
) -> CallResult {
  let Some(message) = table.socket(socket)?.recv(buffer, control, max_fds as usize)? else { return Ok(END) };
  outcome.clear();
  let mut set = |field: ReceiveField, value| outcome.set(field as usize, value);
  set(ReceiveField::Size, message.size as i32);
  let status = match message.fds {
    ReceivedFds::Complete(fds) => {
      set(ReceiveField::FdCount, fds.len() as i32);
      for (number, fd) in numbers.iter_mut().zip(fds) {
        *number = table.insert(fd);
      }
      ControlStatus::Complete
    }
    ReceivedFds::Truncated => ControlStatus::Truncated,
    ReceivedFds::TooMany => ControlStatus::TooMany,
    ReceivedFds::Unexpected => ControlStatus::Unexpected,
  };
  // Otherwise a pidfd is closed with the message.
  if let ControlStatus::Complete = status {
    let mut extras = 0;
    if let Some(credentials) = message.credentials {
      let (Credentials { pid, uid, gid }, unknown) = (credentials, credentials.unknown_sender_ids());
      extras |= HAS_CREDENTIALS;
      extras |= if unknown.uid { UNKNOWN_UID } else { 0 };
      extras |= if unknown.gid { UNKNOWN_GID } else { 0 };
      set(ReceiveField::Pid, pid.unwrap_or(0));
      set(ReceiveField::Uid, uid as i32);
      set(ReceiveField::Gid, gid as i32);
    }
    if let Some(pidfd) = message.pidfd {
      extras |= HAS_PIDFD;
      set(ReceiveField::Pidfd, table.insert(pidfd));
    }
    set(ReceiveField::Extras, extras);
    if let Some(address) = message.address {
      let bytes = address.bytes();
      name.get_mut(..bytes.len()).ok_or(Errno::EFAULT)?.copy_from_slice(bytes);
      set(ReceiveField::NameLength, bytes.len() as i32);
    }
  }
  set(ReceiveField::Status, status as i32);
  Ok(message.length as i32)
}
