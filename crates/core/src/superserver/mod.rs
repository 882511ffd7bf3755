//! A superserver: it accepts connections, which worker processes or programs serve.
//!
//! [`Pool`] assigns connections to workers, [`Inetd`] starts a program for each. Neither waits: a level-triggered event
//! loop ([`Reactor`]) calls them when a descriptor is ready. They report [`Event`]s to their owner.

mod acceptor;
mod events;
mod inetd;
pub(crate) mod pool;
mod reactor;

pub use acceptor::{Client, Listener};
pub use events::{Call, Counters, Event};
pub use inetd::{Inetd, InetdLimits, InetdMode};
pub use pool::{Pool, PoolLimits, WorkerState};
pub use reactor::{Reactor, Registration};
