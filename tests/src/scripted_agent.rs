//! An agent without a browser: a real client of the link that joins with a token and
//! speaks over mutual TLS, and whose every word is its test's.
//!
//! The control plane starts a program that stands for the machine: it leaves its token
//! where the test finds it, and does nothing else until it is told to end.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use browserfleet_proto::agent::v1::enrolment_service_client::EnrolmentServiceClient;
use browserfleet_proto::agent::v1::from_agent::Body as Said;
use browserfleet_proto::agent::v1::link_service_client::LinkServiceClient;
use browserfleet_proto::agent::v1::media_service_client::MediaServiceClient;
use browserfleet_proto::agent::v1::to_agent::Body as Heard;
use browserfleet_proto::agent::v1::{
    Certificate, Chunk, Command, FromAgent, Heartbeat, HeldSession, Hello, JoinRequest,
    OpenSession, Recycled, RenewRequest, SessionEnded, SessionOpened, Settled, ToAgent, Welcome,
};
use browserfleet_proto::browser::v1::{
    Captured, Evaluated, ImageFormat, Outcome, outcome::Result as Done,
};
use browserfleet_proto::{PROTOCOL_VERSION, ladder, limits};
use bytes::{BufMut, Bytes};
use prost::Message;
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

/// The name that the control plane's port has, whatever its address.
const SERVER_NAME: &str = "control-plane.browserfleet";
/// How long a test waits for a word.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How soon an agent dials again whose link has ended.
const REDIAL_AFTER: Duration = Duration::from_millis(200);

/// Where the machines leave what they were told.
#[derive(Debug)]
pub struct Machines {
    folder: TempDir,
    taken: HashSet<PathBuf>,
}

impl Machines {
    /// None yet.
    ///
    /// # Errors
    /// Where the program cannot be written.
    pub fn new() -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let program = folder.path().join("browserfleet-agent");
        let notes = folder.path().display();
        // Nobody writes to it: whoever opens it waits, and costs nothing meanwhile.
        let silence = folder.path().join("browserfleet-agent.silence");
        nix::unistd::mkfifo(&silence, nix::sys::stat::Mode::S_IRWXU)?;
        // The note appears whole: it is written elsewhere and moved.
        let script = format!(
            "#!/bin/sh\nread -r token || exit 1\nnote={notes}/$BROWSERFLEET_INSTANCE_ID\n\
             printf '%s\\n%s\\n%s\\n' \"$token\" \"$BROWSERFLEET_CONTROL_PLANE\" \
             \"$BROWSERFLEET_CA_FILE\" > \"$note\"\nmv \"$note\" \"$note.note\"\n\
             exec cat {}\n",
            silence.display()
        );
        std::fs::write(&program, script)?;
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755))?;
        Ok(Self {
            folder,
            taken: HashSet::new(),
        })
    }

    /// What the control plane is to start.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        self.folder.path().join("browserfleet-agent")
    }

    /// The next machine's agent, which has joined.
    ///
    /// # Errors
    /// Where no machine comes, or the control plane refuses it.
    pub async fn next(&mut self) -> anyhow::Result<ScriptedAgent> {
        ScriptedAgent::join(self.invitation().await?).await
    }

    /// What the next machine was told, whose agent has not joined yet.
    ///
    /// # Errors
    /// Where no machine comes.
    pub async fn invitation(&mut self) -> anyhow::Result<Invitation> {
        let note = timeout(PATIENCE, async {
            loop {
                if let Some(note) = self.untaken() {
                    return note;
                }
                sleep(LOOK_EVERY).await;
            }
        })
        .await
        .context("no machine was started")?;
        self.taken.insert(note.clone());
        Invitation::read(&std::fs::read_to_string(note)?)
    }

    /// Lets every machine that comes have an agent that lives as it should.
    #[must_use]
    pub fn work(mut self) -> Crew {
        let rosters = Arc::<Mutex<BTreeMap<String, Roster>>>::default();
        let noted = Arc::clone(&rosters);
        let working = tokio::spawn(async move {
            let mut agents = JoinSet::new();
            loop {
                let Some(note) = self.untaken() else {
                    sleep(LOOK_EVERY).await;
                    continue;
                };
                self.taken.insert(note.clone());
                let text = std::fs::read_to_string(note).unwrap_or_default();
                let Ok(invitation) = Invitation::read(&text) else {
                    continue;
                };
                let noted = Arc::clone(&noted);
                agents.spawn(async move {
                    // One that was ended before it joined is none.
                    if let Ok(agent) = ScriptedAgent::join(invitation).await {
                        let roster = Roster::default();
                        locked(&noted).insert(agent.instance.clone(), roster.clone());
                        agent.live(&roster).await;
                    }
                });
            }
        });
        Crew { rosters, working }
    }

    fn untaken(&self) -> Option<PathBuf> {
        std::fs::read_dir(self.folder.path())
            .ok()?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| {
                path.extension().is_some_and(|it| it == "note") && !self.taken.contains(path)
            })
    }
}

