//! Bodies: how large, and who waits for whom.
