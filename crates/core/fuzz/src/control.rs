//! Control messages: walking over any bytes, and decoding well-formed messages.

use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use fdpass_core::AncillaryOptions;
use fdpass_core::fuzzing::{decode, own_all};

use super::probes::{Input, Probes, below, byte, flag, some};

const SCM_PIDFD: libc::c_int = 4;
const HEADER: usize = 16; // on 64-bit Linux

pub fn run(input: &[u8]) {
  let mut input = Input::new(input);
  match byte(&mut input) % 3 {
    0 => walk_anything(&mut input),
    1 => walk_messages(&mut input),
    _ => decode_messages(&mut input),
  }
}

/// Returns the numbers that the walk would own, without closing them.
fn walked(control: &[u8]) -> Vec<RawFd> {
  own_all(control).into_iter().map(OwnedFd::into_raw_fd).collect()
}

/// Returns the descriptor numbers in a buffer, by the layout in cmsg(3): each header begins where the previous message ends.
fn numbers_in(control: &[u8]) -> Vec<RawFd> {
  let word = |at: usize| i32::from_ne_bytes(control[at..at + 4].try_into().unwrap());
  let mut numbers = Vec::new();
  let mut at = 0;
  while at + HEADER <= control.len() {
    let length = u64::from_ne_bytes(control[at..at + 8].try_into().unwrap());
    let end = usize::try_from(length).unwrap_or(usize::MAX).saturating_add(at).min(control.len());
    if end < at + HEADER {
      break;
    }
    if word(at + 8) == libc::SOL_SOCKET && [libc::SCM_RIGHTS, SCM_PIDFD].contains(&word(at + 12)) {
      let words = (at + HEADER..end).step_by(4).filter(|start| start + 4 <= end);
      numbers.extend(words.map(word).filter(|&number| number >= 0));
    }
    at = end.next_multiple_of(8);
  }
  numbers
}

/// Copies a buffer to an even or odd address, with no memory behind it.
fn placed(control: &[u8], odd: bool) -> Box<[u8]> {
  std::iter::repeat_n(0, usize::from(odd)).chain(control.iter().copied()).collect()
}

/// Checks that a walk over any bytes reads nothing else and finds every number.
fn walk_anything(input: &mut Input<'_>) {
  let odd = flag(input);
  let bytes = input.bytes(input.len()).unwrap_or_default();
  let control = placed(bytes, odd);
  assert_eq!(walked(&control[usize::from(odd)..]), numbers_in(bytes));
}

/// Opens descriptors without an owner, as a receive leaves them.
fn install(probes: &Probes, which: &[u8]) -> Vec<RawFd> {
  which.iter().map(|&which| probes.duplicate(which).into_raw_fd()).collect()
}

/// Checks that each descriptor of kernel-like messages, well-formed or nearly so, is owned once.
fn walk_messages(input: &mut Input<'_>) {
  let probes = Probes::new();
  let mut installed = Vec::new();
  let mut control = Vec::new();
  let odd = flag(input);
  for _ in 0..below(input, 5) {
    let (level, kind) = match byte(input) % 8 {
      0..4 => (libc::SOL_SOCKET, libc::SCM_RIGHTS),
      4 => (libc::SOL_SOCKET, SCM_PIDFD),
      5 => (libc::SOL_SOCKET, libc::SCM_CREDENTIALS),
      6 => (libc::IPPROTO_IP, libc::SCM_RIGHTS),
      _ => (i32::from(byte(input)), i32::from(byte(input))),
    };
    let holds = level == libc::SOL_SOCKET && [libc::SCM_RIGHTS, SCM_PIDFD].contains(&kind);
    let mut data: Vec<u8> = if holds {
      let numbers = install(&probes, &some(input));
      installed.extend(&numbers);
      numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
    } else {
      vec![0xff; below(input, 40)]
    };
    if flag(input) {
      data.extend((-i32::from(byte(input)) - 1).to_ne_bytes());
    }
    let claimed = match byte(input) % 8 {
      0..6 => (HEADER + data.len()) as u64,
      6 => u64::from(byte(input)),
      _ => input.arbitrary().unwrap_or(0),
    };
    control.extend(claimed.to_ne_bytes());
    control.extend(level.to_ne_bytes());
    control.extend(kind.to_ne_bytes());
    control.extend(data);
    control.resize(control.len().next_multiple_of(8), 0);
  }
  match byte(input) {
    zeros @ 0..=127 => control.resize(control.len() + usize::from(zeros), 0),
    cut => control.truncate(control.len() - control.len().min(usize::from(cut - 128))),
  }
  let placed = placed(&control, odd);
  let buffer = &placed[usize::from(odd)..];
  let found = walked(buffer);
  assert_eq!(found, numbers_in(buffer));
  // With a wrong length, other bytes may be read as numbers.
  let mut unique = found.clone();
  unique.sort_unstable();
  unique.dedup();
  if unique.len() == found.len() && found.iter().all(|number| installed.contains(number)) {
    let owned = own_all(buffer);
    assert_eq!(owned.iter().map(AsRawFd::as_raw_fd).collect::<Vec<_>>(), found);
    installed.retain(|number| !found.contains(number));
    drop(owned);
  }
  // SAFETY: installed above, and nothing else owns them.
  installed.into_iter().for_each(|number| drop(unsafe { OwnedFd::from_raw_fd(number) }));
  probes.assert_all_closed();
}

