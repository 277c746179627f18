//! The accept loop of both ports: TLS, HTTP/1 and HTTP/2, with a deadline on
//! every step and a bound on every number, so that slow or hostile clients cost
//! a connection and nothing else.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use browserfleet_proto::ladder;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpUserTimeout;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::tasks::Tasks;
use crate::telemetry::metrics;

/// How long a client may take for the TLS handshake.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a client may take for the headers of a request.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of headers, request line included. Beyond: 431.
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Number of headers. Beyond: 431.
const HEADERS_MAX: usize = 100;
/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 250;
/// Streams that a client may reset before the server has answered them: the
/// bound against rapid reset (CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 20;
/// Streams that may be reset by us for errors of the client.
const LOCAL_RESETS_MAX: usize = 1024;
/// What one stream may have in flight: a picture's chunks keep a 1 Gbit/s line
/// with 8 ms of round trip full.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// What one connection may have in flight.
pub const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// The same on the agents' port, where each client of CDP has a stream: those that do
/// not read hold theirs until they are cut, and no other one.
pub const AGENT_CONNECTION_WINDOW_BYTES: u32 = 64 * 1024 * 1024;
/// How long a peer may leave unacknowledged what was sent to it, in milliseconds. It is
/// the system at the other end that acknowledges, so that a program may be slow; one that
/// reads nothing, or whose machine is gone, is cut off.
const UNACKNOWLEDGED_MS_MAX: u32 = 20_000;
/// Pause after the system refused to accept (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The client certificate that TLS verified, as a request extension.
#[derive(Clone, Debug)]
pub struct PeerCertificate(pub CertificateDer<'static>);

/// One port.
pub struct Port {
    /// For the log.
    pub name: &'static str,
    /// Bound already.
    pub listener: TcpListener,
    /// `None`: plain.
    pub tls: Option<TlsAcceptor>,
    /// Connections at once; more wait in the system's queue.
    pub connections_max: usize,
    /// What one HTTP/2 connection may have in flight.
    pub window_bytes: u32,
    /// What answers.
    pub router: Router,
}

impl Port {
    /// Accepts until the tasks are told to stop. Each connection then finishes
    /// the requests it has.
    pub async fn serve(self, tasks: Tasks) {
        let permits = Arc::new(Semaphore::new(self.connections_max));
        loop {
            let permit = tokio::select! {
                permit = Arc::clone(&permits).acquire_owned() => permit,
                () = tasks.stopping() => break,
            };
            let Ok(permit) = permit else { break };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = tasks.stopping() => break,
            };
            match accepted {
                Ok((stream, address)) => {
                    let connection = Connection {
                        port: self.name,
                        address,
                        window_bytes: self.window_bytes,
                        router: self.router.clone(),
                        tasks: tasks.clone(),
                        _permit: permit,
                    };
                    tasks.spawn(self.name, connection.run(stream, self.tls.clone()));
                }
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    tracing::warn!(port = self.name, %error, "could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// The connection was gone before it was accepted; the next one may be fine.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

struct Connection {
    port: &'static str,
    address: SocketAddr,
    window_bytes: u32,
    router: Router,
    tasks: Tasks,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    async fn run(self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        // Commands are single small packets; waiting to fill one costs 40 ms.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(client = %self.address, %error, "could not set TCP_NODELAY");
        }
        let set = setsockopt(&stream, TcpUserTimeout, &UNACKNOWLEDGED_MS_MAX);
        if let Err(error) = set {
            tracing::debug!(client = %self.address, %error, "could not set TCP_USER_TIMEOUT");
        }
        let Some(tls) = tls else {
            return self.speak(stream, None).await;
        };
        match timeout(HANDSHAKE_DEADLINE, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                let certificate = stream
                    .get_ref()
                    .1
                    .peer_certificates()
                    .and_then(|chain| chain.first())
                    .map(|it| PeerCertificate(it.clone().into_owned()));
                self.speak(stream, certificate).await;
            }
            Ok(Err(error)) => {
                metrics::handshake_failed(self.port);
                tracing::info!(client = %self.address, port = self.port, %error, "a TLS handshake failed");
            }
            Err(_) => {
                metrics::handshake_failed(self.port);
                tracing::info!(client = %self.address, port = self.port, "a TLS handshake took too long");
            }
        }
    }

    async fn speak<S>(self, stream: S, certificate: Option<PeerCertificate>)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let router = self.router.clone();
        let address = self.address;
        let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(address));
            if let Some(certificate) = &certificate {
                request.extensions_mut().insert(certificate.clone());
            }
            router.clone().oneshot(request)
        });
        let builder = builder(self.window_bytes);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = self.tasks.stopping() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(client = %self.address, %error, "a connection ended with an error");
        }
    }
}

fn builder(window_bytes: u32) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(LOCAL_RESETS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX as u32)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(window_bytes)
        .keep_alive_interval(ladder::KEEP_ALIVE)
        .keep_alive_timeout(ladder::KEEP_ALIVE_TIMEOUT);
    builder
}
