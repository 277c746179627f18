//! A control plane for one agent: it signs, welcomes, acknowledges and renews, and
//! remembers all that it was told. Real TLS, real gRPC.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use browserfleet_agent::tasks;
use browserfleet_proto::agent::v1::enrolment_service_server::{
    EnrolmentService, EnrolmentServiceServer,
};
use browserfleet_proto::agent::v1::from_agent::Body as Said;
use browserfleet_proto::agent::v1::link_service_server::{LinkService, LinkServiceServer};
use browserfleet_proto::agent::v1::to_agent::Body;
use browserfleet_proto::agent::v1::{
    Acknowledge, Certificate, FromAgent, Hello, JoinRequest, LeaseRenewed, RenewRequest, ToAgent,
    Welcome,
};
use browserfleet_proto::ids::LinkId;
use browserfleet_proto::{PROTOCOL_VERSION, ladder};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType, IsCa, KeyPair,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use crate::eventually;

/// The name that agents expect.
const SERVER_NAME: &str = "control-plane.browserfleet";
/// The name that the agent is given.
pub const INSTANCE: &str = "ins_0192f0c1000070008000000000000001";
/// The one token that is good.
pub const TOKEN: &str = "good once";

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// Whom agents trust.
#[derive(Clone)]
pub struct Authority(Arc<Issuer>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(Arc::new(CertifiedIssuer::self_signed(params, key).unwrap()))
    }

    pub fn write(&self, folder: &Path) -> PathBuf {
        let file = folder.join("ca.pem");
        std::fs::write(&file, self.0.pem()).unwrap();
        file
    }

    fn server(&self) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![SERVER_NAME.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &*self.0).unwrap();
        Identity::from_pem(certificate.pem(), key.serialize_pem())
    }

    /// An agent's certificate. Its life began an hour ago.
    fn sign(&self, request: &[u8], life: Duration) -> Vec<u8> {
        let request = request.to_vec().into();
        let request = CertificateSigningRequestParams::from_der(&request).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, INSTANCE);
        let now = time::OffsetDateTime::now_utc();
        params.not_before = now - Duration::from_secs(3600);
        params.not_after = now + life;
        let signed = params.signed_by(&request.public_key, &*self.0).unwrap();
        signed.der().to_vec()
    }
}

#[derive(Default)]
struct State {
    joins: Vec<JoinRequest>,
    hellos: Vec<Hello>,
    said: Vec<Said>,
    links: Vec<mpsc::Sender<Result<ToAgent, Status>>>,
}

/// What every control plane of a test knows, however often it starts.
#[derive(Clone)]
pub struct ControlPlane {
    /// Signs what agents ask for.
    pub signs: Authority,
    /// Authorities that agents are told of.
    pub tells: Vec<Authority>,
    /// Of an agent's certificate.
    pub life: Duration,
    state: Arc<Mutex<State>>,
}

impl ControlPlane {
    pub fn new() -> Self {
        Self {
            signs: Authority::new(),
            tells: Vec::new(),
            life: ladder::CERTIFICATE,
            state: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Starts to serve at `address` (port 0: any), proving itself by `proof`; ends
    /// with what is returned.
    pub async fn serve(&self, address: &str, proof: &Authority) -> Serving {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = ServerTlsConfig::new()
            .identity(proof.server())
            .client_ca_root(tonic::transport::Certificate::from_pem(self.signs.0.pem()))
            .client_auth_optional(true);
        let server = Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(EnrolmentServiceServer::new(self.clone()))
            .add_service(LinkServiceServer::new(self.clone()));
        let serving = server.serve_with_incoming(TcpListenerStream::new(listener));
        Serving {
            address,
            task: tasks::spawn("control plane", serving),
        }
    }

    pub fn joins(&self) -> Vec<JoinRequest> {
        self.state().joins.clone()
    }

    /// The Hello of the agent's link number `count`.
    pub async fn hello(&self, count: usize) -> Hello {
        eventually("a link", || self.state().hellos.get(count - 1).cloned()).await
    }

    /// The first message that this takes something of.
    pub async fn said<T>(&self, what: impl Fn(&Said) -> Option<T>) -> T {
        eventually("a word", || self.state().said.iter().find_map(&what)).await
    }

    /// Says it on the newest link.
    pub fn say(&self, body: Body) {
        let state = self.state();
        let message = ToAgent { body: Some(body) };
        state.links.last().unwrap().try_send(Ok(message)).unwrap();
    }

    fn certificate(&self, request: &[u8]) -> Certificate {
        let der = |it: &Authority| it.0.der().to_vec().into();
        Certificate {
            certificate: self.signs.sign(request, self.life).into(),
            valid_for_ms: u64::try_from(self.life.as_millis()).unwrap(),
            instance_id: INSTANCE.to_owned(),
            authorities: self.tells.iter().map(der).collect(),
        }
    }

    async fn listen(
        self,
        mut said: Streaming<FromAgent>,
        say: mpsc::Sender<Result<ToAgent, Status>>,
    ) {
        while let Ok(Some(message)) = said.message().await {
            let answer = match message.body {
                Some(Said::Hello(hello)) => {
                    let kept = hello.held_sessions.iter();
                    let welcome = Welcome {
                        protocol_version: PROTOCOL_VERSION,
                        link_id: LinkId::new().to_string(),
                        kept_sessions: kept.map(|it| it.session_id.clone()).collect(),
                        heartbeat_ms: 0,
                    };
                    let mut state = self.state();
                    state.hellos.push(hello);
                    state.links.push(say.clone());
                    Some(Body::Welcome(welcome))
                }
                Some(Said::Heartbeat(beat)) => Some(Body::LeaseRenewed(LeaseRenewed {
                    number: beat.number,
                })),
                Some(other) => {
                    self.state().said.push(other);
                    (message.sequence > 0).then_some(Body::Acknowledge(Acknowledge {
                        sequence: message.sequence,
                    }))
                }
                None => None,
            };
            if let Some(body) = answer
                && say.send(Ok(ToAgent { body: Some(body) })).await.is_err()
            {
                return;
            }
        }
    }
}

/// A control plane while it runs.
pub struct Serving {
    pub address: SocketAddr,
    task: tokio::task::JoinHandle<Option<Result<(), tonic::transport::Error>>>,
}

impl Serving {
    /// Cuts all links and listens no more.
    pub async fn stop(self, control_plane: &ControlPlane) {
        self.task.abort();
        let links = std::mem::take(&mut control_plane.state().links);
        for link in links {
            drop(link.send(Err(Status::unavailable("it ends"))).await);
        }
        drop(self.task.await);
    }
}

#[tonic::async_trait]
impl EnrolmentService for ControlPlane {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<Certificate>, Status> {
        let request = request.into_inner();
        self.state().joins.push(request.clone());
        if request.token != TOKEN {
            return Err(Status::permission_denied("the token is not valid"));
        }
        Ok(Response::new(self.certificate(&request.signing_request)))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Certificate>, Status> {
        let request = request.into_inner();
        Ok(Response::new(self.certificate(&request.signing_request)))
    }
}

#[tonic::async_trait]
impl LinkService for ControlPlane {
    type OpenStream = ReceiverStream<Result<ToAgent, Status>>;

    async fn open(
        &self,
        request: Request<Streaming<FromAgent>>,
    ) -> Result<Response<Self::OpenStream>, Status> {
        if request.peer_certs().is_none() {
            return Err(Status::unauthenticated("no certificate"));
        }
        let (say, heard) = mpsc::channel(64);
        tasks::spawn("link", self.clone().listen(request.into_inner(), say));
        Ok(Response::new(ReceiverStream::new(heard)))
    }
}
