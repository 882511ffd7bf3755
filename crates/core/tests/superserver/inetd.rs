//! A program for each connection, or for the listener, as inetd starts them.
#![cfg(any(target_os = "linux", target_os = "android"))]

#[path = "../fixtures/mod.rs"]
mod fixtures;

use std::ffi::CString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use fdpass_core::superserver::{Call, Counters, Event, Inetd, InetdLimits, InetdMode, Listener};
use fdpass_core::{
  Errno, ExitStatus, Program, SpawnError, Step, TcpOptions, local_internet_address, tcp_listener, udp_socket,
};
use fixtures::reactor::*;
use tempfile::tempdir;

type Service = Running<Inetd<EventLoop>>;

const NO_LIMITS: InetdLimits = InetdLimits { connections: usize::MAX, per_client: None, per_minute: usize::MAX };

fn program(path: &str, arguments: &[&str]) -> Program {
  let string = |text: &str| CString::new(text).unwrap();
  let arguments = arguments.iter().copied().map(string).collect();
  Program { path: string(path), arguments, environment: vec![string("PATH=/usr/bin:/bin")], ..Program::default() }
}

fn sh(script: &str) -> Program {
  program("/bin/sh", &["sh", "-c", script])
}

fn cat() -> Program {
  program("/bin/cat", &["cat"])
}

fn missing() -> Program {
  program("/nowhere/at/all", &["missing"])
}

const MISSING: Event = Event::SpawnFailed(SpawnError { step: Step::Execute, errno: Errno::ENOENT });

/// Returns a program that runs a script on its listener or datagram socket.
fn python(script: &str) -> Option<Program> {
  let python = ["/usr/bin/python3", "/usr/local/bin/python3"].into_iter().find(|path| std::fs::exists(path).unwrap());
  if python.is_none() {
    println!("skipped: needs Python");
  }
  Some(program(python?, &["python3", "-Sc", &format!("import socket, sys\ns = socket.socket(fileno=0)\n{script}")]))
}

fn inetd(mode: InetdMode, program: Program, limits: InetdLimits) -> Service {
  Running::new(|events| Inetd::new(events, mode, program, limits).unwrap())
}

fn tcp() -> (OwnedFd, SocketAddr) {
  let options = TcpOptions { backlog: 128, ipv6_only: false, reuse_port: false };
  let listener = tcp_listener("127.0.0.1:0".parse().unwrap(), options).unwrap();
  let address = local_internet_address(listener.as_fd()).unwrap();
  (listener, address)
}

/// Returns an inetd with a TCP listener.
fn serving(mode: InetdMode, program: Program, limits: InetdLimits) -> (Service, SocketAddr) {
  let mut inetd = inetd(mode, program, limits);
  let (listener, address) = tcp();
  inetd.service.add_listener(Listener::new(listener, b"tcp")).unwrap();
  (inetd, address)
}

/// Returns an inetd with a datagram socket, and a socket that sends to it.
fn receiving(program: Program, limits: InetdLimits) -> (Service, UdpSocket) {
  let mut inetd = inetd(InetdMode::Wait, program, limits);
  let socket = udp_socket("127.0.0.1:0".parse().unwrap()).unwrap();
  let client = UdpSocket::bind("127.0.0.1:0").unwrap();
  client.connect(local_internet_address(socket.as_fd()).unwrap()).unwrap();
  client.set_nonblocking(true).unwrap();
  inetd.service.add_listener(Listener::new(socket, b"udp")).unwrap();
  (inetd, client)
}

fn connect(address: SocketAddr) -> TcpStream {
  let client = TcpStream::connect(address).unwrap();
  client.set_read_timeout(Some(TIMEOUT)).unwrap();
  client
}

/// Asserts that no process listens there. The child of another test may do so until it executes its program.
#[track_caller]
fn assert_is_closed(address: SocketAddr) {
  let begun = Instant::now();
  while TcpStream::connect(address).is_ok() {
    assert!(begun.elapsed() < TIMEOUT);
  }
}

