//! Gets a request to an endpoint that takes it.

use std::net::SocketAddr;
use std::time::Instant;

use super::balance::Choice;
use super::connection::Client;
use super::error::{Error, Fault};
use super::upstream::{Answer, Exchange, Failure, Request, Upstream};

/// How many endpoints a request may be tried on.
const TRIES: usize = 3;

/// Sends the request to an endpoint, and to another while nothing of it can have arrived. A kept
/// connection that turns out to be closed costs a try on a new one, to the same endpoint.
pub(super) async fn forward(
    client: &Client,
    choice: &mut Choice<'_>,
    request: Request,
) -> Result<(Answer, SocketAddr), Error> {
    let worker = &client.worker;
    let counters = &worker.counters;
    let timeouts = &worker.settings.timeouts;
    let mut exchange = Exchange::new(request);
    let mut last = None;
    while choice.tries() < TRIES {
        let Some(address) = choice.next() else { break };
        if let Some(kept) = worker.pool.take(address) {
            counters.upstream_reuses.add(1);
            match exchange.run(kept, &worker.pool, timeouts).await {
                Ok(answer) => return Ok((answer, address)),
                Err(failure) => exchange = retry(client, failure)?,
            }
        }
        match Upstream::connect(address, timeouts.connect).await {
            Ok(upstream) => {
                counters.upstream_connects.add(1);
                worker.failing.recovered(address);
                match exchange.run(upstream, &worker.pool, timeouts).await {
                    Ok(answer) => return Ok((answer, address)),
                    Err(failure) => exchange = retry(client, failure)?,
                }
            }
            Err(error) => {
                tracing::debug!(%error, cluster = %choice.slot().key, "connecting failed");
                counters.upstream_failures.add(1);
                worker.failing.failed(address, &error, Instant::now());
                last = Some(error);
            }
        }
    }
    Err(last.unwrap_or_else(|| Error::NoEndpoint(choice.slot().key.clone())))
}

/// The request again, if it may be sent again.
fn retry(client: &Client, failure: Failure) -> Result<Exchange, Error> {
    let Failure { error, again } = failure;
    let counters = &client.worker.counters;
    if error.fault() == Fault::Upstream {
        counters.upstream_failures.add(1);
    }
    let exchange = again.ok_or(error)?;
    counters.upstream_retries.add(1);
    Ok(exchange)
}