/// Checks the decoding of complete messages.
fn decode_messages(input: &mut Input<'_>) {
  let probes = Probes::new();
  let asked = AncillaryOptions { credentials: flag(input), pidfd: flag(input) };
  let (mut control, mut rights) = (Vec::new(), Vec::new());
  let (mut unexpected, mut lost, mut credentials, mut pidfd) = (false, false, false, None);
  for _ in 0..below(input, 6) {
    match byte(input) % 4 {
      0 => {
        let which = some(input);
        // A kernel delivers no more.
        if rights.len() + which.len() <= fdpass_core::MAX_RECEIVED_FDS {
          let mut numbers = install(&probes, &which);
          if flag(input) {
            numbers.insert(below(input, numbers.len() + 1), -libc::EPERM);
            lost = true;
          }
          push(&mut control, libc::SOL_SOCKET, libc::SCM_RIGHTS, &numbers);
          rights.extend(which);
        }
      }
      1 => {
        push(&mut control, libc::SOL_SOCKET, libc::SCM_CREDENTIALS, &[1, 0, 0]);
        if asked.credentials { credentials = true } else { unexpected = true }
      }
      2 => {
        let which: Vec<u8> = some(input).into_iter().take(2).collect();
        let errno = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ESRCH, libc::EINVAL][below(input, 5)];
        let numbers = if which.is_empty() && flag(input) { vec![-errno] } else { install(&probes, &which) };
        if numbers.is_empty() || !asked.pidfd {
          unexpected = true; // a pidfd message without a pidfd
        } else if let Some(&last) = which.last() {
          pidfd = Some(last);
        } else {
          lost |= [libc::EMFILE, libc::ENFILE, libc::ENOMEM].contains(&errno);
        }
        push(&mut control, libc::SOL_SOCKET, SCM_PIDFD, &numbers);
      }
      _ => {
        unexpected = true;
        let level = if flag(input) { libc::SOL_SOCKET } else { libc::IPPROTO_IP };
        let kind = if level == libc::SOL_SOCKET { 0x7fff } else { libc::SCM_RIGHTS };
        push(&mut control, level, kind, &[i32::from(byte(input))]);
      }
    }
  }
  let outcome = decode(&control, asked);
  probes.check(&outcome.rights, &rights);
  assert_eq!(outcome.pidfd.as_ref().map(|pidfd| probes.which(pidfd)), pidfd.map(|which| which % 4));
  assert_eq!((outcome.unexpected, outcome.lost, outcome.credentials), (unexpected, lost, credentials));
  drop(outcome);
  probes.assert_all_closed();
}

/// Appends a message with the kernel's layout.
fn push(control: &mut Vec<u8>, level: libc::c_int, kind: libc::c_int, words: &[i32]) {
  control.extend(((HEADER + size_of_val(words)) as u64).to_ne_bytes());
  control.extend(level.to_ne_bytes());
  control.extend(kind.to_ne_bytes());
  control.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
  control.resize(control.len().next_multiple_of(8), 0);
}
