//! Opening beneath a directory: what is refused, and that no other file is opened while path components are swapped.
#![cfg(target_os = "linux")]

mod fixtures;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command};

use fdpass_core::{Errno, Kind, create_beneath, find_beneath, open_beneath, open_by_component, open_found, open_root};
use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, RenameFlags, fcntl, renameat2};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

/// Opens a file and reads it.
type Way = fn(&Folder, &str) -> Result<String, Errno>;

/// The two implementations, which have to agree.
const WAYS: [Way; 2] = [
  |folder, path| {
    let flags = OFlag::O_RDONLY;
    let found = find_beneath(folder.root.as_fd(), path.as_ref(), flags)?;
    content(open_found(folder.root.as_fd(), path.as_ref(), found.as_fd(), flags)?)
  },
  |folder, path| {
    content(open_by_component(folder.root.as_fd(), path.as_ref(), OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty())?)
  },
];

fn content(file: OwnedFd) -> Result<String, Errno> {
  let mut text = String::new();
  File::from(file).read_to_string(&mut text).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap()))?;
  Ok(text)
}

/// A folder with a root, which holds `file` and `folder/file`, and with files beside the root that must not be reachable.
struct Folder {
  path: TempDir,
  root: OwnedFd,
}

impl Folder {
  fn new() -> Self {
    let path = tempfile::tempdir().unwrap();
    for folder in ["inner/folder/deeper", "outside"] {
      fs::create_dir_all(path.path().join(folder)).unwrap();
    }
    for (file, text) in [("inner/file", "inside"), ("inner/folder/file", "inside"), ("outside/file", "outside")] {
      fs::write(path.path().join(file), text).unwrap();
    }
    let root = open_root(&path.path().join("inner")).unwrap();
    Self { path, root }
  }

  fn inside(&self, path: &str) -> std::path::PathBuf {
    self.path.path().join("inner").join(path)
  }

  #[track_caller]
  fn assert_refused(&self, path: &str, errno: Errno) {
    for way in WAYS {
      assert_eq!(way(self, path), Err(errno), "{path}");
    }
  }
}

#[test]
fn what_is_beneath_is_opened_by_any_spelling() {
  let folder = Folder::new();
  for path in ["file", "./file", "folder/file", "folder//file", "folder/../file", "folder/deeper/../../file"] {
    for way in WAYS {
      assert_eq!(way(&folder, path).as_deref(), Ok("inside"), "{path}");
    }
  }
}

#[test]
fn a_path_that_leads_out_is_refused_even_where_it_leads_back() {
  let folder = Folder::new();
  for path in ["..", "../outside/file", "folder/../../outside/file", "../inner/file", "/etc/passwd"] {
    folder.assert_refused(path, Errno::EACCES);
  }
  folder.assert_refused("missing/file", Errno::ENOENT);
  folder.assert_refused("file/", Errno::ENOTDIR);
  folder.assert_refused("file/file", Errno::ENOTDIR);
  folder.assert_refused("", Errno::ENOENT);
  folder.assert_refused("folder", Errno::EISDIR); // returned by the read
}

#[test]
fn links_out_are_refused_and_links_within_only_by_component() {
  let folder = Folder::new();
  for (target, link) in [("/etc", "absolute"), ("../outside", "out"), ("folder", "within"), ("loop", "loop")] {
    symlink(target, folder.inside(link)).unwrap();
  }
  for path in ["absolute/passwd", "absolute", "out/file", "out", "loop"] {
    folder.assert_refused(path, Errno::EACCES);
  }
  let [at_once, by_component] = WAYS;
  let within = at_once(&folder, "within/file");
  // SAFETY: the kernel reads nothing: EFAULT, or EINVAL for the size.
  let refusal = Errno::result(unsafe { libc::syscall(libc::SYS_openat2, -1, 0, 0, 0) }).unwrap_err();
  if matches!(refusal, Errno::ENOSYS | Errno::EPERM) {
    assert_eq!(within, Err(Errno::EACCES)); // before Linux 5.6 both ways are the same
  } else {
    assert_eq!(within.as_deref(), Ok("inside"));
  }
  assert_eq!(by_component(&folder, "within/file"), Err(Errno::EACCES));
  let refused = find_beneath(folder.root.as_fd(), Path::new("within"), OFlag::O_NOFOLLOW);
  assert_eq!(refused.map(drop), Err(Errno::EACCES));
}

#[test]
fn magic_links_are_refused() {
  let folder = Folder { root: open_root(Path::new("/proc")).unwrap(), path: tempfile::tempdir().unwrap() };
  let file = File::open("/etc/passwd").unwrap();
  let number = std::os::fd::AsRawFd::as_raw_fd(&file);
  let process = std::process::id();
  for link in ["root/etc/passwd", "cwd", &format!("fd/{number}"), "exe"] {
    folder.assert_refused(&format!("{process}/{link}"), Errno::EACCES);
  }
}

