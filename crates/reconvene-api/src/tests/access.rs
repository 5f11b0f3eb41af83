//! Who is let in, and from where.

use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use super::{Server, health, reason, run};
use crate::{ApiOptions, Error, MonitorOptions, Services, v1};

#[test]
fn only_who_shows_the_token_is_let_in_and_health_is_told_to_all() {
    run(async {
        let server = Server::new().await;
        let token = server.token();
        let mut wrong = token.clone();
        wrong.replace_range(63.., if token.ends_with('0') { "1" } else { "0" });
        let bearer = |token: &str| format!("Bearer {token}");
        for shown in [
            vec![],
            vec![String::new()],
            vec![token.clone()],
            vec![bearer("")],
            vec![bearer(&wrong)],
            vec![bearer(&token[..63])],
            vec![bearer(&format!("{token}0"))],
            vec![format!("Basic {token}")],
            vec![bearer(&token), bearer(&wrong)],
        ] {
            let mut client = server.client_with(shown.clone()).await;
            let request = v1::GetServerInfoRequest {};
            let refused = client.get_server_info(request).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated, "{shown:?}");
            assert_eq!(reason(&refused), "unauthenticated");
        }
        let mut client = server.client().await;
        let info = client.get_server_info(v1::GetServerInfoRequest {}).await;
        let info = info.unwrap().into_inner();
        let status = server.replica.status().await.unwrap();
        assert_eq!(info.peer_id, status.device.peer_id.to_string());
        assert_eq!(info.state_version, i64::from(status.state_version));
        assert!(info.state_version > 0);
        assert_eq!(info.workspaces.len(), 1);
        assert!(info.workspaces[0].current);

        for service in ["", "reconvene.api.v1.Reconvene"] {
            assert_eq!(health(&server, service).await, ServingStatus::Serving);
        }
        let reflected = services(&server, None).await.unwrap_err();
        assert_eq!(reflected.code(), Code::Unauthenticated);
        let reflected = services(&server, Some(&token)).await.unwrap();
        let Some(MessageResponse::ListServicesResponse(listed)) = reflected.message_response else {
            panic!("{reflected:?}");
        };
        let names = listed.service.iter().map(|service| service.name.as_str());
        let names: Vec<_> = names.collect();
        assert!(names.contains(&"reconvene.api.v1.Reconvene"), "{names:?}");
        server.close().await;
    });
}

/// What reflection says there is.
async fn services(
    server: &Server,
    token: Option<&str>,
) -> Result<ServerReflectionResponse, Status> {
    let asked = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut request = Request::new(futures::stream::iter([asked]));
    if let Some(token) = token {
        let value = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    let mut client = ServerReflectionClient::new(server.channel().await);
    let mut answers = client.server_reflection_info(request).await?.into_inner();
    Ok(answers.message().await?.expect("an answer"))
}

#[test]
fn an_address_that_others_reach_is_refused_unless_it_is_said() {
    run(async {
        let server = Server::new().await;
        let mut services = Services::new(&server.replica);
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
            let address = address.parse().unwrap();
            let options = ApiOptions {
                address,
                exposed: false,
                token_file: server.token_file(),
                calls_max: crate::limits::CALLS_DEFAULT,
            };
            let refused = services.offer_api(&options).await.unwrap_err();
            assert!(matches!(refused, Error::Exposed { .. }), "{refused}");
            assert!(refused.hint().is_some());
            let options = MonitorOptions {
                address,
                exposed: false,
            };
            let refused = services.offer_monitor(&options).await.unwrap_err();
            assert!(matches!(refused, Error::Exposed { .. }), "{refused}");
        }
        let options = MonitorOptions {
            address: "0.0.0.0:0".parse().unwrap(),
            exposed: true,
        };
        services.offer_monitor(&options).await.unwrap();
        services.close().await;
        server.close().await;
    });
}
