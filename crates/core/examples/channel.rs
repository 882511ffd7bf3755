//! A Rust program at the other end of a channel: `channel NUMBER`, with the number of an inherited socket. It answers each
//! request with the text of its files, and the files. It prints each message and the text of its files.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use fdpass_core::{Channel, Format, FrameKind, Limits, Message, adopt};

fn main() -> Result<(), Box<dyn std::error::Error>> {
  let number = std::env::args().nth(1).ok_or("which descriptor is the socket?")?.parse()?;
  // SAFETY: the parent passed the descriptor to this program, and nothing else in it uses the number.
  let socket = unsafe { adopt(number) }?;
  let mut channel = Channel::new(socket, Limits::default())?;
  while let Some(frame) = channel.receive()? {
    let mut text = String::new();
    for fd in &frame.fds {
      text += &contents(fd)?;
    }
    if frame.kind == FrameKind::Request {
      let answer = Message { kind: FrameKind::Response, format: Format::Bytes, id: frame.id, data: text.as_bytes() };
      channel.send(answer, &frame.fds.iter().map(AsFd::as_fd).collect::<Vec<BorrowedFd<'_>>>())?;
    } else {
      println!("{} {} {text}", String::from_utf8_lossy(&frame.data), frame.fds.len());
    }
  }
  Ok(())
}

fn contents(fd: &OwnedFd) -> std::io::Result<String> {
  let mut file = File::from(fd.try_clone()?);
  let mut text = String::new();
  file.rewind()?;
  file.read_to_string(&mut text)?;
  Ok(text)
}
