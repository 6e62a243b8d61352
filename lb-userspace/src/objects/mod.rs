//! The Kubernetes objects that Sluice reads, kept by kind and name.
