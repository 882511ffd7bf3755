//! Closing off the loop's thread: the last close of a file on NFS or FUSE can block for as long as its server does.

use std::os::fd::OwnedFd;

use napi::{Env, Task};

/// Closes descriptors on the thread pool and resolves to 0, or to the first error number, negative.
pub(crate) struct CloseTask {
  pub(crate) fds: Vec<OwnedFd>,
}

impl Task for CloseTask {
  type Output = i32;
  type JsValue = i32;

  fn compute(&mut self) -> napi::Result<i32> {
    // Each by itself, so that an error belongs to a descriptor; all are closed whatever the first says.
    let errors = self.fds.drain(..).filter_map(|fd| fdpass_core::close(fd).err());
    Ok(errors.map(|errno| -(errno as i32)).fold(0, |first, error| if first == 0 { error } else { first }))
  }

  fn resolve(&mut self, _: Env, output: i32) -> napi::Result<i32> {
    Ok(output)
  }
}
