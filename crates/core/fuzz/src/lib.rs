//! The fuzz targets. Each is a function of bytes that panics if a property does not hold. The fuzzer calls it with inputs that it
//! makes up, and core's tests call it with the inputs in `corpus/`.

pub mod address;
pub mod channel;
#[cfg(fuzzing)] // only this build exports the internals that it needs
pub mod control;
pub mod frame;
pub mod probes;
pub mod socket;
#[cfg(fuzzing)] // likewise
pub mod worker;
