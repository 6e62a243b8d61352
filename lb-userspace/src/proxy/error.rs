//! Why a request gets no answer from its endpoint, and whose fault that is.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;

use crate::model::{ClusterKey, Unavailable};

/// Who has to change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The client sent what it must not, or went away.
    Client,
    /// The configuration knows no way for the request.
    Configuration,
    /// The endpoint did not answer as HTTP asks.
    Upstream,
}

/// Why a request gets no answer from its endpoint.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the request is not valid: {0}")]
    BadRequest(String),
    #[error("the request target is too long")]
    TargetTooLong,
    #[error("the request has too many headers")]
    HeadTooLarge,
    #[error("{0} is not served here")]
    Method(&'static str),
    #[error("CONNECT is served for WebSockets alone")]
    ConnectProtocol,
    #[error("the request's body is longer than the {0} bytes that the route takes")]
    BodyTooLarge(u64),
    #[error("the client did not send the request's body in time")]
    ClientTimeout,
    #[error("the client went away before its request was complete")]
    ClientGone,
    #[error("the time that the client gave the request is over")]
    Deadline,
    #[error("this host is not served on a connection that was opened for another name")]
    Misdirected,
    #[error("no route for this host and path")]
    NoRoute,
    #[error("the route can't be served: {0}")]
    Unavailable(Unavailable),
    #[error("no endpoint of {0} is ready")]
    NoEndpoint(Arc<ClusterKey>),
    #[error("{0} has as many requests as it may")]
    Overloaded(Arc<ClusterKey>),
    #[error("the request came back to the proxy again and again: an endpoint of {0} is the proxy itself")]
    Loop(Arc<ClusterKey>),
    #[error("endpoint {address} can't be reached: {source}")]
    Connection { address: SocketAddr, source: io::Error },
    #[error("endpoint {0} did not accept the connection in time")]
    ConnectTimeout(SocketAddr),
    #[error("no TLS with endpoint {address}: {source}")]
    Tls { address: SocketAddr, source: io::Error },
    #[error("endpoint {0} did not take the request in time")]
    SendTimeout(SocketAddr),
    #[error("endpoint {0} did not answer in time")]
    ReadTimeout(SocketAddr),
    #[error("endpoint {address} closed the connection before its answer was complete: {source}")]
    Closed { address: SocketAddr, source: io::Error },
    #[error("endpoint {address} sent what is not valid: {what}")]
    Protocol { address: SocketAddr, what: &'static str },
    #[error("the request's body has no length, which its endpoint needs")]
    LengthRequired,
}

impl Error {
    /// Who has to change something.
    pub(super) fn fault(&self) -> Fault {
        match self {
            Self::BadRequest(_)
            | Self::TargetTooLong
            | Self::HeadTooLarge
            | Self::Method(_)
            | Self::ConnectProtocol
            | Self::BodyTooLarge(_)
            | Self::ClientTimeout
            | Self::ClientGone
            | Self::Deadline
            | Self::LengthRequired
            | Self::Misdirected => Fault::Client,
            Self::NoRoute
            | Self::Unavailable(_)
            | Self::NoEndpoint(_)
            | Self::Overloaded(_)
            | Self::Loop(_) => Fault::Configuration,
            Self::Connection { .. }
            | Self::ConnectTimeout(_)
            | Self::Tls { .. }
            | Self::SendTimeout(_)
            | Self::ReadTimeout(_)
            | Self::Closed { .. }
            | Self::Protocol { .. } => Fault::Upstream,
        }
    }

    /// The endpoint whose fault it is.
    pub(super) fn endpoint(&self) -> Option<SocketAddr> {
        match self {
            Self::ConnectTimeout(address) | Self::SendTimeout(address) | Self::ReadTimeout(address) => {
                Some(*address)
            }
            Self::Connection { address, .. }
            | Self::Tls { address, .. }
            | Self::Closed { address, .. }
            | Self::Protocol { address, .. } => Some(*address),
            _ => None,
        }
    }

    /// What the client is told.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::ClientGone => StatusCode::BAD_REQUEST,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::ConnectProtocol => StatusCode::NOT_IMPLEMENTED,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ClientTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::LengthRequired => StatusCode::LENGTH_REQUIRED,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Loop(_) => StatusCode::LOOP_DETECTED,
            Self::Unavailable(_) | Self::NoEndpoint(_) | Self::Overloaded(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Connection { .. } | Self::Tls { .. } | Self::Closed { .. } | Self::Protocol { .. } => {
                StatusCode::BAD_GATEWAY
            }
            Self::Deadline | Self::ConnectTimeout(_) | Self::SendTimeout(_) | Self::ReadTimeout(_) => {
                StatusCode::GATEWAY_TIMEOUT
            }
        }
    }

    /// What the response's body says. Addresses of endpoints are for the log, not for clients.
    pub(super) fn public_text(&self) -> String {
        match (self.fault(), self) {
            (Fault::Client, _) | (_, Self::NoRoute) => format!("{self}\n"),
            (_, Self::Loop(_)) => "the request comes back to where it came from\n".to_owned(),
            (_, Self::Overloaded(_)) => "too many requests for what serves this\n".to_owned(),
            (Fault::Configuration, _) => "no endpoint can serve this request now\n".to_owned(),
            (Fault::Upstream, _) if self.status() == StatusCode::GATEWAY_TIMEOUT => {
                "the endpoint did not answer in time\n".to_owned()
            }
            (Fault::Upstream, _) => "the endpoint gave no valid answer\n".to_owned(),
        }
    }
}
