//! The services of a superserver, and the thread that runs them.

mod thread;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use fdpass_core::Errno;
use fdpass_core::superserver::Pool;
use polling::Poller;

use crate::reactor::thread::errno;
pub(crate) use thread::{Service, ServiceReactor};

/// The services of one environment, by number. The thread starts with [`Services::start`].
#[derive(Default)]
pub(crate) struct Services {
  running: Option<Running>,
  next: u32,
}

struct Running {
  shared: Arc<thread::Shared>,
  /// A duplicate of the descriptor that JavaScript watches.
  wake_rx: File,
  thread: JoinHandle<()>,
}

impl Services {
  /// Starts the thread, and returns a descriptor that becomes readable when a service has events.
  pub(crate) fn start(&mut self) -> Result<OwnedFd, Errno> {
    let (wake_rx, wake_tx) = fdpass_core::pipe()?;
    for end in [&wake_rx, &wake_tx] {
      fdpass_core::set_blocking(end.as_fd(), false)?;
    }
    let watched = fdpass_core::duplicate(wake_rx.as_fd())?;
    let poller = Arc::new(Poller::new().map_err(errno)?);
    let shared = Arc::new(thread::Shared::new(poller, File::from(wake_tx)));
    let thread = {
      let shared = shared.clone();
      let builder = std::thread::Builder::new().name("fdpass-services".into());
      fdpass_core::spawn_thread(builder, move || shared.run()).map_err(errno)?
    };
    self.running = Some(Running { shared, wake_rx: File::from(wake_rx), thread });
    Ok(watched)
  }

  /// Makes the descriptor of [`Services::start`] unreadable until the next event.
  pub(crate) fn drain(&self) -> Result<(), Errno> {
    let Running { wake_rx, .. } = self.running.as_ref().ok_or(Errno::EBADF)?;
    let mut bytes = [0; 256];
    while let Ok(256) = (&*wake_rx).read(&mut bytes) {}
    Ok(())
  }

  /// Opens a service and returns its number.
  pub(crate) fn insert(&mut self, make: impl FnOnce(ServiceReactor) -> Result<Service, Errno>) -> Result<i32, Errno> {
    let Running { shared, .. } = self.running.as_ref().ok_or(Errno::EINVAL)?;
    let number = self.next;
    let service = make(ServiceReactor { poller: shared.poller.clone(), service: number })?;
    self.next += 1;
    shared.call(|services| services.insert(number, service));
    Ok(number as i32)
  }

  /// Closes a service and everything that it owns.
  pub(crate) fn remove(&self, service: i32) -> Result<(), Errno> {
    let Running { shared, .. } = self.running.as_ref().ok_or(Errno::EBADF)?;
    let removed = shared.call(|services| services.remove(&(service as u32)));
    removed.map(drop).ok_or(Errno::EBADF)
  }

  /// Runs a task on a service. Fails with `EBADF` if there is no such service.
  pub(crate) fn with<T>(&self, service: i32, task: impl FnOnce(&mut Service) -> Result<T, Errno>) -> Result<T, Errno> {
    let Running { shared, .. } = self.running.as_ref().ok_or(Errno::EBADF)?;
    shared.call(|services| {
      let service = services.get_mut(&(service as u32)).ok_or(Errno::EBADF)?;
      let result = task(service);
      if service.next_deadline().is_some() {
        // The thread may be waiting for longer. Notifying fails only if the poller is gone.
        let _ = shared.poller.notify();
      }
      shared.wake(services);
      result
    })
  }

  /// As [`Services::with`], for a service that passes connections to workers; otherwise fails with `EINVAL`.
  pub(crate) fn with_pool<T>(
    &self,
    service: i32,
    task: impl FnOnce(&mut Pool<ServiceReactor>) -> Result<T, Errno>,
  ) -> Result<T, Errno> {
    self.with(service, |service| match service {
      Service::Pool(pool) => task(pool),
      Service::Inetd(_) => Err(Errno::EINVAL),
    })
  }
}

impl Drop for Services {
  fn drop(&mut self) {
    let Some(Running { shared, thread, .. }) = self.running.take() else { return };
    shared.stop.store(true, Ordering::Release);
    // Notifying fails only if the poller is gone.
    let _ = shared.poller.notify();
    // A panic of the thread was already printed.
    let _ = thread.join();
  }
}
