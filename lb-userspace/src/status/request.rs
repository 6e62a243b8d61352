//! One request to the API: answered in time, its failure sorted by what to do about it.

use std::time::Duration;

use kube::core::Status;
use tokio::time::timeout;

use crate::objects::with_causes;

/// Why a request did not do what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The object is not the version that the request was made for.
    #[error("the object has changed in the meantime")]
    Conflict,
    /// An object of that name is there already.
    #[error("an object of that name is there already")]
    Exists,
    /// The object, or its namespace, is not there.
    #[error("{0}")]
    NotFound(String),
    /// The server won't do this, however often it is asked: no right to, or an invalid object.
    #[error("{0}")]
    Refused(String),
    /// The server can't do this now.
    #[error("{why}")]
    Busy {
        /// What it said.
        why: String,
        /// How long it asks to be left alone.
        after: Duration,
    },
}

/// The request's answer, if it comes within `limit`.
///
/// # Errors
/// [`Failure::Busy`] when it doesn't; otherwise what the server said.
pub async fn in_time<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Failure> {
    match timeout(limit, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) => Err(sorted(&status)),
        Ok(Err(other)) => Err(Failure::Busy { why: with_causes(&other), after: Duration::ZERO }),
        Err(_) => {
            let why = format!("no answer within {} s", limit.as_secs_f32());
            Err(Failure::Busy { why, after: Duration::ZERO })
        }
    }
}

fn sorted(status: &Status) -> Failure {
    let why = format!("{} {}", status.code, status.message);
    match status.code {
        409 if status.reason == "AlreadyExists" => Failure::Exists,
        409 => Failure::Conflict,
        404 => Failure::NotFound(why),
        // 401 is a token that has just run out: the next request has a new one.
        400..=499 if !matches!(status.code, 401 | 408 | 429) => Failure::Refused(why),
        _ => {
            let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
            // No server means to be left alone for longer, and a leader has to go on some day.
            Failure::Busy { why, after: Duration::from_secs(seconds.min(300).into()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_by_what_to_do() {
        let busy =
            |why: &str, seconds| Failure::Busy { why: why.into(), after: Duration::from_secs(seconds) };
        for (code, reason, retry_after, expect) in [
            (409, "Conflict", 0, Failure::Conflict),
            (409, "AlreadyExists", 0, Failure::Exists),
            (404, "NotFound", 0, Failure::NotFound("404 m".into())),
            (403, "Forbidden", 0, Failure::Refused("403 m".into())),
            (422, "Invalid", 0, Failure::Refused("422 m".into())),
            (401, "Unauthorized", 0, busy("401 m", 0)),
            (429, "TooManyRequests", 7, busy("429 m", 7)),
            (429, "TooManyRequests", 99_999, busy("429 m", 300)),
            (500, "InternalError", 0, busy("500 m", 0)),
            (503, "ServiceUnavailable", 1, busy("503 m", 1)),
        ] {
            let mut status = Status::failure("m", reason).with_code(code);
            let details = serde_json::json!({"retryAfterSeconds": retry_after});
            status.details = Some(serde_json::from_value(details).expect("details"));
            assert_eq!(sorted(&status), expect, "{code} {reason}");
        }
    }

    #[tokio::test]
    async fn silence_is_a_failure() {
        let failure = in_time(Duration::from_millis(500), std::future::pending::<Result<(), _>>()).await;
        assert!(matches!(failure, Err(Failure::Busy { why, .. }) if why.contains("0.5 s")));
    }
}
