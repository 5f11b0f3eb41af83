//! Real clients over loopback against services of a real replica.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use reconvene::{OpenOptions, Replica, Role};
use tempfile::TempDir;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::limits::CALLS_DEFAULT;
use crate::v1::reconvene_client::ReconveneClient;
use crate::{ApiOptions, Services, v1};

mod access;
mod calls;
mod monitor;
mod streams;
mod syncs;

/// How long anything may take; far more than it does, also on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

type Guard = Box<dyn FnMut(Request<()>) -> Result<Request<()>, Status> + Send>;
type Client = ReconveneClient<InterceptedService<Channel, Guard>>;

/// A server's replica and its services.
struct Server {
    directory: TempDir,
    replica: Replica,
    services: Services,
    api: SocketAddr,
}

const LOOPBACK: &str = "127.0.0.1:0";

impl Server {
    async fn new() -> Self {
        Self::open(tempfile::tempdir().unwrap()).await
    }

    async fn open(directory: TempDir) -> Self {
        Self::with_calls(directory, CALLS_DEFAULT).await
    }

    async fn with_calls(directory: TempDir, calls_max: usize) -> Self {
        let open = OpenOptions::new(directory.path().join("data"));
        let replica = open.role(Role::Server).open().await.unwrap();
        replica.ensure_shared_workspace().await.unwrap();
        let mut services = Services::new(&replica);
        let options = ApiOptions {
            address: LOOPBACK.parse().unwrap(),
            exposed: false,
            token_file: directory.path().join("api.token"),
            calls_max,
        };
        let api = services.offer_api(&options).await.unwrap();
        Self {
            directory,
            replica,
            services,
            api,
        }
    }

    fn token_file(&self) -> PathBuf {
        self.directory.path().join("api.token")
    }

    fn token(&self) -> String {
        let text = std::fs::read_to_string(self.token_file()).unwrap();
        text.trim().to_owned()
    }

    async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.api)).unwrap();
        endpoint.connect().await.unwrap()
    }

    /// A client that sends these headers.
    async fn client_with(&self, authorization: Vec<String>) -> Client {
        let guard: Guard = Box::new(move |mut request| {
            for value in &authorization {
                let value = MetadataValue::try_from(value).unwrap();
                request.metadata_mut().append("authorization", value);
            }
            Ok(request)
        });
        ReconveneClient::with_interceptor(self.channel().await, guard)
    }

    async fn client(&self) -> Client {
        let authorization = format!("Bearer {}", self.token());
        self.client_with(vec![authorization]).await
    }

    async fn close(self) -> TempDir {
        self.services.close().await;
        self.replica.close().await.unwrap();
        self.directory
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

/// The stable code that a status carries.
fn reason(status: &Status) -> String {
    let details = status.get_details_error_info().expect("an ErrorInfo");
    assert_eq!(details.domain, "reconvene");
    details.reason
}

async fn create(client: &mut Client, title: &str) -> v1::CreateMeetingResponse {
    let request = v1::CreateMeetingRequest {
        title: title.to_owned(),
        ..Default::default()
    };
    client.create_meeting(request).await.unwrap().into_inner()
}

async fn get(client: &mut Client, id: &str) -> Result<v1::GetMeetingResponse, Status> {
    let request = v1::GetMeetingRequest {
        meeting_id: id.to_owned(),
        with_transcript: true,
        ..Default::default()
    };
    Ok(client.get_meeting(request).await?.into_inner())
}

/// What the health service says of a service.
async fn health(server: &Server, service: &str) -> ServingStatus {
    let mut client = HealthClient::new(server.channel().await);
    let service = service.to_owned();
    let told = client.check(HealthCheckRequest { service }).await;
    told.unwrap().into_inner().status()
}