#[track_caller]
fn until_running(inetd: &mut Service, count: usize) {
  inetd.until(|inetd| (inetd.service.running().len() == count).then_some(()));
}

#[track_caller]
fn until_started(inetd: &mut Service, count: u64) {
  inetd.until(|inetd| (inetd.service.counters().acknowledged == count).then_some(()));
}

#[track_caller]
fn line(client: &TcpStream) -> String {
  let mut line = String::new();
  BufReader::new(client).read_line(&mut line).unwrap();
  line.trim_end().to_owned()
}

#[track_caller]
fn answer(inetd: &mut Service, client: &UdpSocket) -> String {
  let mut bytes = [0; 64];
  let length = inetd.until(|_| client.recv(&mut bytes).ok());
  String::from_utf8(bytes[..length].to_vec()).unwrap()
}

/// Reads everything that a client receives.
#[track_caller]
fn text(mut client: &TcpStream) -> String {
  let mut text = String::new();
  client.read_to_string(&mut text).unwrap();
  text
}

#[test]
fn a_connection_is_a_programs_input_output_and_error_in_blocking_mode_and_ends_with_it() {
  let (mut inetd, address) = serving(
    InetdMode::Nowait,
    sh("read line; echo out $line; echo error >&2; grep flags /proc/self/fdinfo/0; readlink /proc/self/fd/*; exit 0"),
    NO_LIMITS,
  );
  let mut client = connect(address);
  client.write_all(b"in\n").unwrap();
  until_started(&mut inetd, 1);
  let text = text(&client);
  let lines: Vec<&str> = text.lines().collect();
  assert_eq!(lines[..2], ["out in", "error"]);
  let flags = i32::from_str_radix(lines[2].strip_prefix("flags:").unwrap().trim(), 8).unwrap();
  assert_eq!(flags & libc::O_NONBLOCK, 0);
  assert_eq!(lines[3..].iter().filter(|line| line.starts_with("socket:")).count(), 3);
  assert!(lines[3..6].iter().all(|line| *line == lines[3] && line.starts_with("socket:")), "{text}");
  until_running(&mut inetd, 0);
  let counters = Counters { accepted: 1, acknowledged: 1, completed: 1, ..Counters::default() };
  assert_eq!(inetd.service.counters(), counters);
  assert_eq!(inetd.events, [], "a good end is no news");
}

#[test]
fn each_connection_has_a_program_of_its_own() {
  let (mut inetd, address) = serving(InetdMode::Nowait, sh("echo $$; cat"), NO_LIMITS);
  let clients: Vec<TcpStream> = (0..20).map(|_| connect(address)).collect();
  until_running(&mut inetd, 20);
  let mut told: Vec<i32> = clients.iter().map(|client| line(client).parse().unwrap()).collect();
  let mut running: Vec<i32> = inetd.service.running().collect();
  told.sort_unstable();
  running.sort_unstable();
  assert_eq!(told, running);
  for mut client in &clients {
    client.write_all(b"echo").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(text(client), "echo");
  }
  until_running(&mut inetd, 0);
  assert_eq!(inetd.service.counters().completed, 20);
}

#[test]
fn a_unix_connection_is_served_too() {
  let folder = tempdir().unwrap();
  let path = folder.path().join("socket");
  let mut inetd = inetd(InetdMode::Nowait, sh("echo hello"), NO_LIMITS);
  let listener = UnixListener::bind(&path).unwrap();
  inetd.service.add_listener(Listener::new(listener.into(), b"unix")).unwrap();
  let mut client = UnixStream::connect(&path).unwrap();
  until_started(&mut inetd, 1);
  let mut text = String::new();
  client.read_to_string(&mut text).unwrap();
  assert_eq!(text, "hello\n");
}

