//! One row of the demo's table.

use xtask::lab::Answer;

/// What was asked, what answered, and by which path.
#[derive(Debug)]
pub struct Row {
    /// `4` or `6`.
    pub family: char,
    /// What was asked.
    pub asked: String,
    /// What should answer.
    pub expected: String,
    /// What answered.
    pub answered: String,
    /// What the kernel's counters say about the road.
    pub path: String,
    /// Whether answer and path are as expected.
    pub good: bool,
}

/// What an answer should be.
#[derive(Clone, Copy, Debug)]
pub enum Expect {
    /// 200 by a backend whose name starts so, which saw this target.
    Backend(&'static str, &'static str),
    /// This status, by the proxy itself.
    Status(u16),
}

impl Expect {
    /// Whether `answer` is that.
    pub fn holds(self, answer: &Answer) -> bool {
        match self {
            Self::Backend(name, target) => answer
                .echo()
                .is_some_and(|e| answer.status == 200 && e.endpoint.starts_with(name) && e.target == target),
            Self::Status(status) => answer.status == status && answer.echo().is_none(),
        }
    }
}

impl std::fmt::Display for Expect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Backend(name, target) => write!(f, "200 {name}* as {target}"),
            Self::Status(status) => write!(f, "{status}"),
        }
    }
}

/// An answer in a few words.
pub fn shown(answer: &Answer) -> String {
    match answer.echo() {
        Some(echo) => format!("{} {} as {}", answer.status, echo.endpoint, echo.target),
        None => answer.status.to_string(),
    }
}
