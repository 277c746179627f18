//! Stands between an agent and its control plane and breaks the connection.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

/// Connections that one proxy may have to cut at once.
const CONNECTIONS_MAX: usize = 64;

/// A running proxy. Dropping it stops it.
#[derive(Debug)]
pub struct FaultProxy {
    /// Where agents dial.
    pub address: SocketAddr,
    target: watch::Sender<Option<SocketAddr>>,
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
        let cuts = cut.clone();
        let serving = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(carry(socket, targets.clone(), cuts.subscribe()));
            }
        });
        Ok(Self {
            address,
            target,
            cut,
            serving,
        })
    }

    /// Where connections go from now on; `None`: they wait.
    pub fn lead_to(&self, target: Option<SocketAddr>) {
        self.target.send_replace(target);
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
        _ = copy_bidirectional(&mut from, &mut to) => {}
        _ = cut.recv() => {
            // A reset, not a farewell.
            for socket in [&from, &to] {
                drop(socket.set_zero_linger());
            }
        }
    }
}
