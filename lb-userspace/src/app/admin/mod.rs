//! The unix socket between the daemon and its command line: HTTP/1.1 with JSON.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /status` | [`views::Status`] |
//! | `GET /routes` | [`views::Host`]s |
//! | `GET /backends` | [`views::Backend`]s |
//! | `GET /explain?url=U` | [`super::explain::Explanation`]; 400 with the reason for a bad URL |
//! | `GET /maps` | the kernel's map image |
//! | `GET /maps/verify` | [`views::Verification`] |

pub mod client;
pub mod health_words;
pub mod policy_words;
pub mod server;
pub mod views;
