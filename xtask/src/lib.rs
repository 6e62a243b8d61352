//! The network laboratory that the demo and the privileged tests share.
//!
//! The habits themselves (`cargo xtask setup|demo|test|…`) are in the binary beside this library.

pub mod lab;