#[test]
fn a_bad_end_of_a_program_is_told_and_the_connection_ends_with_it() {
  for (script, ending) in [("exit 3", ExitStatus::Code(3)), ("kill -KILL $$", ExitStatus::Signal(libc::SIGKILL))] {
    let (mut inetd, address) = serving(InetdMode::Nowait, sh(&format!("echo begun; {script}")), NO_LIMITS);
    let client = connect(address);
    until_started(&mut inetd, 1);
    let pid = inetd.service.running().next().unwrap();
    inetd.until_event(Event::ProgramEnded { pid, status: ending });
    assert_eq!(text(&client), "begun\n");
    assert_eq!(inetd.service.counters().completed, 1);
  }
}

#[test]
fn a_connection_that_a_programs_child_keeps_goes_on_after_the_programs_end() {
  let (mut inetd, address) =
    serving(InetdMode::Nowait, sh("exec 3<&0; (read line <&3; echo child $line) &"), NO_LIMITS);
  let mut client = connect(address);
  until_started(&mut inetd, 1);
  until_running(&mut inetd, 0);
  client.write_all(b"late\n").unwrap();
  assert_eq!(text(&client), "child late\n");
}

#[test]
fn programs_beyond_the_limit_wait_in_the_backlog() {
  let (mut inetd, address) = serving(InetdMode::Nowait, cat(), InetdLimits { connections: 2, ..NO_LIMITS });
  let clients: Vec<TcpStream> = (0..4).map(|_| connect(address)).collect();
  until_running(&mut inetd, 2);
  inetd.settle();
  assert_eq!(inetd.service.counters().accepted, 2);
  for (index, client) in clients.iter().enumerate() {
    client.shutdown(Shutdown::Write).unwrap();
    inetd.until(|inetd| (inetd.service.counters().completed == index as u64 + 1).then_some(()));
    assert!(inetd.service.running().len() <= 2);
    assert_eq!(text(client), "");
  }
}

#[test]
fn a_client_that_has_too_many_connections_has_others_closed_until_a_program_ends() {
  let (mut inetd, address) = serving(InetdMode::Nowait, cat(), InetdLimits { per_client: Some(2), ..NO_LIMITS });
  let clients = [connect(address), connect(address)];
  until_running(&mut inetd, 2);
  let refused = connect(address);
  inetd.until(|inetd| (inetd.service.counters().refused == 1).then_some(()));
  assert_eq!(text(&refused), "");
  for client in &clients {
    client.shutdown(Shutdown::Write).unwrap();
  }
  until_running(&mut inetd, 0);
  let _more = [connect(address), connect(address)];
  until_running(&mut inetd, 2);
  assert_eq!(inetd.service.counters().refused, 1);
}

#[test]
fn a_program_that_cannot_be_executed_ends_its_connection_and_no_other() {
  let limits = InetdLimits { per_client: Some(1), ..NO_LIMITS };
  let (mut inetd, address) = serving(InetdMode::Nowait, missing(), limits);
  for _ in 0..3 {
    let client = connect(address);
    inetd.until_event(MISSING);
    assert_eq!(text(&client), "");
  }
  let counters = Counters { accepted: 3, lost: 3, ..Counters::default() };
  assert_eq!(inetd.service.counters(), counters);
  inetd.service.set_program(sh("echo here now"), limits);
  let client = connect(address);
  until_started(&mut inetd, 1);
  assert_eq!(text(&client), "here now\n");
  assert_eq!(inetd.service.counters().refused, 0, "those that failed have ended");
}

#[test]
fn too_many_programs_within_a_minute_are_followed_by_a_pause_in_which_connections_wait_s71_s97() {
  let limits = InetdLimits { per_minute: 3, ..NO_LIMITS };
  let (mut inetd, address) = serving(InetdMode::Nowait, sh("echo served"), limits);
  let clients: Vec<TcpStream> = (0..7).map(|_| connect(address)).collect();
  for round in 1..=2 {
    inetd.until_event(Event::RateLimited);
    until_running(&mut inetd, 0);
    inetd.settle();
    assert_eq!(inetd.service.counters().accepted, 3 * round, "so many exactly");
    assert_eq!(inetd.events, []);
    inetd.service.retry();
  }
  until_started(&mut inetd, 7);
  for client in &clients {
    assert_eq!(text(client), "served\n");
  }
}

