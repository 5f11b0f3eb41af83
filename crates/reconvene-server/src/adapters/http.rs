//! One HTTP exchange at a time, with a bound on everything: to this machine, or to hosts that whoever
//! runs the server has named.
//!
//! Members decide which addresses a server calls, so it calls nothing that only it could reach without
//! being allowed to.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{CONTENT_LENGTH, HOST, HeaderName, USER_AGENT};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::AdapterError;
use crate::limits::{HTTP_EXCHANGE_MAX, READ_BYTES_MAX};

/// The client.
#[derive(Clone, Debug)]
pub(super) struct Http {
    hosts: Arc<Vec<String>>,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

impl Http {
    pub(super) fn new(hosts: Vec<String>) -> Self {
        let hosts = Arc::new(hosts);
        Self { hosts }
    }

    /// Reads what is at an address.
    pub(super) async fn get(&self, url: &str) -> Result<Reply, AdapterError> {
        self.exchange(Method::GET, url, &[], Bytes::new()).await
    }

    /// Sends a body to an address.
    pub(super) async fn post(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
        body: Bytes,
    ) -> Result<Reply, AdapterError> {
        self.exchange(Method::POST, url, headers, body).await
    }

    async fn exchange(
        &self,
        method: Method,
        url: &str,
        headers: &[(&'static str, String)],
        body: Bytes,
    ) -> Result<Reply, AdapterError> {
        let work = self.exchange_now(method, url, headers, body);
        match timeout(HTTP_EXCHANGE_MAX, work).await {
            Ok(reply) => reply,
            Err(_) => {
                let seconds = HTTP_EXCHANGE_MAX.as_secs();
                let message = format!("{url} did not answer within {seconds} s");
                Err(AdapterError::unreachable("timed_out", message))
            }
        }
    }

    async fn exchange_now(
        &self,
        method: Method,
        url: &str,
        headers: &[(&'static str, String)],
        body: Bytes,
    ) -> Result<Reply, AdapterError> {
        let (uri, host, port) = parse(url)?;
        let failed = |what: &dyn std::fmt::Display| {
            let message = format!("{url} could not be reached: {what}");
            AdapterError::unreachable("unreachable", message)
        };
        let stream = self.connect(&host, port).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&error))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, format!("{host}:{port}"))
            .header(USER_AGENT, concat!("reconvene/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_LENGTH, body.len());
        for (name, value) in headers {
            request = request.header(HeaderName::from_static(name), value);
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| AdapterError::invalid("bad_address", format!("{url}: {error}")))?;
        let answered = async {
            let response = sender.send_request(request).await;
            let response = response.map_err(|error| failed(&error))?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), READ_BYTES_MAX)
                .collect()
                .await;
            let body = body.map_err(|error| {
                if error.is::<http_body_util::LengthLimitError>() {
                    let message = format!("{url} answers with more than {READ_BYTES_MAX} bytes");
                    return AdapterError::invalid("too_large", message);
                }
                failed(&error)
            })?;
            Ok(Reply {
                status,
                body: body.to_bytes(),
            })
        };
        // The connection is driven for as long as the answer takes, and ends with it.
        let mut answered = std::pin::pin!(answered);
        tokio::select! {
            biased;
            reply = &mut answered => reply,
            ended = connection => match ended {
                Ok(()) => answered.await,
                Err(error) => Err(failed(&error)),
            },
        }
    }

    /// Connects to an address that was looked at, so that no second look-up can lead elsewhere.
    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, AdapterError> {
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let found: Vec<SocketAddr> = match lookup_host((name, port)).await {
            Ok(found) => found.collect(),
            Err(error) => {
                let message = format!("{host} could not be looked up: {error}");
                return Err(AdapterError::unreachable("unknown_host", message));
            }
        };
        let is_named = self.hosts.iter().any(|allowed| allowed == host);
        let mut allowed = found;
        allowed.retain(|address| is_named || address.ip().is_loopback());
        let mut last = None;
        for address in &allowed {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(error) => {
                let message = format!("{host}:{port} could not be reached: {error}");
                Err(AdapterError::unreachable("unreachable", message))
            }
            None => {
                let message = format!(
                    "{host} is not this server's own machine; whoever runs the server can allow it \
                     with `serve --allow-host {host}`"
                );
                Err(AdapterError::invalid("host_not_allowed", message))
            }
        }
    }
}

fn parse(url: &str) -> Result<(Uri, String, u16), AdapterError> {
    let bad = |what: &str| {
        let message = format!("`{url}` is not an address to call: {what}");
        AdapterError::invalid("bad_address", message)
    };
    let uri: Uri = url.parse().map_err(|_| bad("it is no URL"))?;
    if uri.scheme_str() != Some("http") {
        return Err(bad("it does not begin with http://"));
    }
    let host = uri
        .host()
        .ok_or_else(|| bad("it names no host"))?
        .to_owned();
    let port = uri.port_u16().unwrap_or(80);
    Ok((uri, host, port))
}

/// Fails unless an answer says that all went well.
pub(super) fn check(url: &str, reply: &Reply) -> Result<(), AdapterError> {
    let status = reply.status;
    let message = format!("{url} answered {status}");
    match status {
        200..300 => Ok(()),
        // It says itself that another time may be better.
        408 | 425 | 429 | 500.. => Err(AdapterError::unreachable("server_error", message)),
        300..400 => Err(AdapterError::invalid("redirected", message)),
        404 | 410 => Err(AdapterError::invalid("not_found", message)),
        _ => Err(AdapterError::invalid("rejected", message)),
    }
}
