//! The table of lb_common::fixtures on the loaded program.
