//! What the fuzz targets do with their input. Each is a function of bytes that panics where a promise is broken: the fuzzer
//! calls it with what it makes up, and core's tests with what is in `corpus/`.

pub mod address;
pub mod channel;
pub mod corpus;
#[cfg(fuzzing)] // it needs a way into the crate, which nothing else has
pub mod control;
pub mod frame;
mod probes;
pub mod socket;
