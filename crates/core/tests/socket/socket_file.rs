//! Files of bound sockets: their mode, and when they are replaced and removed.

#[path = "../fixtures/mod.rs"]
mod fixtures;

use std::fs::{self, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use fdpass_core::{AncillaryOptions, Errno, Socket, SocketFile, SocketType};
use fixtures::{assert_nothing_in, bound};
use nix::sys::stat::Mode;
use tempfile::tempdir;

#[test]
fn the_file_goes_with_the_socket_or_stays_if_it_is_kept() {
  let folder = tempdir().unwrap();
  let path = folder.path().join("x");
  let (fd, file) = bound(SocketType::Stream, &path, None).unwrap();
  drop(file);
  assert!(!path.exists());
  drop(fd);
  let (_fd, file) = bound(SocketType::Stream, &path, None).unwrap();
  file.keep();
  assert!(path.exists());
}

#[test]
fn a_file_that_is_handed_on_goes_with_whoever_claims_it() {
  let folder = tempdir().unwrap();
  let path = folder.path().join("x");
  let (fd, file) = bound(SocketType::Stream, &path, None).unwrap();
  let id = file.hand_over();
  assert!(path.exists());
  let theirs = fd.try_clone().unwrap(); // as another process receives it
  drop(fd);
  let socket = Socket::from_parts(theirs.as_fd(), SocketType::Stream, AncillaryOptions::default());
  let claimed = SocketFile::claim(socket, id).unwrap().expect("it is that file");
  drop(claimed);
  assert!(!path.exists());
}

#[test]
fn a_file_that_took_the_place_of_one_handed_on_is_not_claimed() {
  let folder = tempdir().unwrap();
  let path = folder.path().join("x");
  let (fd, file) = bound(SocketType::Stream, &path, None).unwrap();
  let id = file.hand_over();
  let socket = Socket::from_parts(fd.as_fd(), SocketType::Stream, AncillaryOptions::default());
  fs::remove_file(&path).unwrap();
  assert!(SocketFile::claim(socket, id).unwrap().is_none());
  fs::write(&path, "mine").unwrap();
  assert!(SocketFile::claim(socket, id).unwrap().is_none());
  assert!(path.exists());
}

#[test]
fn a_file_that_took_its_place_stays() {
  let folder = tempdir().unwrap();
  let path = folder.path().join("x");
  for replace in [
    |path: &Path| fs::write(path, "mine").unwrap(),
    |path: &Path| symlink("elsewhere", path).unwrap(),
    |path: &Path| fs::create_dir(path).unwrap(),
    |path: &Path| bound(SocketType::Stream, path, None).unwrap().1.keep(),
  ] {
    let (_fd, file) = bound(SocketType::Stream, &path, None).unwrap();
    fs::remove_file(&path).unwrap();
    replace(&path);
    let theirs = path.symlink_metadata().unwrap().ino();
    drop(file);
    assert_eq!(path.symlink_metadata().unwrap().ino(), theirs);
    fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).unwrap();
  }
}

#[test]
fn a_file_that_was_renamed_stays() {
  let folder = tempdir().unwrap();
  let (_fd, file) = bound(SocketType::Stream, &folder.path().join("x"), None).unwrap();
  fs::rename(folder.path().join("x"), folder.path().join("y")).unwrap();
  drop(file);
  assert!(folder.path().join("y").exists());
}

#[test]
fn a_stale_file_of_any_type_is_replaced_by_any() {
  let folder = tempdir().unwrap();
  let path = folder.path().join("x");
  for &old in fixtures::TYPES {
    for &new in fixtures::TYPES {
      bound(old, &path, None).unwrap().1.keep();
      bound(new, &path, None).unwrap();
    }
  }
  assert_nothing_in(folder.path());
}

#[test]
fn the_file_of_a_live_socket_is_never_replaced_listening_or_not() {
  let folder = tempdir().unwrap();
  let path = folder.path().join("x");
  for &old in fixtures::TYPES {
    for listening in [false, true] {
      let (fd, file) = bound(old, &path, None).unwrap();
      if listening && old != SocketType::Dgram {
        Socket::from_parts(fd.as_fd(), old, AncillaryOptions::default()).listen(1).unwrap();
      }
      let ours = path.symlink_metadata().unwrap().ino();
      for &new in fixtures::TYPES {
        assert_eq!(bound(new, &path, None).unwrap_err(), Errno::EADDRINUSE, "{new:?} over {old:?}");
        assert_eq!(path.symlink_metadata().unwrap().ino(), ours);
      }
      drop(file);
      assert_nothing_in(folder.path());
    }
  }
}

#[test]
fn probing_a_live_socket_disturbs_nobody() {
  let folder = tempdir().unwrap();
  let path = folder.path().join("x");
  let (fd, _file) = bound(SocketType::Stream, &path, None).unwrap();
  let listener = Socket::from_parts(fd.as_fd(), SocketType::Stream, AncillaryOptions::default());
  listener.listen(1).unwrap();
  assert_eq!(bound(SocketType::Stream, &path, None).unwrap_err(), Errno::EADDRINUSE);
  fdpass_core::set_blocking(fd.as_fd(), false).unwrap();
  assert_eq!(listener.accept().unwrap_err(), Errno::EAGAIN);
}

