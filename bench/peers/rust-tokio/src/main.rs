//! Passing descriptors in Rust: tokio's current-thread runtime and sendfd. bench/README.md tells what w1 to w4 are, and what
//! is printed. usage: passing WORKLOAD N

use sendfd::{RecvWithFd, SendWithFd};
use std::fs;
use std::io::Read;
use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, RawFd};
use std::os::unix::net::UnixStream as BlockingStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Instant;
use tokio::io::Interest;
use tokio::net::UnixStream;

const MOST_FDS: usize = 253; // SCM_MAX_FD

fn cpu() -> f64 {
  let mut usage = unsafe { std::mem::zeroed::<libc::rusage>() };
  unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
  let seconds = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec;
  seconds as f64 + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) as f64 / 1e6
}

fn status(key: &str) -> u64 {
  let text = fs::read_to_string("/proc/self/status").unwrap();
  let line = text.lines().find(|line| line.starts_with(key)).unwrap();
  line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn open_descriptors() -> usize {
  fs::read_dir("/proc/self/fd").unwrap().count() - 1 // the folder itself
}

fn listen_on_loopback() -> TcpListener {
  TcpListener::bind("127.0.0.1:0").unwrap()
}

fn close_all(fds: &[RawFd]) {
  for fd in fds {
    unsafe { libc::close(*fd) };
  }
}

/// A socket for messages of one byte.
struct Socket {
  stream: UnixStream,
  fds: [RawFd; MOST_FDS],
}

impl Socket {
  fn new(stream: BlockingStream) -> Self {
    stream.set_nonblocking(true).unwrap();
    Self { stream: UnixStream::from_std(stream).unwrap(), fds: [0; MOST_FDS] }
  }

  async fn send(&self, fds: &[RawFd]) {
    self.stream.async_io(Interest::WRITABLE, || self.stream.send_with_fd(b"x", fds)).await.unwrap();
  }

  /// The descriptors of the next message; None at the end.
  async fn receive(&mut self) -> Option<&[RawFd]> {
    let (stream, fds) = (&self.stream, &mut self.fds);
    let mut byte = [0];
    let (length, count) =
      stream.async_io(Interest::READABLE, || stream.recv_with_fd(&mut byte, fds)).await.unwrap_or((0, 0));
    (length > 0).then(|| &self.fds[..count])
  }
}

async fn receive(workload: &str, n: usize) {
  let warm_up = n / 10 + 1000;
  let mut socket = Socket::new(unsafe { BlockingStream::from_raw_fd(3) });
  let own = listen_on_loopback();
  let (mut messages, mut received, mut cpu_begun, mut first_rss) = (0, 0, 0.0, 0);
  socket.send(&[]).await; // ready
  while let Some(fds) = socket.receive().await {
    messages += 1;
    received += fds.len();
    if workload == "w4" {
      for fd in fds {
        unsafe { libc::write(*fd, [b'a'; 64].as_ptr().cast(), 64) };
      }
    }
    close_all(fds);
    if messages == 1 {
      first_rss = status("VmRSS:");
    }
    if messages == warm_up {
      cpu_begun = cpu();
    }
    if workload == "w1" {
      socket.send(&[own.as_raw_fd()]).await;
    } else if messages == warm_up || messages == warm_up + n {
      socket.send(&[]).await;
    }
  }
  println!("{} {received} {first_rss} {} {}", cpu() - cpu_begun, status("VmHWM:"), open_descriptors());
}

/// Until it is killed.
async fn hand_out_connections(socket: &Socket) {
  let listener = listen_on_loopback();
  println!("{}", listener.local_addr().unwrap().port());
  listener.set_nonblocking(true).unwrap();
  let listener = tokio::net::TcpListener::from_std(listener).unwrap();
  loop {
    let (connection, _) = listener.accept().await.unwrap();
    socket.send(&[connection.as_raw_fd()]).await;
  }
}

async fn send(workload: &str, n: usize) {
  let warm_up = n / 10 + 1000;
  let count = workload.strip_prefix("w3-").map_or(1, |count| count.parse().unwrap());
  let (ours, theirs) = BlockingStream::pair().unwrap();
  let theirs = theirs.into_raw_fd();
  let mut command = Command::new("/proc/self/exe");
  command.args(["receive", workload, &n.to_string()]).stdout(Stdio::piped());
  unsafe {
    command.pre_exec(move || {
      if theirs == 3 {
        libc::fcntl(3, libc::F_SETFD, 0)
      } else {
        libc::dup2(theirs, 3)
      };
      Ok(())
    })
  };
  let mut receiver = command.spawn().unwrap();
  close_all(&[theirs]);
  let mut socket = Socket::new(ours);
  socket.receive().await; // ready
  if workload == "w4" {
    hand_out_connections(&socket).await;
  }

  let own = listen_on_loopback();
  let fds = vec![own.as_raw_fd(); count];
  let mut latencies = Vec::new();
  let (cpu_begun, begun, ended);
  if workload == "w1" {
    for _ in 0..warm_up {
      socket.send(&fds).await;
      close_all(socket.receive().await.unwrap());
    }
    latencies.reserve(n);
    cpu_begun = cpu();
    begun = Instant::now();
    let mut now = begun;
    for _ in 0..n {
      let before = now;
      socket.send(&fds).await;
      close_all(socket.receive().await.unwrap());
      now = Instant::now();
      latencies.push((now - before).as_secs_f64() * 1e6);
    }
    ended = now;
  } else {
    for _ in 0..warm_up {
      socket.send(&fds).await;
    }
    socket.receive().await;
    cpu_begun = cpu();
    begun = Instant::now();
    for _ in 0..n {
      socket.send(&fds).await;
    }
    socket.receive().await;
    ended = Instant::now();
  }
  let cpu_here = cpu() - cpu_begun;
  latencies.sort_by(f64::total_cmp);
  let stream = socket.stream.into_std().unwrap();
  stream.shutdown(Shutdown::Write).unwrap();
  let mut output = String::new();
  receiver.stdout.take().unwrap().read_to_string(&mut output).unwrap();
  receiver.wait().unwrap();
  let [cpu_there, received, first_rss, peak_rss, open] =
    *output.split_whitespace().map(|value| value.parse::<f64>().unwrap()).collect::<Vec<_>>()
  else {
    panic!("{output}")
  };
  print!(
    r#"{{"seconds":{},"cpu":{},"sent":{},"received":{received},"firstRss":{first_rss},"peakRss":{peak_rss},"open":{open}"#,
    (ended - begun).as_secs_f64(),
    cpu_here + cpu_there,
    (warm_up + n) * count
  );
  if workload == "w1" {
    print!(r#","p50":{},"p99":{}"#, latencies[n / 2], latencies[n * 99 / 100]);
  }
  println!("}}");
}

fn main() {
  let args: Vec<String> = std::env::args().collect();
  let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
  if args[1] == "receive" {
    runtime.block_on(receive(&args[2], args[3].parse().unwrap()));
  } else {
    runtime.block_on(send(&args[1], args[2].parse().unwrap()));
  }
}
