//! Browserfleet's control plane.

use std::path::Path;
use std::process::ExitCode;

use browserfleet_control_plane::app::{self, App, Signals};
use browserfleet_control_plane::config::Config;
use browserfleet_control_plane::telemetry;

#[tokio::main]
async fn main() -> ExitCode {
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(faults) => return faults.report(),
    };
    telemetry::start(&config.telemetry);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return report(Err(error.into())),
    };
    let started = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => App::start(config).await,
        ["administrator", email] => {
            return report(app::rescue_administrator(config, email).await);
        }
        ["authority", folder] => return report(app::make_authority(Path::new(folder))),
        _ => {
            eprintln!("usage: browserfleet [administrator EMAIL | authority FOLDER]");
            return ExitCode::from(2);
        }
    };
    match started {
        Ok(app) => app.run_until_signal(signals).await,
        Err(error) => report(Err(error)),
    }
}

fn report(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("browserfleet: {error:#}");
            ExitCode::FAILURE
        }
    }
}