#[test]
fn what_is_no_socket_is_never_removed() {
  let folder = tempdir().unwrap();
  let path = folder.path().join("x");
  let target = folder.path().join("target");
  bound(SocketType::Stream, &target, None).unwrap().1.keep(); // stale
  for make in [
    |path: &Path| fs::write(path, "mine").unwrap(),
    |path: &Path| symlink(path.with_file_name("target"), path).unwrap(),
    |path: &Path| symlink(path.with_file_name("nowhere"), path).unwrap(),
    |path: &Path| fs::create_dir(path).unwrap(),
    |path: &Path| nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap(),
  ] {
    make(&path);
    let theirs = path.symlink_metadata().unwrap().ino();
    assert_eq!(bound(SocketType::Stream, &path, None).unwrap_err(), Errno::EADDRINUSE);
    assert_eq!(path.symlink_metadata().unwrap().ino(), theirs);
    fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).unwrap();
  }
  assert!(target.symlink_metadata().is_ok());
}

#[test]
fn while_another_holds_the_lock_the_file_is_left_alone() {
  let folder = tempdir().unwrap();
  let path = folder.path().join("x");
  bound(SocketType::Stream, &path, None).unwrap().1.keep(); // stale
  let lock = fs::File::create(folder.path().join("x.fdpass-lock")).unwrap();
  let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusiveNonblock).unwrap();
  assert_eq!(bound(SocketType::Stream, &path, None).unwrap_err(), Errno::EAGAIN);
  assert!(path.symlink_metadata().is_ok());
  drop(lock); // as when its holder dies: the lock's file remains
  let (_fd, _file) = bound(SocketType::Stream, &path, None).unwrap();
  assert!(!folder.path().join("x.fdpass-lock").exists());
}

#[test]
fn of_many_threads_that_race_for_a_stale_file_exactly_one_gets_it() {
  let folder = tempdir().unwrap();
  let path = folder.path().join("x");
  for _ in 0..50 {
    bound(SocketType::Stream, &path, None).unwrap().1.keep(); // stale
    let start = std::sync::Barrier::new(8);
    let winners: Vec<_> = std::thread::scope(|scope| {
      let race = || {
        start.wait();
        loop {
          match bound(SocketType::Stream, &path, None) {
            Err(Errno::EAGAIN) => std::thread::yield_now(),
            result => return result,
          }
        }
      };
      let threads: Vec<_> = (0..8).map(|_| scope.spawn(race)).collect();
      threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let won = winners.iter().filter(|result| result.is_ok()).count();
    assert_eq!(won, 1);
    assert!(winners.iter().all(|result| matches!(result, Ok(_) | Err(Errno::EADDRINUSE))));
    drop(winners);
    assert_nothing_in(folder.path());
  }
}

#[test]
fn a_live_socket_never_loses_its_file_however_many_come_and_go() {
  let folder = tempdir().unwrap();
  let path = folder.path().join("x");
  let end = std::time::Instant::now() + std::time::Duration::from_secs(3);
  let come_and_go = || {
    let mut bound_times = 0;
    while std::time::Instant::now() < end {
      let Ok((_fd, file)) = bound(SocketType::Stream, &path, None) else { continue };
      let inode = path.symlink_metadata().unwrap().ino();
      for _ in 0..10 {
        let found = path.symlink_metadata().map(|metadata| metadata.ino());
        assert_eq!(found.ok(), Some(inode));
      }
      if bound_times % 2 == 0 {
        file.keep(); // stale for the next one
      }
      bound_times += 1;
    }
    bound_times
  };
  let times: Vec<u32> = std::thread::scope(|scope| {
    let threads: Vec<_> = (0..4).map(|_| scope.spawn(come_and_go)).collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
  });
  assert!(times.iter().all(|&times| times > 0), "{times:?}");
}

#[test]
fn a_folder_that_cannot_be_written_is_told() {
  let folder = tempdir().unwrap();
  assert_eq!(bound(SocketType::Stream, &folder.path().join("no/x"), None).unwrap_err(), Errno::ENOENT);
  fs::set_permissions(folder.path(), Permissions::from_mode(0o500)).unwrap();
  if !nix::unistd::geteuid().is_root() {
    assert_eq!(bound(SocketType::Stream, &folder.path().join("x"), None).unwrap_err(), Errno::EACCES);
  }
}

/// The path is short enough for bind(2), and the absolute path too long for lstat(2).
#[cfg(target_os = "linux")]
#[test]
fn a_file_that_cannot_be_found_after_all_does_not_stay() {
  let folder = tempdir().unwrap();
  let there = folder.path().to_owned();
  let in_its_own_folder = move || {
    // SAFETY: a flag only; this thread alone changes its directory then.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_FS) }, 0);
    nix::unistd::chdir(&there).unwrap();
    let name = "n".repeat(250);
    for _ in 0..=libc::PATH_MAX as usize / name.len() {
      fs::create_dir(&name).unwrap();
      nix::unistd::chdir(name.as_str()).unwrap();
    }
    assert_eq!(bound(SocketType::Stream, Path::new("x"), None).err(), Some(Errno::ENAMETOOLONG));
    assert!(fs::symlink_metadata("x").is_err());
    assert_eq!(fs::read_dir(".").unwrap().count(), 0);
  };
  std::thread::spawn(in_its_own_folder).join().unwrap();
}
