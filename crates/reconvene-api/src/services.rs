//! Starting and stopping what listens: the API, and the monitor with metrics and health.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reconvene::{Events, Replica, ReplicaEvent};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::calls::Calls;
use crate::counts::Counts;
use crate::failure::detailed;
use crate::limits::{
    CONNECTION_CALLS_MAX, KEEPALIVE_EVERY, KEEPALIVE_WAIT, REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX,
    STOP_DEADLINE,
};
use crate::monitor;
use crate::token::{Token, TokenError};
use crate::v1::DESCRIPTORS;
use crate::v1::reconvene_server::{ReconveneServer, SERVICE_NAME};

/// Where the API listens, and who may call it.
#[derive(Clone, Debug)]
pub struct ApiOptions {
    /// The address; with port 0 a free one is chosen.
    pub address: SocketAddr,
    /// Whether the address may be reached from other machines although nothing is encrypted.
    pub exposed: bool,
    /// The file with the token; made if it is not there.
    pub token_file: PathBuf,
    /// Calls in flight, streams aside, over all connections; further ones are refused. See
    /// [`CALLS_DEFAULT`](crate::limits::CALLS_DEFAULT).
    pub calls_max: usize,
}

/// Where metrics, health and readiness are told.
#[derive(Clone, Debug)]
pub struct MonitorOptions {
    /// The address; with port 0 a free one is chosen.
    pub address: SocketAddr,
    /// Whether the address may be reached from other machines although nothing is encrypted and
    /// nobody is asked for a token.
    pub exposed: bool,
}

/// Why something does not listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address can be reached from other machines, and nobody said that it may.
    #[error("{address} can be reached from other machines, and nothing sent there is encrypted")]
    Exposed {
        /// The address.
        address: SocketAddr,
    },
    /// The address could not be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// There is no token.
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Exposed { .. } => "bad_input",
            Self::Listen { .. } => "network",
            Self::Token(TokenError::Read { .. } | TokenError::Write { .. }) => "io",
            Self::Token(TokenError::Exposed { .. }) => "permission",
            Self::Token(TokenError::Damaged { .. }) => "bad_input",
        }
    }

    /// What to do next, where something can be done.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Exposed { .. } => Some(
                "listen on 127.0.0.1 behind something that ends TLS, or say --exposed to do without",
            ),
            Self::Token(TokenError::Exposed { .. }) => {
                Some("remove the file, so that a new token is made, and hand that to the backends")
            }
            _ => None,
        }
    }
}

/// Told once, when what listens is to end.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    receiver: watch::Receiver<bool>,
}

impl Stop {
    /// Waits until it is told. Dropping this midway loses nothing.
    pub(crate) async fn asked(&self) {
        // An error means that whoever could tell is gone: that is an end, too.
        drop(self.receiver.clone().wait_for(|stop| *stop).await);
    }

    /// What calls end with that are cut by it.
    pub(crate) fn status() -> Status {
        detailed(
            Code::Unavailable,
            "closed",
            "the server is stopping",
            Some("call again; a watch goes on from its cursor"),
        )
    }
}

/// What is listening beside the links. Dropping it ends everything at once.
#[derive(Debug)]
pub struct Services {
    replica: Replica,
    counts: Arc<Counts>,
    stop: watch::Sender<bool>,
    listening: Arc<AtomicBool>,
    tasks: Vec<Task>,
}

