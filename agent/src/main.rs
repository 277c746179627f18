//! The agent's program.

use std::process::ExitCode;

use browserfleet_agent::config::Config;
use browserfleet_agent::host::isolation;
use browserfleet_agent::{app, telemetry};

// One thread for everything that the agent awaits: a command costs it some ten short polls
// and no computing, and waking a second worker for one of them takes longer than the poll.
// Measured: `execute` over REST 1.08 ms with one thread, 1.50 ms with one for each core.
// What does compute, decoding a large picture, goes to a thread of its own.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(isolation::REACH) {
        for reached in isolation::reached(&arguments.collect::<Vec<_>>()) {
            println!("{reached}");
        }
        return ExitCode::SUCCESS;
    }
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(faults) => return faults.report(),
    };
    telemetry::start(&config.log, config.log_json);
    app::run(config).await
}
