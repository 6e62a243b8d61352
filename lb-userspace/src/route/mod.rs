//! From a request to a route: host, path and table. Pure.