#[test]
fn programs_change_for_those_that_start_later() {
  let (mut inetd, address) = serving(InetdMode::Nowait, sh("echo old; cat"), NO_LIMITS);
  let mut old = connect(address);
  until_started(&mut inetd, 1);
  assert_eq!(line(&old), "old");
  inetd.service.set_program(sh("echo new"), NO_LIMITS);
  let new = connect(address);
  until_started(&mut inetd, 2);
  assert_eq!(text(&new), "new\n");
  old.write_all(b"goes on\n").unwrap();
  assert_eq!(line(&old), "goes on");
}

#[test]
fn after_stop_nothing_is_started_and_idle_is_told_when_all_programs_have_ended() {
  let (mut inetd, address) = serving(InetdMode::Nowait, cat(), NO_LIMITS);
  let clients = [connect(address), connect(address)];
  until_running(&mut inetd, 2);
  inetd.service.stop();
  assert_is_closed(address);
  for mut client in &clients {
    inetd.settle();
    assert_eq!(inetd.events, []);
    client.write_all(b"still served").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(text(client), "still served");
  }
  inetd.until_event(Event::Idle);
}

#[test]
fn what_has_no_programs_is_idle_at_once() {
  for mode in [InetdMode::Nowait, InetdMode::Wait] {
    let (mut inetd, _) = serving(mode, cat(), NO_LIMITS);
    inetd.service.stop();
    inetd.until_event(Event::Idle);
  }
}

#[test]
fn a_listener_that_is_removed_is_closed_and_its_programs_go_on() {
  let (mut inetd, address) = serving(InetdMode::Nowait, cat(), NO_LIMITS);
  let (listener, other) = tcp();
  let token = inetd.service.add_listener(Listener::new(listener, b"other")).unwrap();
  let mut client = connect(other);
  until_running(&mut inetd, 1);
  inetd.service.remove_listener(token);
  inetd.service.on_ready(token);
  assert_is_closed(other);
  client.write_all(b"goes on\n").unwrap();
  assert_eq!(line(&client), "goes on");
  let _client = connect(address);
  until_running(&mut inetd, 2);
}

#[test]
fn a_socket_of_datagrams_has_no_connections_for_programs() {
  let mut inetd = inetd(InetdMode::Nowait, cat(), NO_LIMITS);
  let socket = udp_socket("127.0.0.1:0".parse().unwrap()).unwrap();
  let client = UdpSocket::bind("127.0.0.1:0").unwrap();
  client.connect(local_internet_address(socket.as_fd()).unwrap()).unwrap();
  inetd.service.add_listener(Listener::new(socket, b"udp")).unwrap();
  client.send(b"datagram").unwrap();
  inetd.until_event(Event::Exhausted { call: Call::Accept, errno: Errno::EOPNOTSUPP });
  inetd.settle();
}

#[test]
fn a_program_has_the_listener_until_it_ends_and_then_the_next_one() {
  let script = "c = socket.socket(fileno=2).accept()[0]\nc.send(b'%d\\n' % s.getblocking())\nc.recv(1)\nsys.exit(5)";
  let Some(program) = python(script) else { return };
  let (mut inetd, address) = serving(InetdMode::Wait, program, NO_LIMITS);
  inetd.settle();
  assert_eq!(inetd.service.running().len(), 0, "no client has connected");
  let clients = [connect(address), connect(address), connect(address)];
  for (index, client) in clients.iter().enumerate() {
    until_started(&mut inetd, index as u64 + 1);
    let pid = inetd.service.running().next().unwrap();
    inetd.until_event(Event::ProgramStarted { pid });
    assert_eq!(line(client), "1", "it is in blocking mode");
    inetd.settle();
    assert_eq!(inetd.service.running().collect::<Vec<_>>(), [pid], "one at a time");
    client.shutdown(Shutdown::Write).unwrap();
    inetd.until_event(Event::ProgramEnded { pid, status: ExitStatus::Code(5) });
  }
  inetd.settle();
  assert_eq!(inetd.service.running().len(), 0, "no client waits");
}

