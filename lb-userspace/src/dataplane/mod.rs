//! The kernel's side: map image, diff and the pinned programs.
