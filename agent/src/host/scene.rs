//! A small HTTP server for tests: it stands for the metadata service and for SSM.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::tasks;

const TOKEN_PATH: &str = "/latest/api/token";

/// What is answered.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    body: String,
    never: bool,
}

impl Answer {
    pub fn ok(body: &str) -> Self {
        Self {
            status: 200,
            body: body.to_owned(),
            never: false,
        }
    }

    pub fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::ok("")
        }
    }

    pub fn error(status: u16, body: &str) -> Self {
        Self {
            status,
            ..Self::ok(body)
        }
    }

    pub fn never() -> Self {
        Self {
            never: true,
            ..Self::ok("")
        }
    }
}

#[derive(Debug, Default)]
struct State {
    answers: HashMap<String, Answer>,
    tokens: Vec<String>,
    tokens_given: usize,
    /// What SSM was asked: action and body.
    asked: Vec<(String, String)>,
}

/// The server.
#[derive(Debug, Clone)]
pub struct Scene {
    address: String,
    state: Arc<Mutex<State>>,
}

impl Scene {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scene = Self {
            address: listener.local_addr().unwrap().to_string(),
            state: Arc::default(),
        };
        let served = scene.clone();
        tasks::spawn("scene", async move {
            while let Ok((socket, _)) = listener.accept().await {
                tasks::spawn("scene's visitor", served.clone().serve(socket));
            }
        });
        scene
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Answers a path of the metadata service, or an action of SSM.
    pub fn set(&self, what: &str, answer: Answer) {
        self.state().answers.insert(what.to_owned(), answer);
    }

    /// Answers as it did at first.
    pub fn unset(&self, what: &str) {
        self.state().answers.remove(what);
    }

    pub fn forget_tokens(&self) {
        self.state().tokens.clear();
    }

    pub fn tokens_given(&self) -> usize {
        self.state().tokens_given
    }

    /// What SSM was asked so far.
    pub fn asked(&self) -> Vec<(String, String)> {
        self.state().asked.clone()
    }

    async fn serve(self, socket: TcpStream) {
        let mut socket = BufReader::new(socket);
        while let Some((answer, more)) = self.answer(&mut socket).await {
            if answer.never {
                return std::future::pending().await;
            }
            let text = format!(
                "HTTP/1.1 {} Said\r\n{more}content-length: {}\r\n\r\n{}",
                answer.status,
                answer.body.len(),
                answer.body
            );
            if socket.write_all(text.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    async fn answer(&self, socket: &mut BufReader<TcpStream>) -> Option<(Answer, &'static str)> {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if socket.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            if line.trim().is_empty() {
                break;
            }
            head.push(line.trim().to_owned());
        }
        let header = |name: &str| {
            head.iter().find_map(|it| {
                let (key, value) = it.split_once(": ")?;
                key.eq_ignore_ascii_case(name).then(|| value.to_owned())
            })
        };
        let length = header("content-length").and_then(|it| it.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        socket.read_exact(&mut body).await.ok()?;
        if let Some(target) = header("x-amz-target") {
            let action = target.trim_start_matches("AmazonSSM.").to_owned();
            assert!(header("authorization").is_some_and(|it| it.contains("AWS4-HMAC-SHA256")));
            let mut state = self.state();
            let body = String::from_utf8(body).unwrap();
            state.asked.push((action.clone(), body));
            let answer = state.answers.get(&action).cloned();
            return Some((
                answer.unwrap_or(Answer::status(500)),
                "content-type: application/x-amz-json-1.1\r\n",
            ));
        }
        let path = head.first()?.split(' ').nth(1)?.to_owned();
        Some(self.of_metadata(&path, header("x-aws-ec2-metadata-token")))
    }

    fn of_metadata(&self, path: &str, token: Option<String>) -> (Answer, &'static str) {
        let mut state = self.state();
        if let Some(answer) = state.answers.get(path).filter(|_| path == TOKEN_PATH) {
            return (answer.clone(), "");
        }
        if path == TOKEN_PATH {
            state.tokens_given += 1;
            let token = format!("token-{}", state.tokens_given);
            state.tokens.push(token.clone());
            let life = "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n";
            return (Answer::ok(&token), life);
        }
        if !token.is_some_and(|it| state.tokens.contains(&it)) {
            return (Answer::status(401), "");
        }
        let answer = state.answers.get(path).cloned();
        (answer.unwrap_or(Answer::status(404)), "")
    }
}