/// A task that ends with this value.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Services {
    /// Prepares services of a replica; none listens yet.
    pub fn new(replica: &Replica) -> Self {
        let counts = Arc::<Counts>::default();
        let events = replica.events();
        let follower = Arc::clone(&counts);
        let follower = tokio::spawn(async move { follower.follow(events).await });
        let (stop, _) = watch::channel(false);
        Self {
            replica: replica.clone(),
            counts,
            stop,
            listening: Arc::default(),
            tasks: vec![Task(follower)],
        }
    }

    /// Offers the API from now on, and yields the address it listens on.
    ///
    /// # Errors
    /// If the address may not or cannot be listened on, or there is no token.
    pub async fn offer_api(&mut self, options: &ApiOptions) -> Result<SocketAddr, Error> {
        let listener = listen(options.address, options.exposed).await?;
        let address = local_address(&listener, options.address)?;
        let token_file = options.token_file.clone();
        let token = tokio::task::spawn_blocking(move || Token::load_or_create(&token_file)).await;
        let token = token.map_err(|panicked| Error::Listen {
            address,
            source: io::Error::other(panicked),
        })??;
        let counts = Arc::clone(&self.counts);
        let guard = move |request: Request<()>| {
            if token.is_shown(request.metadata()) {
                return Ok(request);
            }
            // Which call it was does not matter to whoever has to find out who tries.
            counts.call("any", Code::Unauthenticated);
            Err(unauthenticated())
        };
        let (replica, counts) = (self.replica.clone(), Arc::clone(&self.counts));
        let calls = Calls::new(replica, counts, self.stop(), options.calls_max);
        let calls = ReconveneServer::new(calls)
            .max_decoding_message_size(REQUEST_BYTES_MAX)
            .max_encoding_message_size(RESPONSE_BYTES_MAX);
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .build_v1()
            .expect("the build encoded the descriptors");
        let (reporter, health) = tonic_health::server::health_reporter();
        for service in ["", SERVICE_NAME] {
            let serving = ServingStatus::Serving;
            reporter.set_service_status(service, serving).await;
        }
        let follower = follow_health(reporter, self.replica.events(), self.stop());
        self.tasks.push(Task(tokio::spawn(follower)));
        let router = tonic::transport::Server::builder()
            .max_concurrent_streams(CONNECTION_CALLS_MAX)
            .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
            .http2_keepalive_timeout(Some(KEEPALIVE_WAIT))
            .add_service(InterceptedService::new(calls, guard.clone()))
            .add_service(InterceptedService::new(reflection, guard))
            // Asked by whoever restarts what is dead, without a token.
            .add_service(health);
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let stop = self.stop();
        let serve = async move {
            let stopped = async move { stop.asked().await };
            let served = router.serve_with_incoming_shutdown(incoming, stopped).await;
            if let Err(error) = served {
                tracing::error!(%error, "the API ended");
            }
        };
        self.tasks.push(Task(tokio::spawn(serve)));
        tracing::info!(%address, "the API listens");
        Ok(address)
    }

    /// Tells metrics, health and readiness from now on, and yields the address it listens on.
    ///
    /// # Errors
    /// If the address may not or cannot be listened on.
    pub async fn offer_monitor(&mut self, options: &MonitorOptions) -> Result<SocketAddr, Error> {
        let listener = listen(options.address, options.exposed).await?;
        let address = local_address(&listener, options.address)?;
        let router = monitor::router(monitor::Source {
            replica: self.replica.clone(),
            counts: Arc::clone(&self.counts),
            listening: Arc::clone(&self.listening),
        });
        let stop = self.stop();
        let serve = async move {
            let stopped = async move { stop.asked().await };
            let served = axum::serve(listener, router).with_graceful_shutdown(stopped);
            if let Err(error) = served.await {
                tracing::error!(%error, "the monitor ended");
            }
        };
        self.tasks.push(Task(tokio::spawn(serve)));
        tracing::info!(%address, "metrics and health are told");
        Ok(address)
    }

    /// Says that devices can connect from now on: the server may count as ready.
    pub fn set_listening(&self) {
        self.listening.store(true, Ordering::Release);
    }

    /// Ends in order: what is in flight gets [`STOP_DEADLINE`] to end, watches are told to come again.
    /// Dropping this midway ends everything at once.
    pub async fn close(self) {
        self.listening.store(false, Ordering::Release);
        self.stop.send_replace(true);
        let mut tasks = self.tasks;
        // The first one only counts, and ends with the replica.
        let serving = tasks.split_off(1);
        let all = async {
            for mut task in serving {
                if let Err(error) = (&mut task.0).await {
                    tracing::warn!(%error, "a service did not end in order");
                }
            }
        };
        if timeout(STOP_DEADLINE, all).await.is_err() {
            tracing::warn!("calls were cut that did not end in time");
        }
    }

    fn stop(&self) -> Stop {
        Stop {
            receiver: self.stop.subscribe(),
        }
    }
}

async fn listen(address: SocketAddr, exposed: bool) -> Result<TcpListener, Error> {
    if !address.ip().to_canonical().is_loopback() && !exposed {
        return Err(Error::Exposed { address });
    }
    let listener = TcpListener::bind(address).await;
    listener.map_err(|source| Error::Listen { address, source })
}

fn local_address(listener: &TcpListener, address: SocketAddr) -> Result<SocketAddr, Error> {
    let bound = listener.local_addr();
    bound.map_err(|source| Error::Listen { address, source })
}

fn unauthenticated() -> Status {
    detailed(
        Code::Unauthenticated,
        "unauthenticated",
        "the call shows no token, or another one than this server's",
        Some("send `authorization: Bearer TOKEN` with what the server's file api.token holds"),
    )
}

/// Tells by the health service when the store fails, and when the server stops.
async fn follow_health(reporter: HealthReporter, mut events: Events, stop: Stop) {
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = stop.asked() => None,
        };
        match event {
            Some(ReplicaEvent::StoreFailed { .. }) | None => break,
            Some(_) => {}
        }
    }
    for service in ["", SERVICE_NAME] {
        let status = ServingStatus::NotServing;
        reporter.set_service_status(service, status).await;
    }
}
