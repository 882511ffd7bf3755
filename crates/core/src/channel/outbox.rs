//! Frames that wait to be sent.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;

use super::frame::Header;
use crate::fd::{ForeignFds, duplicate};
use crate::socket::{Direction, MAX_SENT_FDS, SendOptions, Socket, part};
use crate::sys::fds::numbers;

/// Maximum number of waiting frames without descriptors that one call sends.
const PER_CALL: usize = 128;

/// Maximum number of their bytes: a socket's buffer accepts no more at once.
const BYTES_PER_CALL: usize = 65_536;

/// A waiting frame.
#[derive(Debug)]
struct Outgoing {
  header: [u8; Header::SIZE],
  data: Vec<u8>,
  /// How many bytes of the header and the data were sent.
  offset: usize,
  /// Duplicates of the descriptors that were not sent yet.
  fds: ForeignFds,
}

impl Outgoing {
  fn left(&self) -> [&[u8]; 2] {
    rest(&self.header, &self.data, self.offset)
  }

  fn is_whole(&self) -> bool {
    self.offset == Header::SIZE + self.data.len()
  }
}

/// Queue of frames to be sent over one stream socket.
#[derive(Debug, Default)]
pub struct Outbox {
  frames: VecDeque<Outgoing>,
  owner: Option<u32>,
}

impl Outbox {
  /// Closes the duplicates of frames that are queued from now on by [`close_apart`](crate::close_apart), for this owner.
  pub fn close_apart(&mut self, owner: u32) {
    self.owner = Some(owner);
  }

  /// Returns how many frames wait.
  pub fn len(&self) -> usize {
    self.frames.len()
  }

  /// Returns whether no frame waits.
  pub fn is_empty(&self) -> bool {
    self.frames.is_empty()
  }