#[test]
fn a_listener_that_a_program_leaves_in_non_blocking_mode_is_in_blocking_mode_for_the_next() {
  let script = "c = s.accept()[0]\nc.send(b'%d\\n' % s.getblocking())\ns.setblocking(False)";
  let Some(program) = python(script) else { return };
  let (mut inetd, address) = serving(InetdMode::Wait, program, NO_LIMITS);
  for index in 1..=2 {
    let client = connect(address);
    until_started(&mut inetd, index);
    assert_eq!(line(&client), "1");
    until_running(&mut inetd, 0);
  }
}

#[test]
fn a_program_that_takes_nothing_is_started_again_until_that_is_too_fast() {
  let (mut inetd, address) = serving(InetdMode::Wait, sh(""), InetdLimits { per_minute: 5, ..NO_LIMITS });
  let client = connect(address);
  for round in 1..=2 {
    inetd.until_event(Event::RateLimited);
    until_running(&mut inetd, 0);
    inetd.settle();
    assert_eq!(inetd.service.counters().acknowledged, 5 * round);
    inetd.service.retry();
  }
  drop(client);
}

#[test]
fn a_datagram_is_a_programs_with_the_socket() {
  let script = "data, peer = s.recvfrom(64)\ns.sendto(data.upper(), peer)";
  let Some(program) = python(script) else { return };
  let (mut inetd, client) = receiving(program, NO_LIMITS);
  // Connections that arrive while a program runs are left to the next one.
  for text in ["one", "two", "three"] {
    client.send(text.as_bytes()).unwrap();
  }
  for text in ["ONE", "TWO", "THREE"] {
    assert_eq!(answer(&mut inetd, &client), text);
  }
  until_running(&mut inetd, 0);
  inetd.settle();
  assert_eq!(inetd.service.counters(), Counters { accepted: 3, acknowledged: 3, completed: 3, ..Counters::default() });
}

#[test]
fn a_datagram_for_a_program_that_cannot_be_executed_is_dropped_and_no_other() {
  let Some(program) = python("data, peer = s.recvfrom(64)\ns.sendto(data, peer)") else { return };
  let (mut inetd, client) = receiving(missing(), NO_LIMITS);
  for text in ["one", "two", "three"] {
    client.send(text.as_bytes()).unwrap();
  }
  inetd.turn(Duration::from_secs(1));
  inetd.until_event(MISSING);
  inetd.turn(Duration::from_secs(1));
  inetd.until_event(MISSING);
  inetd.service.set_program(program, NO_LIMITS);
  assert_eq!(answer(&mut inetd, &client), "three");
  assert_eq!(inetd.service.counters().lost, 2);
}

#[test]
fn a_listener_whose_program_cannot_be_executed_rests_and_its_connections_wait() {
  let Some(program) = python("c = s.accept()[0]\nc.send(b'served\\n')") else { return };
  let (mut inetd, address) = serving(InetdMode::Wait, missing(), NO_LIMITS);
  let client = connect(address);
  for _ in 0..2 {
    inetd.until_event(MISSING);
    inetd.until_event(Event::RateLimited);
    inetd.settle();
    assert_eq!(inetd.events, []);
    inetd.service.retry();
  }
  inetd.service.set_program(program, NO_LIMITS);
  inetd.service.retry();
  until_started(&mut inetd, 1);
  assert_eq!(line(&client), "served");
}

