//! Frames on their way out: those that wait for available_descriptors, in order.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::frame::Header;
use crate::fd::duplicate;
use crate::socket::{Direction, MAX_SENT_FDS, SendOptions, Socket};

/// How many waiting frames without descriptors go with one call.
const PER_CALL: usize = 128;

/// How many bytes of such frames: more than a socket's buffer takes at once would be looked at in vain.
const BYTES_PER_CALL: usize = 65_536;

/// A frame that waits for room.
#[derive(Debug)]
struct Outgoing {
  header: [u8; Header::SIZE],
  data: Vec<u8>,
  /// How much of the header and the data has gone.
  offset: usize,
  /// Duplicates of what has not gone yet.
  fds: Vec<OwnedFd>,
}

impl Outgoing {
  fn left(&self) -> [&[u8]; 2] {
    rest(&self.header, &self.data, self.offset)
  }

  fn is_whole(&self) -> bool {
    self.offset == Header::SIZE + self.data.len()
  }
}

/// The frames that wait to be sent over one stream socket.
#[derive(Debug, Default)]
pub struct Outbox {
  frames: VecDeque<Outgoing>,
}

impl Outbox {
  /// How many frames wait.
  pub fn len(&self) -> usize {
    self.frames.len()
  }

  /// Whether none waits.
  pub fn is_empty(&self) -> bool {
    self.frames.is_empty()
  }

  /// Sends a frame, or captures what of it cannot go out at once: its bytes, and duplicates of its descriptors, which
  /// mean what the numbers meant now. The header's `length` and `fds` are set here.
  ///
  /// Gives why it waits, `EAGAIN` or `ETOOMANYREFS` (which no event announces the end of), or `None` if it has gone whole.
  /// An error says that nothing of it has gone or waits; once its first byte has gone an error is the next flush's.
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
    let mut gone = 0;
    let mut stopped = Errno::EAGAIN;
    while self.frames.is_empty() && offset < whole {
      let next = &fds[gone..];
      match send_part(socket, rest(&header, data, offset), next) {
        Ok(sent) => {
          offset += sent;
          gone += next.len().min(MAX_SENT_FDS);
        }
        Err(errno @ (Errno::EAGAIN | Errno::ETOOMANYREFS | Errno::ENOBUFS)) => {
          stopped = errno;
          break;
        }
        Err(errno) if offset == 0 => return Err(errno),
        Err(_) => break, // the next flush meets it
      }
    }
    if offset == whole {
      return Ok(None);
    }
    let fds = fds[gone..].iter().map(|fd| duplicate(*fd)).collect::<nix::Result<_>>();
    let fds = match fds {
      Ok(fds) => fds,
      Err(errno) if offset == 0 => return Err(errno),
      Err(errno) => {
        // Half a frame has gone, and the rest of it cannot be captured: nothing can follow it.
        let _ = socket.shutdown(Direction::Write);
        return Err(errno);
      }
    };
    self.frames.push_back(Outgoing { header, data: data.to_vec(), offset, fds });
    Ok(Some(stopped))
  }

  /// Puts a frame without descriptors behind those that wait, so that many small ones go with one call.
  pub fn push(&mut self, header: Header, data: &[u8]) -> nix::Result<()> {
    let length = u32::try_from(data.len()).map_err(|_| Errno::EMSGSIZE)?;
    let header = Header { length, fds: 0, ..header }.encode();
    self.frames.push_back(Outgoing { header, data: data.to_vec(), offset: 0, fds: Vec::new() });
    Ok(())
  }

  /// Sends what waits, as far as there is room. Gives how many frames have gone whole, and why it stopped: `EAGAIN`,
  /// `ETOOMANYREFS`, or what ended the connection, which drops what waits; `None` if nothing waits any more.
  pub fn flush(&mut self, socket: Socket<'_>) -> (usize, Option<Errno>) {
    let mut done = 0;
    while let Some(first) = self.frames.front() {
      let sent = if first.fds.is_empty() {
        let mut slices = Vec::with_capacity(2 * PER_CALL);
        let mut bytes = 0;
        for frame in self.frames.iter().take(PER_CALL).take_while(|frame| frame.fds.is_empty()) {
          slices.extend(frame.left().map(IoSlice::new));
          bytes += frame.header.len() + frame.data.len() - frame.offset;
          if bytes > BYTES_PER_CALL {
            break;
          }
        }
        socket.send_slices(&slices, &[], SendOptions::default())
      } else {
        // With descriptors go bytes of their own frame only.
        let fds: Vec<BorrowedFd<'_>> = first.fds.iter().map(AsFd::as_fd).collect();
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

  /// Takes a frame back that waits at this place, if nothing of it has gone.
  pub fn cancel(&mut self, index: usize) -> bool {
    let untouched = self.frames.get(index).is_some_and(|frame| frame.offset == 0);
    if untouched {
      self.frames.remove(index);
    }
    untouched
  }

  /// Notes that so many bytes have gone, and with the first of them as many descriptors as go at once.
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
      frame.fds.drain(..frame.fds.len().min(MAX_SENT_FDS));
      if !frame.is_whole() {
        break;
      }
      self.frames.pop_front();
      done += 1;
    }
    done
  }
}

/// What is left of a header and data behind an offset.
fn rest<'a>(header: &'a [u8; Header::SIZE], data: &'a [u8], offset: usize) -> [&'a [u8]; 2] {
  [&header[offset.min(Header::SIZE)..], &data[offset.saturating_sub(Header::SIZE)..]]
}

/// Sends what is left of a frame, with its descriptors; where they are more than go at once, one byte with as many as do.
fn send_part(socket: Socket<'_>, [header, data]: [&[u8]; 2], fds: &[BorrowedFd<'_>]) -> nix::Result<usize> {
  if fds.len() > MAX_SENT_FDS {
    return socket.send(&header[..1], &fds[..MAX_SENT_FDS], SendOptions::default());
  }
  socket.send_slices(&[IoSlice::new(header), IoSlice::new(data)], fds, SendOptions::default())
}
