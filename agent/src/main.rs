//! The agent's program.

use std::process::ExitCode;

use browserfleet_agent::config::Config;
use browserfleet_agent::{app, telemetry};

#[tokio::main]
async fn main() -> ExitCode {
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(faults) => return faults.report(),
    };
    telemetry::start(&config.log, config.log_json);
    app::run(config).await
}
