//! Mail: what is to be written to whom, and how it is sent. Everything is done
//! after the request that asked for it was answered, so that its time tells
//! nothing; the queue is bounded, and a letter that does not go is in the log.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use browserfleet_proto::ids::UserId;
use futures_util::StreamExt;
use lettre::message::header::{ContentTransferEncoding, ContentType};
use lettre::message::{Body, Mailbox, MultiPart, SinglePart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use url::Url;

use super::letters::{self, Letter};
use super::secrets::{hash_of, new_secret};
use super::{Accounts, account_of};
use crate::clock;
use crate::domain::audit::Event;
use crate::domain::user::{Email, User};
use crate::error::Error;
use crate::store::mail_tokens::{NewMailToken, Purpose};
use crate::tasks::Tasks;

/// How long what a mail carries counts.
const TOKEN_LIFE: Duration = Duration::from_secs(600);
/// Errands that may wait; what comes after is dropped, and the log says so.
const ERRANDS_MAX: usize = 1_000;
/// Errands at once: a slow mail server holds up no more than itself.
const AT_ONCE: usize = 8;
/// How long the mail server may take for one step.
const SMTP_DEADLINE: Duration = Duration::from_secs(15);
/// Longest line of a mail that is not encoded, in bytes (RFC 5322, section 2.1.1).
const LINE_BYTES_MAX: usize = 998;
/// Waits before a letter is tried again.
const RETRIES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(10)];

/// How mail is sent.
#[derive(Debug)]
pub struct MailSettings {
    /// `smtp://` (STARTTLS) or `smtps://` (TLS), with user and password;
    /// `None`: mail goes to the folder and is told of in the log.
    pub smtp: Option<Url>,
    /// Who it is from.
    pub from: String,
    /// Where it goes where there is no server.
    pub folder: PathBuf,
}

/// What somebody has to be written about.
#[derive(Debug)]
pub(super) enum Errand {
    Verify {
        user: UserId,
        email: Email,
    },
    VerifyAgain {
        email: Email,
    },
    AlreadyRegistered {
        email: Email,
    },
    ChangeEmail {
        user: UserId,
        former: Email,
        email: Email,
        event: Event,
    },
    Reset {
        email: Email,
        event: Event,
    },
    PasswordChanged {
        email: Email,
    },
    Invite {
        email: Email,
        token: String,
    },
}

#[derive(Debug)]
enum Transport {
    Smtp(AsyncSmtpTransport<Tokio1Executor>),
    Folder(PathBuf),
}

#[derive(Debug)]
pub(super) struct Mailer {
    transport: Transport,
    from: Mailbox,
    errands: mpsc::Sender<Errand>,
    waiting: Mutex<Option<mpsc::Receiver<Errand>>>,
}

impl Mailer {
    pub(super) fn new(settings: MailSettings) -> anyhow::Result<Self> {
        let transport = match &settings.smtp {
            Some(url) => Transport::Smtp(smtp(url).context("BROWSERFLEET_SMTP_URL")?),
            None => Transport::Folder(settings.folder),
        };
        let (errands, waiting) = mpsc::channel(ERRANDS_MAX);
        Ok(Self {
            transport,
            from: settings
                .from
                .parse()
                .context("BROWSERFLEET_MAIL_FROM is no address")?,
            errands,
            waiting: Mutex::new(Some(waiting)),
        })
    }

    /// Has an errand done later.
    pub(super) fn ask(&self, errand: Errand) {
        if self.errands.try_send(errand).is_err() {
            tracing::error!("too many mails are waiting; one was dropped");
        }
    }

    async fn send(&self, to: &Email, letter: Letter) -> anyhow::Result<()> {
        let message = Message::builder()
            .from(self.from.clone())
            .to(to.as_str().parse().context("the address takes no mail")?)
            .subject(letter.subject)
            .multipart(
                MultiPart::alternative()
                    .singlepart(as_it_is(letter.text))
                    .singlepart(SinglePart::html(letter.html)),
            )?;
        match &self.transport {
            Transport::Smtp(smtp) => {
                for wait in RETRIES {
                    match smtp.send(message.clone()).await {
                        Ok(_) => return Ok(()),
                        Err(error) if error.is_permanent() => return Err(error.into()),
                        Err(error) => tracing::info!(%error, "a mail did not go; trying again"),
                    }
                    tokio::time::sleep(wait).await;
                }
                smtp.send(message).await?;
            }
            Transport::Folder(folder) => {
                // In order of time; several may be written at once.
                let name = format!("{}-{:08x}.eml", clock::now().0, rand::random::<u32>());
                let file = folder.join(name);
                tokio::fs::create_dir_all(folder).await?;
                // What is in it opens an account.
                let mut written = tokio::fs::OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&file)
                    .await?;
                written.write_all(&message.formatted()).await?;
                written.flush().await?;
                tracing::warn!(
                    file = %file.display(), subject = letter.subject,
                    "no mail server is configured (BROWSERFLEET_SMTP_URL); a mail was written to a file"
                );
            }
        }
        Ok(())
    }
}