/// The agents of all machines. Dropping it ends them.
#[derive(Debug)]
pub struct Crew {
    rosters: Arc<Mutex<BTreeMap<String, Roster>>>,
    working: JoinHandle<()>,
}

impl Crew {
    /// What each agent was told to hold, by its instance.
    #[must_use]
    pub fn rosters(&self) -> BTreeMap<String, Roster> {
        locked(&self.rosters).clone()
    }

    /// The sessions that any of them holds.
    #[must_use]
    pub fn held(&self) -> Vec<String> {
        let all = self.rosters();
        all.values().flat_map(|it| it.held().into_keys()).collect()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.working.abort();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a machine is told at its start.
#[derive(Debug, Clone)]
pub struct Invitation {
    /// The one-time token.
    pub token: String,
    /// Where agents dial.
    pub address: String,
    /// The authorities that the control plane's certificate may be of, PEM.
    pub authorities: String,
}

impl Invitation {
    fn read(note: &str) -> anyhow::Result<Self> {
        let mut lines = note.lines().map(str::to_owned);
        let mut line = || lines.next().context("the note is short");
        Ok(Self {
            token: line()?,
            address: line()?,
            authorities: std::fs::read_to_string(line()?)?,
        })
    }

    /// Asks for a certificate with this token and this signing request.
    ///
    /// # Errors
    /// What the control plane says instead.
    ///
    /// # Panics
    /// Where it cannot be reached.
    pub async fn join(&self, token: &str, signing_request: &[u8]) -> Result<Certificate, Status> {
        self.join_from("", token, signing_request).await
    }

    /// The same, from a machine that calls itself this.
    ///
    /// # Errors
    /// What the control plane says instead.
    ///
    /// # Panics
    /// Where it cannot be reached.
    pub async fn join_from(
        &self,
        machine: &str,
        token: &str,
        signing_request: &[u8],
    ) -> Result<Certificate, Status> {
        let request = JoinRequest {
            token: token.to_owned(),
            signing_request: Bytes::copy_from_slice(signing_request),
            machine: machine.to_owned(),
        };
        let endpoint = dialing(&self.address, &self.authorities, None).expect("an address");
        let channel = endpoint.connect().await.expect("a connection");
        let joined = EnrolmentServiceClient::new(channel).join(request).await?;
        Ok(joined.into_inner())
    }
}

/// How the control plane is dialed.
fn dialing(
    address: &str,
    authorities: &str,
    identity: Option<Identity>,
) -> anyhow::Result<Endpoint> {
    let trusted = tonic::transport::Certificate::from_pem(authorities);
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(trusted)
        .domain_name(SERVER_NAME);
    if let Some(identity) = identity {
        tls = tls.identity(identity);
    }
    Ok(Endpoint::from_shared(address.to_owned())?.tls_config(tls)?)
}

/// A key, and the request to sign it.
///
/// # Errors
/// Where there is none.
pub fn new_key() -> anyhow::Result<(KeyPair, Vec<u8>)> {
    let key = KeyPair::generate()?;
    let request = CertificateParams::default().serialize_request(&key)?;
    Ok((key, request.der().to_vec()))
}

/// DER, as PEM.
#[must_use]
pub fn pem_of(certificate: &[u8]) -> String {
    pem::encode(&pem::Pem::new("CERTIFICATE", certificate))
}

/// One that has joined.
#[derive(Debug, Clone)]
pub struct ScriptedAgent {
    /// As its certificate says.
    pub instance: String,
    /// This life of its process.
    pub boot: String,
    address: String,
    endpoint: Endpoint,
    /// Without its certificate.
    anonymous: Endpoint,
}

impl ScriptedAgent {
    /// Joins with what its machine was told.
    ///
    /// # Errors
    /// Where it is refused.
    pub async fn join(invitation: Invitation) -> anyhow::Result<Self> {
        let (key, request) = new_key()?;
        let Invitation {
            token,
            address,
            authorities,
        } = &invitation;
        let told = invitation.join(token, &request).await?;
        anyhow::ensure!(
            told.authorities
                .iter()
                .map(|it| pem_of(it))
                .collect::<String>()
                .lines()
                .eq(authorities.lines()),
            "a certificate comes with what its agent was told"
        );
        Self::told(&key, &told, address.clone())
    }

    /// The same agent with its next certificate, which trusts what it was told with it.
    ///
    /// # Errors
    /// Where it is refused.
    pub async fn renewed(&self) -> anyhow::Result<Self> {
        let (key, request) = new_key()?;
        let request = RenewRequest {
            signing_request: request.into(),
        };
        let mut client = EnrolmentServiceClient::new(self.channel().await?);
        let told = client.renew(request).await?.into_inner();
        Ok(Self {
            boot: self.boot.clone(),
            ..Self::told(&key, &told, self.address.clone())?
        })
    }

    /// Who has this key and was told this for it, by the control plane at this address.
    ///
    /// # Errors
    /// Where the certificate is none.
    pub fn told(key: &KeyPair, told: &Certificate, address: String) -> anyhow::Result<Self> {
        let authorities: String = told.authorities.iter().map(|it| pem_of(it)).collect();
        let identity = Identity::from_pem(pem_of(&told.certificate), key.serialize_pem());
        Ok(Self {
            instance: told.instance_id.clone(),
            boot: browserfleet_proto::ids::BootId::new().to_string(),
            anonymous: dialing(&address, &authorities, None)?,
            endpoint: dialing(&address, &authorities, Some(identity))?,
            address,
        })
    }

    /// Asks for a link with this user's token and no certificate.
    ///
    /// # Errors
    /// What the control plane says to it.
    ///
    /// # Panics
    /// Where the control plane cannot be reached.
    pub async fn link_without_a_certificate(&self, token: &str) -> Result<(), Status> {
        let channel = self.anonymous.connect().await.expect("a connection");
        let (_, said) = mpsc::channel::<FromAgent>(1);
        let mut request = Request::new(ReceiverStream::new(said));
        let bearer = format!("Bearer {token}").parse().expect("a header");
        request.metadata_mut().insert("authorization", bearer);
        let opened = LinkServiceClient::new(channel).open(request).await?;
        opened.into_inner().message().await.map(|_| ())
    }

    /// A connection with its certificate.
    ///
    /// # Errors
    /// Where it is refused.
    pub async fn channel(&self) -> anyhow::Result<Channel> {
        Ok(self.endpoint.connect().await?)
    }

    /// What it says first, if it has nothing.
    #[must_use]
    pub fn hello(&self) -> Hello {
        Hello {
            protocol_version: PROTOCOL_VERSION,
            agent_version: "scripted".into(),
            boot_id: self.boot.clone(),
            sessions_max: 8,
            ..Hello::default()
        }
    }

    /// What it says first, if it has what it was told to hold.
    #[must_use]
    pub fn hello_holding(&self, roster: &Roster) -> Hello {
        let held = roster.held().into_iter();
        Hello {
            held_sessions: held
                .map(|(session_id, epoch)| HeldSession { session_id, epoch })
                .collect(),
            ..self.hello()
        }
    }

    /// Lives as an agent should, over one link after another, until it is told that it is
    /// not to run any more.
    pub async fn live(&self, roster: &Roster) {
        loop {
            match self.link_after(self.hello_holding(roster)).await {
                Ok(link) => {
                    roster.keep_only(&link.welcome.kept_sessions);
                    drop(link.serve_noting("1", roster).await);
                }
                Err(error) if error.to_string().contains("Refusal") => return,
                // The control plane is away.
                Err(_) => {}
            }
            sleep(REDIAL_AFTER).await;
        }
    }

    /// A link that was welcomed.
    ///
    /// # Errors
    /// What came instead of the Welcome.
    pub async fn link(&self) -> anyhow::Result<Link> {
        self.link_after(self.hello()).await
    }

    /// A link that was welcomed after this Hello.
    ///
    /// # Errors
    /// What came instead of the Welcome.
    pub async fn link_after(&self, hello: Hello) -> anyhow::Result<Link> {
        let (queue, said) = mpsc::channel(limits::LINK_QUEUE_MAX);
        let mut client = LinkServiceClient::new(self.channel().await?);
        queue.try_send(FromAgent {
            sequence: 0,
            body: Some(Said::Hello(hello)),
        })?;
        let heard = client.open(ReceiverStream::new(said)).await?;
        Link::after(queue, heard.into_inner()).await
    }

    /// A link whose Hello has a field, and which begins with a kind of message, that
    /// this release does not know.
    ///
    /// # Errors
    /// What came instead of the Welcome.
    pub async fn link_of_a_newer_release(&self) -> anyhow::Result<Link> {
        let hello = FromAgent {
            sequence: 0,
            body: Some(Said::Hello(self.hello())),
        };
        let mut hello = hello.encode_to_vec();
        let unknown = [0xfa, 0x3e, 0x03, b'n', b'e', b'w']; // Field 1007, a string.
        // The Hello is the last field of its message: what is appended is the message's
        // own unknown field.
        hello.extend(unknown);
        let (queue, said) = mpsc::channel(limits::LINK_QUEUE_MAX);
        let (raw, messages) = mpsc::channel::<Bytes>(limits::LINK_QUEUE_MAX);
        raw.try_send(hello.into())?;
        raw.try_send(Bytes::copy_from_slice(&unknown))?;
        tokio::spawn(forward(said, raw));
        let mut client = tonic::client::Grpc::new(self.channel().await?);
        client.ready().await?;
        let path = PathAndQuery::from_static("/browserfleet.agent.v1.LinkService/Open");
        let request = Request::new(ReceiverStream::new(messages));
        let heard = client.streaming(request, path, AlreadyEncoded).await?;
        Link::after(queue, heard.into_inner()).await
    }

    /// Delivers a picture of so many bytes for a command.
    ///
    /// # Errors
    /// Where the control plane does not take it.
    pub async fn deliver(&self, command: &Command, bytes: usize) -> anyhow::Result<()> {
        let (queue, chunks) = mpsc::channel(4);
        let (session_id, command_id) = (command.session_id.clone(), command.command_id.clone());
        tokio::spawn(async move {
            let chunk = vec![b'x'; limits::MEDIA_CHUNK_BYTES_MAX];
            let mut left = bytes;
            while left > 0 {
                let size = left.min(chunk.len());
                left -= size;
                let chunk = Chunk {
                    session_id: session_id.clone(),
                    command_id: command_id.clone(),
                    size_bytes: bytes as u64,
                    data: chunk[..size].to_vec().into(),
                };
                if queue.send(chunk).await.is_err() {
                    return;
                }
            }
        });
        MediaServiceClient::new(self.channel().await?)
            .deliver(ReceiverStream::new(chunks))
            .await?;
        Ok(())
    }
}

/// A link, end to end.
#[derive(Debug)]
pub struct Link {
    queue: mpsc::Sender<FromAgent>,
    heard: Streaming<ToAgent>,
    sequence: u64,
    /// The control plane's first word.
    pub welcome: Welcome,
}

impl Link {
    async fn after(
        queue: mpsc::Sender<FromAgent>,
        heard: Streaming<ToAgent>,
    ) -> anyhow::Result<Self> {
        let mut link = Self {
            queue,
            heard,
            sequence: 0,
            welcome: Welcome::default(),
        };
        match link.hear().await? {
            Some(Heard::Welcome(welcome)) => link.welcome = welcome,
            other => anyhow::bail!("no welcome but {other:?}"),
        }
        // Its first word makes its instance running.
        link.say(Said::Heartbeat(Heartbeat::default())).await?;
        Ok(link)
    }

    /// Says something that may be lost.
    ///
    /// # Errors
    /// Where the link is gone.
    pub async fn say(&self, body: Said) -> anyhow::Result<()> {
        self.send(0, body).await
    }

    /// Says something that is to be acknowledged.
    ///
    /// # Errors
    /// Where the link is gone.
    pub async fn report(&mut self, body: Said) -> anyhow::Result<()> {
        self.sequence += 1;
        self.send(self.sequence, body).await
    }

    async fn send(&self, sequence: u64, body: Said) -> anyhow::Result<()> {
        let message = FromAgent {
            sequence,
            body: Some(body),
        };
        timeout(PATIENCE, self.queue.send(message)).await??;
        Ok(())
    }

    /// The next message; `None` at the end of the link.
    ///
    /// # Errors
    /// How the link ended, or that nothing came.
    pub async fn hear(&mut self) -> anyhow::Result<Option<Heard>> {
        let message = timeout(PATIENCE, self.heard.message())
            .await
            .context("nothing was heard")??;
        Ok(message.and_then(|it| it.body))
    }

    /// How the link ends, whatever is heard before. `None`: without a word.
    ///
    /// # Errors
    /// Where it does not end.
    pub async fn end(&mut self) -> anyhow::Result<Option<Status>> {
        timeout(PATIENCE, async {
            loop {
                match self.heard.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return None,
                    Err(status) => return Some(status),
                }
            }
        })
        .await
        .context("the link does not end")
    }

    /// Opens the next session that it is told to.
    ///
    /// # Errors
    /// Where the link ends before.
    pub async fn open(&mut self) -> anyhow::Result<OpenSession> {
        loop {
            match self.hear().await? {
                Some(Heard::OpenSession(session)) => {
                    self.report(opened(&session)).await?;
                    return Ok(session);
                }
                Some(_) => {}
                None => anyhow::bail!("the link ended before a session was opened"),
            }
        }
    }

    /// The next command, whatever is heard before.
    ///
    /// # Errors
    /// Where the link ends before.
    pub async fn command(&mut self) -> anyhow::Result<Command> {
        loop {
            match self.hear().await? {
                Some(Heard::Command(command)) => return Ok(command),
                Some(_) => {}
                None => anyhow::bail!("the link ended before a command came"),
            }
        }
    }

    /// Lives as an agent should, with this answer to every script, until the link ends.
    ///
    /// # Errors
    /// How the link ended.
    pub async fn serve(self, value: &str) -> anyhow::Result<()> {
        self.serve_noting(value, &Roster::default()).await
    }

    /// The same, and notes what it is told to hold.
    ///
    /// # Errors
    /// How the link ended.
    pub async fn serve_noting(mut self, value: &str, roster: &Roster) -> anyhow::Result<()> {
        let mut heartbeat = tokio::time::interval(ladder::HEARTBEAT);
        let mut number = 0;
        loop {
            let message = tokio::select! {
                message = self.heard.message() => message?,
                _ = heartbeat.tick() => {
                    number += 1;
                    let beat = Heartbeat { number, ..Heartbeat::default() };
                    self.say(Said::Heartbeat(beat)).await?;
                    continue;
                }
            };
            match message.and_then(|it| it.body) {
                Some(Heard::OpenSession(session)) => {
                    roster.began(&session);
                    self.report(opened(&session)).await?;
                }
                Some(Heard::EndSession(session)) => {
                    roster.ended(&session.session_id);
                    let ended = SessionEnded {
                        session_id: session.session_id,
                        epoch: session.epoch,
                        reason: "ended".into(),
                        message: String::new(),
                    };
                    self.report(Said::SessionEnded(ended)).await?;
                }
                Some(Heard::Command(command)) => self.report(executed(&command, value)).await?,
                Some(Heard::Recycle(recycle)) => {
                    roster.keep_only(&[]);
                    let recycled = Recycled {
                        epoch: recycle.epoch,
                        residue: Vec::new(),
                    };
                    self.report(Said::Recycled(recycled)).await?;
                }
                Some(_) => {}
                None => return Ok(()),
            }
        }
    }
}

/// What one agent was told to hold, in order.
#[derive(Debug, Clone, Default)]
pub struct Roster(Arc<Mutex<Roll>>);

#[derive(Debug, Default)]
struct Roll {
    opened: Vec<(String, u64)>,
    held: BTreeMap<String, u64>,
    held_most: usize,
}

impl Roster {
    /// The sessions that were opened, each with the epoch of its lease.
    #[must_use]
    pub fn opened(&self) -> Vec<(String, u64)> {
        self.roll().opened.clone()
    }

