//! Where objects come from: a manifest directory or the Kubernetes API.