/// Text that one can copy a link from, in the file of a mail too: encoded, a line
/// of more than 76 characters would be broken.
fn as_it_is(text: String) -> SinglePart {
    let short = |line: &str| line.len() <= LINE_BYTES_MAX;
    if !(text.is_ascii() && text.lines().all(short)) {
        return SinglePart::plain(text);
    }
    let lines: Vec<&str> = text.lines().collect();
    let body = Body::dangerous_pre_encoded(
        lines.join("\r\n").into_bytes(),
        ContentTransferEncoding::SevenBit,
    );
    SinglePart::builder()
        .header(ContentType::TEXT_PLAIN)
        .body(body)
}

fn smtp(url: &Url) -> anyhow::Result<AsyncSmtpTransport<Tokio1Executor>> {
    let host = url.host_str().context("has no host")?;
    let tls = TlsParameters::new(host.to_owned())?;
    let (tls, port) = match url.scheme() {
        "smtps" => (Tls::Wrapper(tls), 465),
        _ => (Tls::Required(tls), 587),
    };
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)
        .port(url.port().unwrap_or(port))
        .tls(tls)
        .timeout(Some(SMTP_DEADLINE));
    if !url.username().is_empty() {
        let plain = |text: &str| {
            percent_encoding::percent_decode_str(text)
                .decode_utf8_lossy()
                .into_owned()
        };
        let password = plain(url.password().unwrap_or_default());
        builder = builder.credentials(Credentials::new(plain(url.username()), password));
    }
    Ok(builder.build())
}

impl Accounts {
    /// Does errands until the process stops; those that are under way then are
    /// done still.
    pub async fn run_errands(self: Arc<Self>, tasks: Tasks) {
        let waiting = self
            .mailer
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(waiting) = waiting else { return };
        ReceiverStream::new(waiting)
            .take_until(tasks.stopping())
            .for_each_concurrent(AT_ONCE, |errand| async {
                if let Err(error) = self.run_errand(errand).await {
                    tracing::error!(%error, "could not send a mail");
                }
            })
            .await;
    }

    async fn run_errand(&self, errand: Errand) -> anyhow::Result<()> {
        let url = &self.public_url;
        let (to, letter) = match errand {
            Errand::Verify { user, email } => {
                let Some(token) = self
                    .token(Purpose::Verification, user, &email, None)
                    .await?
                else {
                    return Ok(());
                };
                (email, letters::verification(url, &token, TOKEN_LIFE))
            }
            Errand::VerifyAgain { email } => {
                let Some(user) = self.account(&email).await? else {
                    return Ok(());
                };
                if user.email_verified_at.is_some() {
                    return Ok(());
                }
                let token = self.token(Purpose::Verification, user.id, &email, None);
                let Some(token) = token.await? else {
                    return Ok(());
                };
                (email, letters::verification(url, &token, TOKEN_LIFE))
            }
            Errand::AlreadyRegistered { email } => {
                if !self.throttle.may_mail(&account_of(email.as_str())) {
                    return Ok(());
                }
                (email, letters::already_registered(url))
            }
            Errand::ChangeEmail {
                user,
                former,
                email,
                event,
            } => {
                let token = self.token(Purpose::EmailChange, user, &email, Some(&event));
                let Some(token) = token.await? else {
                    return Ok(());
                };
                self.mailer
                    .send(&former, letters::email_is_changing())
                    .await?;
                (email, letters::email_change(url, &token, TOKEN_LIFE))
            }
            Errand::Reset { email, event } => {
                let Some(user) = self.account(&email).await? else {
                    return Ok(());
                };
                if user.disabled_at.is_some() {
                    return Ok(());
                }
                let event = event.on(user.id);
                let token = self.token(Purpose::Reset, user.id, &email, Some(&event));
                let Some(token) = token.await? else {
                    return Ok(());
                };
                (email, letters::reset(url, &token, TOKEN_LIFE))
            }
            Errand::PasswordChanged { email } => (email, letters::password_changed()),
            Errand::Invite { email, token } => (email, letters::invitation(url, &token)),
        };
        self.mailer.send(&to, letter).await
    }

    async fn account(&self, email: &Email) -> Result<Option<User>, Error> {
        Ok(self.store.credentials(email).await?.map(|it| it.0))
    }

    /// A new token of this purpose, the only one that counts. `None`: this
    /// address was written to often enough.
    async fn token(
        &self,
        purpose: Purpose,
        user: UserId,
        email: &Email,
        event: Option<&Event>,
    ) -> Result<Option<String>, Error> {
        if !self.throttle.may_mail(&account_of(email.as_str())) {
            tracing::info!(user.id = %user, "an address was written to often enough");
            return Ok(None);
        }
        let token = new_secret("");
        let now = clock::now();
        self.store
            .issue_mail_token(
                &NewMailToken {
                    hash: &hash_of(&token),
                    purpose,
                    user: Some(user),
                    email,
                    at: now,
                    expires_at: now.plus(TOKEN_LIFE),
                },
                event,
            )
            .await?;
        Ok(Some(token))
    }
}