#[test]
fn what_is_found_is_known_and_not_yet_opened() {
  let folder = Folder::new();
  mkfifo(&folder.inside("fifo"), Mode::S_IRWXU).unwrap();
  let find = |path: &str| find_beneath(folder.root.as_fd(), path.as_ref(), OFlag::O_RDWR).unwrap();
  assert_eq!(Kind::of(find("file").as_fd()), Ok(Kind::File));
  assert_eq!(Kind::of(find("folder").as_fd()), Ok(Kind::Directory));
  let fifo = find("fifo");
  assert_eq!(Kind::of(fifo.as_fd()), Ok(Kind::Fifo));
  let open = |flags| open_found(folder.root.as_fd(), Path::new("fifo"), fifo.as_fd(), flags);
  assert_eq!(open(OFlag::O_WRONLY).map(drop), Err(Errno::ENXIO)); // there is no reader
  let status = |fd: &OwnedFd| OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap());
  assert!(!status(&open(OFlag::O_RDONLY).unwrap()).contains(OFlag::O_NONBLOCK));
  assert!(status(&open(OFlag::O_RDONLY | OFlag::O_NONBLOCK).unwrap()).contains(OFlag::O_NONBLOCK));
}

#[test]
fn exactly_what_was_found_is_opened_s40() {
  let folder = Folder::new();
  let path = Path::new("file");
  let found = find_beneath(folder.root.as_fd(), path, OFlag::O_RDWR | OFlag::O_TRUNC).unwrap();
  fs::remove_file(folder.inside("file")).unwrap();
  symlink("../outside/file", folder.inside("file")).unwrap();
  let file = open_found(folder.root.as_fd(), path, found.as_fd(), OFlag::O_RDONLY).unwrap();
  assert_eq!(content(file).as_deref(), Ok("inside"));
  open_found(folder.root.as_fd(), path, found.as_fd(), OFlag::O_RDWR | OFlag::O_TRUNC).unwrap();
  assert_eq!(fs::read_to_string(folder.path.path().join("outside/file")).unwrap(), "outside");
}

#[test]
fn a_file_is_created_where_there_is_none() {
  let folder = Folder::new();
  symlink("nowhere", folder.inside("dangling")).unwrap();
  symlink("../outside/new", folder.inside("escaping")).unwrap();
  let create =
    |path: &str| create_beneath(folder.root.as_fd(), path.as_ref(), OFlag::O_WRONLY, Mode::from_bits_truncate(0o640));
  File::from(create("folder/new").unwrap()).write_all(b"new").unwrap();
  let metadata = fs::metadata(folder.inside("folder/new")).unwrap();
  assert_eq!(metadata.permissions().mode() & 0o700, 0o600);
  for path in ["file", "dangling", "escaping"] {
    assert_eq!(create(path).map(drop), Err(Errno::EEXIST));
  }
  assert_eq!(create("../outside/new").map(drop), Err(Errno::EACCES));
  assert_eq!(create("missing/new").map(drop), Err(Errno::ENOENT));
  assert!(!folder.path.path().join("outside/new").exists());
}

#[test]
fn flags_that_are_not_supported_are_refused() {
  let folder = Folder::new();
  for flags in [OFlag::O_PATH, OFlag::O_TMPFILE, OFlag::O_DIRECT, OFlag::O_ACCMODE, OFlag::O_CREAT | OFlag::O_DIRECTORY]
  {
    let found = find_beneath(folder.root.as_fd(), Path::new("file"), flags);
    assert_eq!(found.map(drop), Err(Errno::EINVAL), "{flags:?}");
  }
}

#[test]
fn what_is_opened_is_close_on_exec() {
  let folder = Folder::new();
  let file = open_beneath(folder.root.as_fd(), Path::new("file"), OFlag::O_RDONLY, Mode::empty()).unwrap();
  assert!(fixtures::is_close_on_exec(&file));
}

/// Swaps `root/swapped`, a folder, and `root/other`, a link to the outside, until it is killed. The race runs it in another process.
#[test]
#[ignore = "not a test: a program for one"]
fn swap() {
  let root = std::env::var_os("FDPASS_SWAPPED").unwrap();
  let [one, other] = ["swapped", "other"].map(|name| Path::new(&root).join(name));
  loop {
    renameat2(AT_FDCWD, &one, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE).unwrap();
  }
}

struct Swapper(Child);

impl Swapper {
  fn start(folder: &Folder) -> Self {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "swap", "--ignored"]).env("FDPASS_SWAPPED", folder.inside(""));
    Self(command.stdout(std::process::Stdio::null()).spawn().unwrap())
  }
}

impl Drop for Swapper {
  fn drop(&mut self) {
    self.0.kill().unwrap();
    self.0.wait().unwrap();
  }
}

#[test]
fn no_attempt_leaves_the_root_while_another_process_swaps_components_s39() {
  for (number, way) in WAYS.iter().enumerate() {
    let folder = Folder::new();
    fs::create_dir(folder.inside("swapped")).unwrap();
    fs::write(folder.inside("swapped/file"), "inside").unwrap();
    symlink("../outside", folder.inside("other")).unwrap();
    let _swapper = Swapper::start(&folder);
    let (mut opened, mut refused) = (0, 0);
    // The swapper has to have started, and both outcomes have to occur.
    for attempt in 0.. {
      let path = ["swapped/file", "folder/../swapped/../swapped/file", "other/file"][attempt % 3];
      match way(&folder, path) {
        Ok(text) => {
          assert_eq!(text, "inside");
          opened += 1;
        }
        Err(errno) => {
          assert_eq!(errno, Errno::EACCES, "{path}");
          refused += 1;
        }
      }
      if attempt >= 10_000 && opened > 100 && refused > 100 {
        break;
      }
      assert!(attempt < 10_000_000, "way {number}: {opened} opened, {refused} refused");
    }
  }
}
