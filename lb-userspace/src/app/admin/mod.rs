//! The unix socket between the daemon and its command line: HTTP/1.1 with JSON.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /status` | [`views::Status`] |
//! | `GET /routes` | [`views::Host`]s |
//! | `GET /backends` | [`views::Backend`]s |
//! | `GET /explain?url=U` | [`super::explain::Explanation`]; 400 with the reason for a bad URL |
//! | `GET /top` | a [`super::top::Sample`] |
//! | `POST /explain` with a [`super::flow::Question`] | [`super::flow::Explanation`] |
//! | `POST /trace` with a [`super::trace::Asked`] | a [`super::trace::event::Line`] in each line, as they come |
//! | `GET /maps` | the kernel's map image |
//! | `GET /maps/verify` | [`views::Verification`] |

pub mod client;
pub mod health_words;
pub mod policy_words;
pub mod server;
pub mod views;
