//! The hot calls that send and receive messages.

use std::os::fd::RawFd;

use fdpass_core::{Address, ControlBuffer, Credentials, Errno, ReceivedFds, SendOptions, SocketType};

use crate::abi::{CallResult, borrowed};
use crate::codes::{AGAIN, ControlStatus, END};
use crate::environment::State;
use crate::memory::{
  BATCH_ENTRY_LENGTH, BATCH_HEADER_LENGTH, BatchEntryField, BatchField, HAS_CREDENTIALS, HAS_PIDFD, Memory,
  OUTCOME_LENGTH, ReceiveField,
};
use crate::table::Table;

pub(super) fn send(state: &mut State, [socket, length, count]: [i32; 3]) -> CallResult {
  let State { table, memory: Memory { bytes, fds, .. }, .. } = state;
  let data = &bytes.get()[..length as usize];
  send_bytes(table, data, &fds.get()[..count as usize], socket, SendOptions::default())
}

pub(super) fn send_from(state: &mut State, data: &mut [u8], [socket, offset, count]: [i32; 3]) -> CallResult {
  let State { table, memory: Memory { fds, .. }, .. } = state;
  send_bytes(table, rest(data, offset)?, &fds.get()[..count as usize], socket, SendOptions::default())
}

pub(super) fn send_message(
  state: &mut State,
  data: &mut [u8],
  [socket, offset, count, length, claims, pid, uid, gid]: [i32; 8],
) -> CallResult {
  let State { table, memory: Memory { fds, name, .. }, .. } = state;
  let to = if length == 0 { None } else { Some(Address::new(&name.get()[..length as usize])?) };
  let credentials = Credentials { pid: Some(pid).filter(|&pid| pid > 0), uid: uid as u32, gid: gid as u32 };
  let options = SendOptions { to: to.as_ref(), credentials: (claims != 0).then_some(credentials) };
  send_bytes(table, rest(data, offset)?, &fds.get()[..count as usize], socket, options)
}

/// Returns the bytes from an offset. Fails with `EFAULT` if the array was detached while its send was pending, and so is
/// empty now.
fn rest(data: &[u8], offset: i32) -> Result<&[u8], Errno> {
  data.get(offset as usize..).ok_or(Errno::EFAULT)
}

fn send_bytes(table: &Table, data: &[u8], fds: &[i32], socket: RawFd, options: SendOptions<'_>) -> CallResult {
  Ok(table.socket(socket)?.send(data, borrowed(fds)?, options)? as i32)
}

pub(super) fn receive(state: &mut State, [socket, max_bytes, max_fds]: [i32; 3]) -> CallResult {
  let State { table, control, memory: Memory { bytes, fds, outcome, name, .. }, .. } = state;
  let result = ReceiveOutcome { fds: fds.get(), outcome: outcome.get(), name: name.get() };
  receive_bytes(table, control, &mut bytes.get()[..max_bytes as usize], result, [socket, max_fds])
}

pub(super) fn receive_into(state: &mut State, buffer: &mut [u8], integers: [i32; 2]) -> CallResult {
  let State { table, control, memory: Memory { fds, outcome, name, .. }, .. } = state;
  let result = ReceiveOutcome { fds: fds.get(), outcome: outcome.get(), name: name.get() };
  receive_bytes(table, control, buffer, result, integers)
}

pub(super) fn receive_many(state: &mut State, [socket, max_bytes, max_fds, mut expected, cap]: [i32; 5]) -> CallResult {
  let State { table, control, memory: Memory { bytes, fds, outcome, batch, name, .. }, .. } = state;
  let (mut bytes, mut numbers, batch) = (bytes.get(), fds.get(), batch.get());
  let (header, entries) = batch.split_at_mut(BATCH_HEADER_LENGTH as usize);
  let received = &mut header[BatchField::Count as usize];
  *received = 0;
  let has_address = table.socket(socket)?.socket_type() == SocketType::Dgram;
  let mut taken = 0;
  let mut available = None;
  for entry in entries.chunks_exact_mut(BATCH_ENTRY_LENGTH as usize) {
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
    if bytes.len() < max_bytes as usize {
      return Ok(AGAIN);
    }
    let result = ReceiveOutcome { fds: numbers, outcome: outcome.get(), name: name.get() };
    let length = receive_bytes(table, control, &mut bytes[..max_bytes as usize], result, [socket, max_fds])?;
    let outcome = outcome.get();
    let field = |field: ReceiveField| outcome[field as usize];
    let whole = field(ReceiveField::Status) == ControlStatus::Complete as i32 && field(ReceiveField::Size) == length;
    if length < 0 || !whole || field(ReceiveField::Extras) != 0 || has_address {
      return Ok(length);
    }
    let count = field(ReceiveField::FdCount);
    entry[BatchEntryField::ByteCount as usize] = length;
    entry[BatchEntryField::FdCount as usize] = count;
    *received += 1;
    taken += count;
    expected = expected.max(count);
    bytes = &mut bytes[length as usize..];
    numbers = &mut numbers[count as usize..];
  }
  Ok(AGAIN)
}

/// The arrays into which a receive writes its result beside the bytes.
struct ReceiveOutcome<'a> {
  fds: &'a mut [i32],
  outcome: &'a mut [i32],
  name: &'a mut [u8],
}

fn receive_bytes(
  table: &mut Table,
  control: &mut ControlBuffer,
  buffer: &mut [u8],
  ReceiveOutcome { fds: numbers, outcome, name }: ReceiveOutcome<'_>,
  [socket, max_fds]: [i32; 2],
) -> CallResult {
  let Some(message) = table.socket(socket)?.recv(buffer, control, max_fds as usize)? else { return Ok(END) };
  let mut fields = [0; OUTCOME_LENGTH as usize];
  let mut set = |field: ReceiveField, value| fields[field as usize] = value;
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
    if let Some(Credentials { pid, uid, gid }) = message.credentials {
      extras |= HAS_CREDENTIALS;
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
      name[..bytes.len()].copy_from_slice(bytes);
      set(ReceiveField::NameLength, bytes.len() as i32);
    }
  }
  set(ReceiveField::Status, status as i32);
  outcome[..fields.len()].copy_from_slice(&fields);
  Ok(message.length as i32)
}
