//! Stands between an agent and its control plane and breaks the connection.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Connections that one proxy may have to cut at once.
const CONNECTIONS_MAX: usize = 64;
/// What is carried at once of what comes late: a record of TLS.
const LATE_BYTES: usize = 16 * 1024;

/// A running proxy. Dropping it stops it.
#[derive(Debug)]
pub struct FaultProxy {
    /// Where agents dial.
    pub address: SocketAddr,
    target: watch::Sender<Option<SocketAddr>>,
    lateness: watch::Sender<Duration>,
    cut: broadcast::Sender<()>,
    serving: JoinHandle<()>,
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl FaultProxy {
    /// Starts one without a target; connections wait for it.
    ///
    /// # Errors
    /// Where there is no port.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (target, targets) = watch::channel(None);
        let (cut, _) = broadcast::channel(CONNECTIONS_MAX);
        let (lateness, late) = watch::channel(Duration::ZERO);
        let cuts = cut.clone();
        let serving = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let by = *late.borrow();
                tokio::spawn(carry(socket, targets.clone(), by, cuts.subscribe()));
            }
        });
        Ok(Self {
            address,
            target,
            lateness,
            cut,
            serving,
        })
    }

    /// Where connections go from now on; `None`: they wait.
    pub fn lead_to(&self, target: Option<SocketAddr>) {
        self.target.send_replace(target);
    }

    /// What the target says reaches who dialed only after this long, on connections from
    /// now on: whoever cuts them meanwhile knows that it is lost.
    pub fn answers_after(&self, lateness: Duration) {
        self.lateness.send_replace(lateness);
    }

    /// Resets all connections. Gives how many there were.
    #[must_use]
    pub fn cut(&self) -> usize {
        self.cut.send(()).unwrap_or(0)
    }
}

async fn carry(
    mut from: TcpStream,
    mut targets: watch::Receiver<Option<SocketAddr>>,
    lateness: Duration,
    mut cut: broadcast::Receiver<()>,
) {
    let target = match targets.wait_for(Option::is_some).await {
        Ok(target) => *target,
        Err(_) => return,
    };
    let Some(target) = target else { return };
    let Ok(mut to) = TcpStream::connect(target).await else {
        return;
    };
    tokio::select! {
        _ = between(&mut from, &mut to, lateness) => {}
        _ = cut.recv() => {
            // A reset, not a farewell.
            for socket in [&from, &to] {
                drop(socket.set_zero_linger());
            }
        }
    }
}

/// Carries all that is said, until both have nothing more to say.
async fn between(
    from: &mut TcpStream,
    to: &mut TcpStream,
    lateness: Duration,
) -> std::io::Result<()> {
    if lateness.is_zero() {
        copy_bidirectional(from, to).await?;
        return Ok(());
    }
    let (mut said, mut heard) = from.split();
    let (mut answers, mut questions) = to.split();
    let ask = async {
        copy(&mut said, &mut questions).await?;
        questions.shutdown().await
    };
    let answer = async {
        let mut bytes = vec![0; LATE_BYTES];
        loop {
            let count = answers.read(&mut bytes).await?;
            if count == 0 {
                return heard.shutdown().await;
            }
            sleep(lateness).await;
            heard.write_all(&bytes[..count]).await?;
        }
    };
    tokio::try_join!(ask, answer)?;
    Ok(())
}