    /// The sessions that it holds, each with the epoch of its lease.
    #[must_use]
    pub fn held(&self) -> BTreeMap<String, u64> {
        self.roll().held.clone()
    }

    /// How many it ever held at once.
    #[must_use]
    pub fn held_most(&self) -> usize {
        self.roll().held_most
    }

    fn began(&self, session: &OpenSession) {
        let mut roll = self.roll();
        roll.opened
            .push((session.session_id.clone(), session.epoch));
        roll.held.insert(session.session_id.clone(), session.epoch);
        roll.held_most = roll.held_most.max(roll.held.len());
    }

    fn ended(&self, session: &str) {
        self.roll().held.remove(session);
    }

    fn keep_only(&self, kept: &[String]) {
        self.roll().held.retain(|session, _| kept.contains(session));
    }

    fn roll(&self) -> MutexGuard<'_, Roll> {
        locked(&self.0)
    }
}

/// That a session has its browser.
#[must_use]
pub fn opened(session: &OpenSession) -> Said {
    Said::SessionOpened(SessionOpened {
        session_id: session.session_id.clone(),
        epoch: session.epoch,
        rejection: None,
        browser_version: "Scripted/1".into(),
    })
}

/// The outcome of a script, as JSON.
#[must_use]
pub fn executed(command: &Command, value: &str) -> Said {
    Said::Settled(Settled {
        command_id: command.command_id.clone(),
        session_id: command.session_id.clone(),
        epoch: command.epoch,
        outcome: Some(Outcome {
            result: Some(Done::Evaluated(Evaluated {
                value_json: value.into(),
                r#type: "string".into(),
            })),
        }),
        ..Settled::default()
    })
}

/// The outcome of a screenshot whose picture was delivered.
#[must_use]
pub fn captured(command: &Command) -> Said {
    Said::Settled(Settled {
        command_id: command.command_id.clone(),
        session_id: command.session_id.clone(),
        epoch: command.epoch,
        outcome: Some(Outcome {
            result: Some(Done::Captured(Captured {
                format: ImageFormat::Png.into(),
                width: 1,
                height: 1,
            })),
        }),
        payload_delivered: true,
        ..Settled::default()
    })
}

async fn forward(mut said: mpsc::Receiver<FromAgent>, raw: mpsc::Sender<Bytes>) {
    while let Some(message) = said.recv().await {
        if raw.send(message.encode_to_vec().into()).await.is_err() {
            return;
        }
    }
}

/// Sends bytes as they are, and reads the messages of this release.
#[derive(Debug, Clone, Copy, Default)]
struct AlreadyEncoded;

impl Codec for AlreadyEncoded {
    type Encode = Bytes;
    type Decode = ToAgent;
    type Encoder = Self;
    type Decoder = <ProstCodec<FromAgent, ToAgent> as Codec>::Decoder;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<FromAgent, ToAgent>::default().decoder()
    }
}

impl Encoder for AlreadyEncoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}
