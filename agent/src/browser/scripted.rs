//! A browser that does what its script says: the text of an `execute` is the script.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use browserfleet_proto::action::{
    Action, Answer, BrowserKind, Code, Point, Rejection, Script, SessionOptions,
};
use browserfleet_proto::frame::Format;
use browserfleet_proto::input::Input;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::live::{Asked, Ends, Live, Picture, Shown};
use super::{Browser, Downloads, Launcher, Notice, Performed, Told, TunnelEnd, Tunnels};

/// Long enough that something can happen meanwhile.
pub const RECYCLING_TAKES: Duration = Duration::from_secs(1);

/// What all scripted browsers of one launcher did.
#[derive(Debug, Clone, Default)]
pub struct Scripted {
    /// Actions that were begun.
    pub begun: Arc<AtomicUsize>,
    /// Browsers that were closed.
    pub closed: Arc<AtomicUsize>,
    /// What is left of them, however often it is removed.
    pub left: Arc<Mutex<Vec<String>>>,
    /// What persons did.
    pub inputs: Arc<Mutex<Vec<Input>>>,
}

struct Running {
    all: Scripted,
    /// Open as long as the browser is.
    notices: Option<mpsc::Receiver<Notice>>,
    _told: mpsc::Sender<Notice>,
}

impl Launcher for Scripted {
    fn launch<'a>(
        &'a self,
        _: &'a SessionOptions,
        _: Instant,
    ) -> BoxFuture<'a, Result<Box<dyn Browser>, Rejection>> {
        let (told, notices) = mpsc::channel(1);
        let browser = Running {
            all: self.clone(),
            notices: Some(notices),
            _told: told,
        };
        async move { Ok(Box::new(browser) as Box<dyn Browser>) }.boxed()
    }

    fn kinds(&self) -> Vec<BrowserKind> {
        vec![BrowserKind::Shell]
    }

    fn spares(&self) -> usize {
        0
    }

    fn first_spare(&self) -> Option<Instant> {
        None
    }

    fn recycle(&self) -> BoxFuture<'_, Vec<String>> {
        async {
            tokio::time::sleep(RECYCLING_TAKES).await;
            self.left.lock().expect("no test panics with it").clone()
        }
        .boxed()
    }
}

impl Browser for Running {
    fn version(&self) -> &'static str {
        "Scripted/1"
    }

    fn act<'a>(&'a mut self, action: &'a Action, _: Instant) -> BoxFuture<'a, Performed> {
        let begun = self.all.begun.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            let Action::Execute(execute) = action else {
                return Err(Rejection::new(Code::BrowserError, "only scripts")).into();
            };
            match &execute.script {
                Script::Expression(text) if text == "panic" => panic!("as the script says"),
                Script::Expression(text) if text == "wait" => std::future::pending().await,
                _ => Ok(Answer::Scrolled(Point {
                    x: begun as f64,
                    y: 0.0,
                }))
                .into(),
            }
        }
        .boxed()
    }

    fn notices(&mut self) -> mpsc::Receiver<Notice> {
        self.notices.take().expect("taken once")
    }

    fn events(&mut self) -> mpsc::Receiver<Told> {
        mpsc::channel(1).1
    }

    fn watch_pages(&mut self, _: bool) {}

    fn live(&self) -> Arc<dyn Live> {
        Arc::new(self.all.clone())
    }

    fn tunnels(&self) -> Tunnels {
        Box::new(|_| async { Err(TunnelEnd::NotFound) }.boxed())
    }

    fn downloads(&self) -> Downloads {
        Downloads::new("/nowhere".into())
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        self.all.closed.fetch_add(1, Ordering::SeqCst);
        async {}.boxed()
    }
}

/// Shows a picture for every wish, and notes what persons do.
impl Live for Scripted {
    fn show(&self, mut ends: Ends) -> BoxFuture<'static, ()> {
        let inputs = Arc::clone(&self.inputs);
        async move {
            let mut number = ends.after;
            while let Some(asked) = ends.asked.next().await {
                match asked {
                    Asked::Wish(_) => {
                        number += 1;
                        let shown = Shown::Picture(picture(number));
                        if ends.shown.send(shown).await.is_err() {
                            return;
                        }
                    }
                    Asked::Taken(_) => {}
                    Asked::Input { input, .. } => {
                        inputs.lock().expect("no test panics with it").push(input);
                    }
                }
            }
        }
        .boxed()
    }
}

fn picture(number: u64) -> Picture {
    Picture {
        number,
        captured_at_us: 1,
        format: Format::Jpeg,
        width: 1280.0,
        height: 720.0,
        page_scale: 1.0,
        scroll_x: 0.0,
        scroll_y: 0.0,
        bytes: Bytes::from_static(b"\xff\xd8 a picture"),
    }
}
