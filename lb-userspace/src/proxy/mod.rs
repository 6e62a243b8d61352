//! The userspace proxy: one worker per core.
