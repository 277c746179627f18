//! One `execute` through each door, in turn with the same on a bare socket, so that what
//! else the machine does is the same for all.

use std::time::Instant;

use browserfleet_tests::api::Session;
use browserfleet_tests::grpc::{Client, connect, perform, script, value_of};
use browserfleet_tests::socket::Socket;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::tungstenite::Message;

use browserfleet_proto::browser::v1::{
    PerformStreamReply, PerformStreamRequest, perform_stream_reply, perform_stream_request,
};
use tonic::Streaming;

use super::{Times, bare, summary};

/// How often each is measured, after a tenth that is thrown away.
const ROUNDS: usize = 1_000;
const DOORS: [&str; 5] = [
    "bare socket",
    "REST",
    "/ws",
    "gRPC Perform",
    "gRPC PerformStream",
];
/// The most against the bare socket, from the budgets.
const BUDGETS: [&str; 5] = ["", "2.0x", "1.6x", "", ""];
const SCRIPT: &str = "1+1";

type Stream =
    tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

/// All doors, open.
struct Doors<'a> {
    session: &'a Session,
    bare: bare::Socket,
    socket: Stream,
    client: Client,
    say: mpsc::Sender<PerformStreamRequest>,
    hear: Streaming<PerformStreamReply>,
}

impl Doors<'_> {
    async fn of_bare(&mut self) -> Value {
        let parameters = json!({ "expression": SCRIPT, "returnByValue": true });
        let answer = self.bare.call("Runtime.evaluate", parameters).await;
        answer["result"]["value"].clone()
    }

    /// By hand: the tests' own client holds each answer against its document.
    async fn of_socket(&mut self) -> Value {
        let message = json!({
            "type": "execute",
            "id": "1",
            "session_id": self.session.id,
            "payload": { "expression": SCRIPT },
        });
        let sent = self.socket.send(Message::text(message.to_string()));
        sent.await.unwrap();
        loop {
            if let Message::Text(text) = self.socket.next().await.unwrap().unwrap() {
                let answer: Value = serde_json::from_str(&text).unwrap();
                return answer["payload"]["value"].clone();
            }
        }
    }

    async fn of_call(&mut self) -> Value {
        let request = perform(&self.session.id, script(SCRIPT));
        value_of(&self.client.perform(request).await.unwrap().into_inner())
    }

    async fn of_stream(&mut self) -> Value {
        let request = perform(&self.session.id, script(SCRIPT));
        let asked = PerformStreamRequest {
            id: "1".into(),
            body: Some(perform_stream_request::Body::Perform(request)),
        };
        self.say.send(asked).await.unwrap();
        let reply = self.hear.message().await.unwrap().unwrap();
        match reply.body.unwrap() {
            perform_stream_reply::Body::Done(reply) => value_of(&reply),
            perform_stream_reply::Body::Problem(problem) => panic!("{problem:?}"),
        }
    }

    async fn through(&mut self, door: usize) -> Value {
        match door {
            0 => self.of_bare().await,
            1 => self.session.value(SCRIPT).await,
            2 => self.of_socket().await,
            3 => self.of_call().await,
            _ => self.of_stream().await,
        }
    }
}

/// Measures all, and prints a table.
pub async fn measure(session: &Session) {
    let caller = &session.caller;
    let socket = Socket::open(caller).await.into_stream();
    let credential = Some(caller.token());
    let mut client = connect(caller.base(), credential).await.unwrap();
    let (say, said) = mpsc::channel(1);
    let hear = client.perform_stream(ReceiverStream::new(said)).await;
    let mut doors = Doors {
        session,
        bare: bare::Socket::start().await.unwrap(),
        socket,
        client,
        say,
        hear: hear.unwrap().into_inner(),
    };
    let mut samples = vec![Vec::new(); DOORS.len()];
    for round in 0..ROUNDS + ROUNDS / 10 {
        for (door, samples) in samples.iter_mut().enumerate() {
            let started = Instant::now();
            let value = doors.through(door).await;
            let took = started.elapsed().as_secs_f64() * 1e3;
            assert_eq!(value, 2, "{}", DOORS[door]);
            if round >= ROUNDS / 10 {
                samples.push(took);
            }
        }
    }
    let times: Vec<Times> = samples.into_iter().map(summary).collect();
    println!("| execute 1+1, ms | median | p99 | median / bare | p99 / p99 | budget |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for (door, it) in times.iter().enumerate() {
        println!(
            "| {} | {:.2} | {:.2} | {:.2}x | {:.2}x | {} |",
            DOORS[door],
            it.median,
            it.worst,
            it.median / times[0].median,
            it.worst / times[0].worst,
            BUDGETS[door],
        );
    }
}