  /// Sends a frame, or captures the part that has to wait: its bytes, and duplicates of its descriptors. The caller's
  /// descriptors stay open. The header's `length` and `fds` are ignored: they are set from the arguments.
  ///
  /// Returns `None` if the whole frame was sent, otherwise why it waits: `EAGAIN`, `ETOOMANYREFS` or `ENOBUFS`. No event
  /// reports the end of the latter two. An error means that nothing was sent or captured. Once the first byte was sent, the
  /// next flush returns the error.
  pub fn send(
    &mut self,
    socket: Socket<'_>,
    header: Header,
    data: &[u8],
    fds: &[BorrowedFd<'_>],
  ) -> nix::Result<Option<Errno>> {
    let length = u32::try_from(data.len()).map_err(|_| Errno::EMSGSIZE)?;
    if fds.len() > Header::MAX_FDS {
      return Err(Errno::EINVAL);
    }
    let header = Header { length, fds: fds.len() as u32, ..header }.encode();
    let whole = header.len() + data.len();
    let mut offset = 0;
    let mut left = fds;
    let mut stopped = Errno::EAGAIN;
    while self.frames.is_empty() && offset < whole {
      match send_part(socket, rest(&header, data, offset), left) {
        Ok(sent) => {
          offset += sent;
          left = left.get(MAX_SENT_FDS..).unwrap_or_default();
        }
        Err(errno @ (Errno::EAGAIN | Errno::ETOOMANYREFS | Errno::ENOBUFS)) => {
          stopped = errno;
          break;
        }
        Err(errno) if offset == 0 => return Err(errno),
        Err(_) => break, // the next flush returns it
      }
    }
    if offset == whole {
      return Ok(None);
    }
    let fds = left.iter().map(|fd| duplicate(*fd)).collect::<nix::Result<_>>();
    let fds = match fds {
      Ok(fds) => fds,
      Err(errno) if offset == 0 => return Err(errno),
      Err(errno) => {
        // A part of the frame was sent and the rest cannot be captured: no other frame can follow.
        let _ = socket.shutdown(Direction::Write);
        return Err(errno);
      }
    };
    let fds = ForeignFds { list: fds, owner: self.owner };
    self.frames.push_back(Outgoing { header, data: data.to_vec(), offset, fds });
    Ok(Some(stopped))
  }

  /// Queues a frame without descriptors, so that one call sends many small ones.
  pub fn push(&mut self, header: Header, data: &[u8]) -> nix::Result<()> {
    let length = u32::try_from(data.len()).map_err(|_| Errno::EMSGSIZE)?;
    let header = Header { length, fds: 0, ..header }.encode();
    self.frames.push_back(Outgoing { header, data: data.to_vec(), offset: 0, fds: ForeignFds::default() });
    Ok(())
  }

  /// Sends waiting frames as far as there is room. Returns how many were sent completely, and why it stopped.
  ///
  /// - `None`: nothing waits any more.
  /// - `EAGAIN`, `ETOOMANYREFS`, `ENOBUFS`: frames still wait.
  /// - Another error: the connection has failed, and the waiting frames were dropped.
  pub fn flush(&mut self, socket: Socket<'_>) -> (usize, Option<Errno>) {
    let mut done = 0;
    while let Some(first) = self.frames.front() {
      let sent = if first.fds.list.is_empty() {
        let mut slices = Vec::with_capacity(2 * PER_CALL);
        let mut bytes = 0;
        for frame in self.frames.iter().take(PER_CALL).take_while(|frame| frame.fds.list.is_empty()) {
          slices.extend(frame.left().map(IoSlice::new));
          bytes += frame.header.len() + frame.data.len() - frame.offset;
          if bytes > BYTES_PER_CALL {
            break;
          }
        }
        socket.send_slices(&slices, &[], SendOptions::default())
      } else {
        // With descriptors go bytes of their own frame only.
        let fds: Vec<BorrowedFd<'_>> = first.fds.list.iter().map(AsFd::as_fd).collect();
        send_part(socket, first.left(), &fds)
      };
      match sent {
        Ok(sent) => done += self.advance(sent),
        Err(errno) => {
          if !matches!(errno, Errno::EAGAIN | Errno::ETOOMANYREFS | Errno::ENOBUFS) {
            if first.offset > 0 {
              // Half a frame has gone: whatever followed would be taken for its other half.
              let _ = socket.shutdown(Direction::Write);
            }
            self.frames.clear();
          }
          return (done, Some(errno));
        }
      }
    }
    (done, None)
  }

  /// Removes the waiting frame at this index, if nothing of it was sent. Returns whether it did.
  pub fn cancel(&mut self, index: usize) -> bool {
    let untouched = self.frames.get(index).is_some_and(|frame| frame.offset == 0);
    if untouched {
      self.frames.remove(index);
    }
    untouched
  }

  /// Records that bytes were sent, and with the first of them as many descriptors as one call sends. Returns how many frames
  /// are complete.
  fn advance(&mut self, sent: usize) -> usize {
    let mut left = sent;
    let mut done = 0;
    while let Some(frame) = self.frames.front_mut() {
      if left == 0 {
        break;
      }
      let took = left.min(frame.header.len() + frame.data.len() - frame.offset);
      frame.offset += took;
      left -= took;
      frame.fds.close_first(MAX_SENT_FDS);
      if !frame.is_whole() {
        break;
      }
      self.frames.pop_front();
      done += 1;
    }
    done
  }
}

/// Returns the parts of a header and its data behind an offset.
fn rest<'a>(header: &'a [u8; Header::SIZE], data: &'a [u8], offset: usize) -> [&'a [u8]; 2] {
  let behind = |bytes: &'a [u8], offset| bytes.get(offset..).unwrap_or_default();
  [behind(header, offset), behind(data, offset.saturating_sub(Header::SIZE))]
}

/// Sends the rest of a frame with its descriptors. If they are too many for one call, sends one byte with as many as it can.
fn send_part(socket: Socket<'_>, [header, data]: [&[u8]; 2], fds: &[BorrowedFd<'_>]) -> nix::Result<usize> {
  if let (Some((first, _)), Some((most, [_, ..]))) = (header.split_first(), fds.split_at_checked(MAX_SENT_FDS)) {
    return socket.send(std::slice::from_ref(first), most, SendOptions::default());
  }
  socket.send_slices(&[IoSlice::new(header), IoSlice::new(part(data))], numbers(fds), SendOptions::default())
}