#[test]
fn a_limit_on_programs_holds_for_listeners_that_are_ready_at_the_same_time() {
  let mut inetd = inetd(InetdMode::Wait, sh("exec sleep 1000"), InetdLimits { connections: 1, ..NO_LIMITS });
  let mut clients = Vec::new();
  for _ in 0..3 {
    let (listener, address) = tcp();
    inetd.service.add_listener(Listener::new(listener, b"tcp")).unwrap();
    clients.push(connect(address));
  }
  assert_eq!(inetd.turn(TIMEOUT), 3);
  assert_eq!(inetd.service.running().len(), 1);
  for _ in 0..2 {
    inetd.settle();
    let pid = inetd.service.running().next().unwrap();
    kill(pid);
    inetd.until_event(Event::ProgramEnded { pid, status: ExitStatus::Signal(libc::SIGKILL) });
  }
  inetd.service.running().for_each(kill);
}

/// Kills a program of this test that is still running.
fn kill(pid: i32) {
  // SAFETY: integers only.
  unsafe { libc::kill(pid, libc::SIGKILL) };
}

#[test]
fn a_pause_holds_for_listeners_that_are_ready_at_the_same_time() {
  let mut inetd = inetd(InetdMode::Wait, sh(""), InetdLimits { per_minute: 1, ..NO_LIMITS });
  let mut clients = Vec::new();
  for _ in 0..3 {
    let (listener, address) = tcp();
    inetd.service.add_listener(Listener::new(listener, b"tcp")).unwrap();
    clients.push(connect(address));
  }
  assert_eq!(inetd.turn(TIMEOUT), 3);
  assert_eq!(inetd.service.counters().acknowledged, 1);
}

#[test]
fn a_program_that_shuts_the_listener_down_has_no_second_one_beside_it_s54() {
  let Some(program) = python("import time\ns.shutdown(socket.SHUT_RDWR)\ntime.sleep(1000)") else { return };
  let (mut inetd, address) = serving(InetdMode::Wait, program, InetdLimits { per_minute: 5, ..NO_LIMITS });
  let shut = connect(address);
  until_started(&mut inetd, 1);
  assert!((&shut).read(&mut [0]).is_err(), "the connection in its backlog is reset");
  inetd.settle();
  assert_eq!(inetd.service.counters().acknowledged, 1);
  inetd.service.running().for_each(kill);
}

#[test]
fn after_stop_a_program_keeps_its_listener_and_none_is_started_after_it() {
  let serve = "c = s.accept()[0]\nc.send(b'served\\n')\nc.recv(1)\n";
  let Some(program) = python(&serve.repeat(2)) else { return };
  let (mut inetd, address) = serving(InetdMode::Wait, program, NO_LIMITS);
  let first = connect(address);
  until_started(&mut inetd, 1);
  assert_eq!(line(&first), "served");
  inetd.service.stop();
  inetd.settle();
  assert!(!inetd.has_event(Event::Idle));
  let (second, third) = (connect(address), connect(address));
  first.shutdown(Shutdown::Write).unwrap();
  assert_eq!(line(&second), "served");
  second.shutdown(Shutdown::Write).unwrap();
  inetd.until_event(Event::Idle);
  assert_eq!(inetd.service.counters().acknowledged, 1);
  assert!((&third).read(&mut [0]).is_err(), "no process has its listener any more");
}

#[test]
fn what_cannot_be_watched_is_refused_and_closed() {
  let (mut inetd, address) = serving(InetdMode::Nowait, sh("echo served"), NO_LIMITS);
  inetd.event_loop.refuses.set(Some(Errno::ENOMEM));
  let (listener, other) = tcp();
  assert_eq!(inetd.service.add_listener(Listener::new(listener, b"")), Err(Errno::ENOMEM));
  assert_is_closed(other);
  // A program that cannot be registered serves its connection all the same.
  let client = connect(address);
  inetd.turn(TIMEOUT);
  assert_eq!(text(&client), "served\n");
  assert_eq!(inetd.service.running().len(), 0);
  assert!(inetd.has_event(Event::Exhausted { call: Call::Register, errno: Errno::ENOMEM }));
  inetd.event_loop.refuses.set(None);
  inetd.service.retry();
  let client = connect(address);
  until_started(&mut inetd, 2);
  assert_eq!(text(&client), "served\n");
}
